"""The search for autoregressive processes that differ from class to class: alive at 512 pixels, or as published at 32.

`python -m unseg_lib.poisons.ar_search` writes `ar_coefficients.json` anew: the same file, some minutes later. With a
number behind it there are so many classes; the first stay what they are. With `tiles` behind it, `ar_tiles.json`, by
the criterion of Sandoval-Segura et al.: `published_response` of at least 10 among ten classes, at least 3 among more.
"""

import sys
from collections.abc import Iterator
from itertools import islice

import numpy as np

from unseg_lib.files import write_bytes
from unseg_lib.poisons.autoregressive import LARGEST, PUBLISHED, TABLE, TILES, process
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


def _drawn(rng: np.random.Generator, count: int) -> np.ndarray:
    """Windows `(count,3,3)` of eight normal numbers over their sum, rounded so that they still sum to 1, and a 0."""
    taps = rng.standard_normal((count, 8))
    taps = np.round(taps / taps.sum(axis=1, keepdims=True), DECIMALS)
    taps[:, 0] = np.round(1 - taps[:, 1:].sum(axis=1), DECIMALS)
    return np.pad(taps, ((0, 0), (0, 1))).reshape(-1, 3, 3)


def _processes(rng: np.random.Generator) -> Iterator[list[float]]:
    """One stable process after another, each unlike all before it."""
    windows, views = [], []
    while True:
        (window,) = _drawn(rng, 1)
        if not _stable(window, rng):
            continue
        view = neighbourhoods(process(window[None], 64, 64, rng)[0])
        if all(min(response(window, v), response(w, view)) >= RESPONSE for w, v in zip(windows, views)):
            windows.append(window)
            views.append(view)
            yield window.ravel()[:8].tolist()


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
    return np.lib.stride_tricks.sliding_window_view(field, (3, 3)).reshape(-1, 9) / np.sqrt(np.square(field).mean())


def response(window: np.ndarray, views: np.ndarray) -> float:
    """What the filter that predicts a process leaves of some noise, as rms: 0 for the process's own."""
    return float(np.sqrt(np.square(views @ np.append(window.ravel()[:8], -1)).mean()))


ENOUGH, FEW, ENOUGH_FOR_MANY = 10.0, 10, 3.0  # responses that are published for so few classes, and for a hundred
DRAWN, LOUDEST = 8000, 80  # windows that are tried, and how many of the living ones serve the first few classes


def search_tiles(classes: int = CLASSES) -> list[list[list[float]]]:
    """As `search`, by the published criterion: all pairs of classes, each in the noise of the other."""
    rng, found = numpy_rng(SEED, "ar_search", "tiles"), []
    windows = _drawn(rng, DRAWN)
    with np.errstate(over="ignore", invalid="ignore"):
        fields = [[process(one[None], PUBLISHED, PUBLISHED, rng)[0] for _ in range(STARTS)] for one in windows]
        strength = np.sqrt(np.square(fields).mean(axis=(2, 3)))
    alive = np.isfinite(strength).all(1) & (strength.max(1) <= 1) & (strength.min(1) >= WEAKEST)  # they start at 1
    windows, views = windows[alive], [neighbourhoods(one[0]) for one, lives in zip(fields, alive) if lives]
    # what answers others loudly, and is answered loudly, first
    loud = np.array([[response(window, view) for window in windows[:200]] for view in views]).mean(axis=1)
    loud = np.minimum(loud, [np.mean([response(window, view) for view in views[:200]]) for window in windows])
    order = np.argsort(-loud)
    for number in progress(range(classes), "autoregressive processes in tiles"):
        least, some = (ENOUGH, order[:LOUDEST]) if number < FEW else (ENOUGH_FOR_MANY, order)
        while len(found) == number:
            one = rng.choice(some, 3, replace=False)
            mine = windows[one], [views[i] for i in one]
            pairs = ((mine, (windows[other], [views[i] for i in other])) for other in found)
            if all(min(published_response(a[0], b[1]), published_response(b[0], a[1])) >= least for a, b in pairs):
                found.append(one)
    return [windows[one].reshape(3, 9)[:, :8].tolist() for one in found]


def published_response(windows: np.ndarray, views: list[np.ndarray]) -> float:
    """What three channels' filters leave of a noise of 32 pixels and L2 norm 1, in all: the sum of what is above 0."""
    left = sum(view @ np.append(window.ravel()[:8], -1) for window, view in zip(windows, views))
    return float(np.maximum(left, 0).sum() / np.sqrt(3 * PUBLISHED**2))


if __name__ == "__main__":
    tiles = sys.argv[1:2] == ["tiles"]
    found = search_tiles() if tiles else search(*map(int, sys.argv[1:]))
    lines = ",\n".join(f"  {windows}" for windows in found)
    write_bytes(TILES if tiles else TABLE, f'{{\n "seed": {SEED},\n "windows": [\n{lines}\n ]\n}}\n'.encode())
