"""The search for autoregressive processes that stay alive at 512 pixels and differ from class to class.

`python -m unseg_lib.poisons.ar_search` writes `ar_coefficients.json` anew: the same file, some minutes later. With a
number behind it there are so many classes; the first stay what they are.
"""

import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np

from unseg_lib.files import write_bytes
from unseg_lib.poisons.autoregressive import LARGEST, TABLE, process
from unseg_lib.runtime import progress
from unseg_lib.seeds import numpy_rng

SEED, CLASSES = 0, 150  # as many as ADE20K has
DECIMALS = 4
SIDES, STARTS = (36, 128, 256, LARGEST), 3  # images that a process must survive, and how often
WEAKEST, STRONGEST = 0.03, 3.0  # rms of a process that neither dies nor grows; it starts at 1
UNEVEN = 3.0  # largest ratio of energies of two opposite quarters or halves of an image
RESPONSE = 0.05  # least rms that a class's filter leaves of another class's noise of rms 1


def search(classes: int = CLASSES) -> list[list[list[float]]]:
    """For every class and channel the first eight coefficients of a 3x3 window; the ninth is 0."""
    found = [islice(_processes(numpy_rng(SEED, "ar_search", channel)), classes) for channel in range(3)]
    return [list(channels) for channels in progress(zip(*found), "autoregressive processes", classes)]


def _processes(rng: np.random.Generator) -> Iterator[list[float]]:
    """One stable process after another, each unlike all before it."""
    windows, views = [], []
    while True:
        # eight normal numbers over their sum, rounded so that they still sum to 1
        taps = rng.standard_normal(8)
        taps = np.round(taps / taps.sum(), DECIMALS)
        taps[0] = np.round(1 - taps[1:].sum(), DECIMALS)
        window = np.append(taps, 0.0).reshape(3, 3)
        if not _stable(window, rng):
            continue
        view = neighbourhoods(process(window[None], 64, 64, rng)[0])
        if all(min(response(window, v), response(w, view)) >= RESPONSE for w, v in zip(windows, views)):
            windows.append(window)
            views.append(view)
            yield taps.tolist()


def _stable(window: np.ndarray, rng: np.random.Generator) -> bool:
    """Whether the process is finite, of moderate strength, and everywhere about equally strong."""
    with np.errstate(over="ignore", invalid="ignore"):
        return all(_even(process(window[None], side, side, rng)[0]) for side in SIDES for _ in range(STARTS))


def _even(field: np.ndarray) -> bool:
    energy, half = np.square(field), len(field) // 2
    quarters = energy.reshape(2, half, 2, half).mean(axis=(1, 3))
    opposite = np.stack([quarters.diagonal(), quarters.sum(axis=0), quarters.sum(axis=1)])
    even = opposite.max(axis=1) <= UNEVEN * opposite.min(axis=1)
    return bool(even.all()) and WEAKEST**2 <= energy.mean() <= STRONGEST**2  # False for what is not finite


def neighbourhoods(field: np.ndarray) -> np.ndarray:
    """All 3x3 neighbourhoods `(n,9)` of a field, brought to rms 1."""
    views = np.lib.stride_tricks.sliding_window_view(field, (3, 3)).reshape(-1, 9)
    return views / np.sqrt(np.square(field).mean())


def response(window: np.ndarray, views: np.ndarray) -> float:
    """What the filter that predicts a process leaves of some noise, as rms: 0 for the process's own."""
    return float(np.sqrt(np.square(views @ np.append(window.ravel()[:8], -1)).mean()))


if __name__ == "__main__":
    lines = ",\n".join(f"  {windows}" for windows in search(*map(int, sys.argv[1:])))
    write_bytes(TABLE, f'{{\n "seed": {SEED},\n "windows": [\n{lines}\n ]\n}}\n'.encode())
