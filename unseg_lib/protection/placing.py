"""Bring the generator's noise to an image of any size and add it, a strip of rows at a time."""

import numpy as np
import torch

from unseg_lib.method import add_noise, place_noise, strips


def add_raw_noise(
    pixels: np.ndarray, raw: torch.Tensor, mask: np.ndarray, eps: float, eps_bg: float, *, gray: bool = False
) -> np.ndarray:
    """The image uint8 `(H,W,3)` with raw noise `(3,g,g)` of its padded square, within its budget."""
    parts = strips(*mask.shape)
    if len(parts) == 1:
        return add_noise(pixels, place_noise(raw, *mask.shape), mask, eps, eps_bg, gray=gray)
    done = np.empty_like(pixels)
    for rows in parts:
        noise = place_rows(raw, *mask.shape, rows)
        done[rows] = add_noise(pixels[rows], noise, mask[rows], eps, eps_bg, gray=gray)
    return done


def place_rows(raw: torch.Tensor, height: int, width: int, rows: slice) -> np.ndarray:
    """Some rows of `place_noise(raw, height, width)`, float32 `(rows,width,3)`, without the others."""
    side, grid = max(height, width), raw.shape[1]
    across = _bilinear(np.arange(width), side, grid)
    down = _bilinear(np.arange(rows.start, rows.stop), side, grid)
    return np.einsum("yg,cgh,xh->yxc", down, raw.float().numpy(), across, optimize=True)


def _bilinear(places: np.ndarray, side: int, grid: int) -> np.ndarray:
    """What each place of a side takes from each cell of a grid, float32 `(places,grid)`; pixel centres, as torch."""
    source = np.maximum((places + 0.5) * (grid / side) - 0.5, 0)
    low = np.floor(source).astype(int)
    weights = np.zeros((len(places), grid), np.float32)
    rows = np.arange(len(places))
    weights[rows, low] = 1 - (source - low)
    np.add.at(weights, (rows, np.minimum(low + 1, grid - 1)), (source - low).astype(np.float32))
    return weights
