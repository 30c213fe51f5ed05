"""AR: autoregressive patterns, one process per class and channel (Sandoval-Segura et al., NeurIPS 2022).

Written anew from the paper's description, with coefficients of our own (see `ar_search`): those published are
only stable on tiny pictures, and at 512 pixels put all their energy into one corner.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.poisons.class_noise import Box, add_steps, class_noise
from unseg_lib.poisons.settings import Picture, PoisonSettings
from unseg_lib.seeds import numpy_rng

RMS = 4.6  # over 255; the paper's L2 norms 1 at 32 pixels and 3 at 96 are both this
CROP = 4  # rows and columns of the random start that are cut off
LARGEST = 512  # pixels; the coefficients are stable up to here, larger regions repeat the pattern
TABLE = Path(__file__).with_name("ar_coefficients.json")


def ar(settings: PoisonSettings) -> Callable[[Picture], np.ndarray]:
    """A process per class, started afresh in every picture and region; rms 4.6."""
    return lambda picture: add_steps(picture, ar_noise(picture, settings))


def ar_noise(picture: Picture, settings: PoisonSettings) -> np.ndarray:
    """The noise before rounding and clipping, float32 `(H,W,3)` in steps over 255."""

    def pattern(index: int, box: Box) -> np.ndarray:
        rng = numpy_rng(settings.seed, "ar", index, picture.id)
        height, width = (side.stop - side.start for side in box)
        channels = [process(b, min(height, LARGEST), min(width, LARGEST), rng) for b in coefficients(index)]
        drawn = np.stack(channels)
        repeats = (0, max(0, height - LARGEST)), (0, max(0, width - LARGEST))
        return np.pad(drawn, ((0, 0), *repeats), "wrap") if np.any(repeats) else drawn

    return class_noise(picture, settings, RMS, pattern)


def process(window: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """One channel `(height,width)` of a process with coefficients `(3,3)`, from a start of N(0,1).

    Only the first two rows and columns of the start matter, everything else follows from them.
    """
    start = np.zeros((height + CROP, width + CROP))
    start[:2], start[2:, :2] = rng.standard_normal((2, width + CROP)), rng.standard_normal((height + CROP - 2, 2))
    return recursion(window, start)[CROP:, CROP:]


def recursion(window: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Replace every pixel, in reading order, by the sum of its 3x3 neighbourhood times `window`, whose last
    entry is 0; the first two rows and columns stay.

    Exact, a row at a time: what comes from the rows above is a sum of two correlations, what comes from the
    row itself a filter of second order. Its second value is shifted so that the filter starts from rest.
    """
    from scipy.signal import lfilter

    field, whole = start.copy(), np.ones(1)
    feedback = np.array([1, -window[2, 1], -window[2, 0]])
    field[2:, 1] -= window[2, 1] * field[2:, 0]
    rows = list(field)
    for far, near, row in zip(rows, rows[1:], rows[2:]):
        np.add(np.correlate(far, window[0], "valid"), np.correlate(near, window[1], "valid"), out=row[2:])
        row[:] = lfilter(whole, feedback, row)
    return field


def coefficients(index: int) -> np.ndarray:
    """The windows of a class: `(3,3,3)`, channel first, then row and column."""
    table = _table()
    if index >= len(table):
        raise UnsegError(
            f"Expected a class below {len(table)}, for so many there are autoregressive processes, found {index}; "
            "search for more with `python -m unseg_lib.poisons.ar_search`."
        )
    return table[index]


@cache
def _table() -> np.ndarray:
    taps = np.array(read_json(TABLE)["windows"])
    return np.concatenate([taps, np.zeros((*taps.shape[:2], 1))], axis=2).reshape(-1, 3, 3, 3)
