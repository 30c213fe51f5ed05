"""Raw noise on disk as int8, so that another budget or file format never runs the generator again.

One file per (generator, image, prompt): `(3,g,g)` values round(127 * noise), 192 KiB for g = 256.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from unseg_lib.files import whole_file
from unseg_lib.method import check_finite

LEVELS = 127  # a step of 1/127 is 0.06/255 at eps = 8, far below one 8-bit step


def cached_noise(folder: Path | None, generator: str, key: str, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Noise `(3,g,g)` in [-1,1] in steps of 1/127, from `folder` or computed and kept there.

    `generator` and `key` are hex digests. Without a folder the noise is rounded all the same, so on
    one device a cache never changes a byte of a poisoned image. Raises `UnsegError` where it is not finite.
    """
    path = Path(folder) / generator[:16] / f"{key[:32]}.npy" if folder else None
    steps = _load(path) if path else None
    if steps is None:
        noise = compute()
        check_finite(noise.float().cpu().numpy())
        steps = (noise * LEVELS).round().to(torch.int8).cpu().numpy()
        if path:
            with whole_file(path) as partial:
                np.save(partial, steps, allow_pickle=False)
    return torch.from_numpy(steps).float() / LEVELS


def _load(path: Path) -> np.ndarray | None:
    """The stored steps; None where there is no file, or one that is damaged and has to be made again."""
    try:
        steps = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = isinstance(steps, np.ndarray) and steps.dtype == np.int8 and steps.ndim == 3 and len(steps) == 3
    return steps if whole else None


def digest(*parts: np.ndarray | str | None) -> str:
    """SHA-256 of arrays (with their shapes and types) and words, as hex."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).tobytes())
        else:
            sha.update(repr(part).encode())
    return sha.hexdigest()
