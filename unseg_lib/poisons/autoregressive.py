"""AR: autoregressive patterns, one process per class and channel (Sandoval-Segura et al., NeurIPS 2022).

Written anew from the paper's description, with coefficients of our own (see `ar_search`): those published are only
stable on tiny images, and at 512 pixels put all their energy into one corner. Either they are stable at 512 pixels, as
`ar`'s, but then smooth, and weaker than published; or they keep the published criterion at its own 32 pixels, and
larger regions are tiles of that size, each with a start of its own: `ar_tiles`.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import as_strided

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.poisons.by_class import Box, class_noise, in_steps
from unseg_lib.poisons.settings import PoisonSettings, Sample
from unseg_lib.seeds import numpy_rng

RMS = 4.6  # over 255; the paper's L2 norms 1 at 32 pixels and 3 at 96 are both this
CROP = 4  # rows and columns of the random start that are cut off
TILE = 12  # side of what is computed at once; the fastest for 512 pixels
LARGEST = 512  # pixels; the coefficients are stable up to here, larger regions repeat the pattern
PUBLISHED = 32  # pixels along what the published processes fill
TABLE, TILES = (Path(__file__).with_name(f"ar_{name}.json") for name in ("coefficients", "tiles"))


def ar_noise(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """A process per class, started afresh in every image and region; rms 4.6. See `class_noise`."""

    def pattern(index: int, box: Box) -> np.ndarray:
        rng, shape = numpy_rng(settings.seed, "ar", index, image.id), [side.stop - side.start for side in box]
        drawn = process(coefficients(index), *np.minimum(shape, LARGEST), rng)
        return np.pad(drawn, [(0, wanted - there) for wanted, there in zip((3, *shape), drawn.shape)], "wrap")

    return class_noise(image, settings, RMS, pattern)


def ar_tiles_noise(image: Sample, settings: PoisonSettings) -> np.ndarray:
    """The same by the published criterion (see `ar_search`), in tiles of 32 pixels."""

    def pattern(index: int, box: Box) -> np.ndarray:
        rng, windows = numpy_rng(settings.seed, "ar_tiles", index, image.id), coefficients(index, TILES)
        height, width = (side.stop - side.start for side in box)
        rows, columns = (-(-side // PUBLISHED) for side in (height, width))
        tiles = [[process(windows, PUBLISHED, PUBLISHED, rng) for _ in range(columns)] for _ in range(rows)]
        return np.block(tiles)[:, :height, :width]

    return class_noise(image, settings, RMS, pattern)


ar, ar_tiles = in_steps(ar_noise), in_steps(ar_tiles_noise)


def process(windows: np.ndarray, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Channels `(C,height,width)` of a process with coefficients `(C,3,3)`, each from a start of N(0,1)."""
    start = np.zeros((len(windows), height + CROP, width + CROP))
    for channel in start:  # from its first two rows and columns everything else follows
        channel[:2] = rng.standard_normal((2, width + CROP))
        channel[2:, :2] = rng.standard_normal((height + CROP - 2, 2))
    return recursion(windows, start)[:, CROP:, CROP:]


def recursion(windows: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Replace every pixel, in reading order, by the sum of its 3x3 neighbourhood times its channel's window, whose
    last entry is 0; the first two rows and columns stay. windows `(C,3,3)`, start and result `(C,H,W)`.

    Exact, but not pixel by pixel: a tile is a linear map of the two rows above and the two columns to the left of it,
    the same map for every tile, and the tiles on one anti-diagonal do not need each other.
    """
    channels, height, width = start.shape
    rows, columns = -(-(height - 2) // TILE), -(-(width - 2) // TILE)
    field = np.zeros((channels, 2 + rows * TILE, 2 + columns * TILE))
    field[:, :height, :width] = start
    maps = np.stack([tile_map(window.tobytes()) for window in windows])
    plane, down, right = field.strides
    for diagonal in range(rows + columns - 1):
        first, last = max(0, diagonal - columns + 1), min(rows - 1, diagonal)
        corner = field[:, first * TILE :, (diagonal - first) * TILE :]
        shape = channels, last - first + 1, TILE + 2, TILE + 2
        tiles = as_strided(corner, shape, (plane, TILE * (down - right), down, right))
        above, left = (part.reshape(*shape[:2], -1) for part in (tiles[..., :2, :], tiles[..., 2:, :2]))
        tiles[..., 2:, 2:] = (np.concatenate([above, left], axis=2) @ maps).reshape(*shape[:2], TILE, TILE)
    return field[:, :height, :width]


@cache
def tile_map(window: bytes) -> np.ndarray:
    """What a tile is made of: `(inputs, TILE*TILE)`, the recursion run on every input by itself.

    The inputs are two rows of TILE + 2 values above, then TILE rows of two values to the left.
    """
    taps, inputs = np.frombuffer(window).reshape(3, 3), np.eye(2 * (TILE + 2) + 2 * TILE)
    field = np.zeros((TILE + 2, TILE + 2, len(inputs)))
    above, left = np.split(inputs, [2 * (TILE + 2)])
    field[:2], field[2:, :2] = above.reshape(2, TILE + 2, -1), left.reshape(TILE, 2, -1)
    for i in range(TILE):
        for j in range(TILE):
            field[i + 2, j + 2] = np.tensordot(taps, field[i : i + 3, j : j + 3])
    return field[2:, 2:].reshape(TILE * TILE, -1).T.copy()


@cache
def coefficients(index: int, table: Path = TABLE) -> np.ndarray:
    """The windows of a class: `(3,3,3)`, channel first, then row and column."""
    windows = read_json(table)["windows"]
    if index >= len(windows):
        raise UnsegError(
            f"Expected a class below {len(windows)}, for so many there are autoregressive processes, found {index}; "
            f"search for more with `python -m unseg_lib.poisons.ar_search {index + 1}`."
        )
    return np.pad(windows[index], ((0, 0), (0, 1))).reshape(3, 3, 3)
