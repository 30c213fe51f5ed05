"""Poisons that learn from the whole set before they touch an image (`FITTED`), and where they keep it."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from unseg_lib.files import whole_file
from unseg_lib.poisons import FITTED
from unseg_lib.poisons.settings import PoisonSettings, Sample


def with_fit(poison: str, images: Iterable[Sample], settings: PoisonSettings, path: Path) -> PoisonSettings:
    """Settings with what `poison` has learnt from the images, kept in `path` (.npz), whole or absent.

    A poison that learns nothing gets its settings back. What is there already is not learnt again, also
    if another shard has just finished it: all shards then use the same.
    """
    if poison not in FITTED:
        return settings
    if not path.exists():
        arrays = FITTED[poison](images, settings)
        if not path.exists():
            with whole_file(path) as partial:
                np.savez(partial, allow_pickle=False, **arrays)
    return replace(settings, fitted=path)
