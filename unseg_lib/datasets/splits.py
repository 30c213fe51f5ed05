"""Seeded splits and subsets of ids: they depend on the names alone, not on which images exist."""

import re
from collections.abc import Sequence

from unseg_lib.errors import UnsegError
from unseg_lib.seeds import numpy_rng

TEST_SHARE = 0.2  # of a set without official splits, as the paper cuts Lung
HOLDOUT_SHARE = 0.15  # of a train split, for tuning


def shuffled(ids: Sequence[str], *names: object) -> list[str]:
    """The ids in an order that depends on the names and on the set of ids, not on the order they come in."""
    ids = sorted(ids)
    return [ids[i] for i in numpy_rng(*names).permutation(len(ids))]


def cut(ids: Sequence[str], share: float, *names: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cut ids into (rest, share of them), both in the order they came in; each part gets at least one."""
    if len(ids) < 2:
        raise UnsegError(f"Expected at least two images to split, found {len(ids)}; complete the data set.")
    count = min(len(ids) - 1, max(1, round(share * len(ids))))
    taken = set(shuffled(ids, *names)[:count])
    return tuple(id for id in ids if id not in taken), tuple(id for id in ids if id in taken)


def cut_groups(ids: Sequence[str], share: float, *names: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """As `cut`, but the frames of a video (`name_00012`: the same name up to the number) stay together.

    A group that does not fit into the share any more stays in the rest. Where all ids are one group,
    the number says nothing about videos and the ids are cut one by one.
    """
    groups: dict[str, list[str]] = {}
    for id in ids:
        groups.setdefault(group_of(id), []).append(id)
    if len(groups) < 2:
        return cut(ids, share, *names)
    wanted, taken = max(1, round(share * len(ids))), set()
    for group in shuffled(list(groups), *names):
        if len(taken) + len(groups[group]) <= wanted:
            taken.update(groups[group])
    if not taken:
        taken.update(min(groups.values(), key=len))
    return tuple(id for id in ids if id not in taken), tuple(id for id in ids if id in taken)


def group_of(id: str) -> str:
    """The video of a frame: its name without the number at the end."""
    return re.sub(r"_\d+$", "", id)


def subset(ids: Sequence[str], limit: int, *names: object) -> tuple[str, ...]:
    """A seeded choice of `limit` ids, in their order; a smaller choice is part of a larger one."""
    if limit < 1:
        raise UnsegError(f"Expected a limit of at least 1, found {limit}; leave it out for all images.")
    kept = set(shuffled(ids, *names)[:limit])
    return tuple(id for id in ids if id in kept)
