"""The budget: how much a pixel may change, as a guarantee on the written 8-bit file.

Paper: delta = tanh(F T) * eps (Eq. 1); the released code uses eps inside the protected mask and eps/4 outside (§ 2.3),
and breaks both by JPEG and rounding (§ 5.4). Here noise is quantised before it is added.
"""

from functools import reduce

import numpy as np
import torch
from torch import Tensor

from unseg_lib.errors import UnsegError
from unseg_lib.method.generator import place_noise

Array = np.ndarray
STRIP = 1 << 22  # pixels of a large image that are worked on at once
LONG = 4096  # pixels; of an image with a longer side the noise is never made on the whole padded square
WINDOWS = 1 << 15  # windows of SSIM at once: what they need stays in the processor's cache


def budget_map(mask: Tensor, eps: float, eps_bg: float) -> Tensor:
    """Budget per pixel for images in [0,1]: mask bool `(...,H,W)` -> eps where it is True, else eps_bg; over 255."""
    return torch.where(mask, eps / 255, eps_bg / 255)


def check_finite(noise: Array) -> None:
    """Raise `UnsegError` on noise with NaN or infinities, of any shape, before it becomes whole numbers."""
    if not (finite := np.isfinite(noise)).all():
        wrong = noise.size - finite.sum()
        found = f"found {wrong} of {noise.size} values that are not; take another generator, or full precision."
        raise UnsegError(f"Expected finite noise, {found}")


def add_noise(image: Array, noise: Array, mask: Array, eps: float, eps_bg: float, *, gray: bool = False) -> Array:
    """Add noise to an 8-bit image so that no pixel of the result leaves its budget.

    image: uint8 `(H,W,3)`; noise: float `(H,W,3)` in [-1,1]; mask: bool `(H,W)`, True = protected. gray: the noise's
    mean over channels, for images with equal channels, which stay equal.
    Returns uint8 `(H,W,3)` with |result - image| <= floor(eps) inside and <= floor(eps_bg) outside.
    Raises `UnsegError` on noise that is not finite: NaN would be black in 8 bits, out of every budget.
    """
    import cv2

    check_finite(noise)
    noise = noise.mean(axis=2, keepdims=True) if gray else noise

    def steps(plane: Array, budget: float) -> Array:
        limit = float(np.floor(budget))  # steps are whole: a budget of 2.5 allows 2
        exact = np.frexp(budget)[0] in (0, 0.5)  # times a power of two single precision is as good as double
        found = plane * (np.float32 if exact else np.float64)(budget)
        return np.clip(np.rint(found, out=found), -limit, limit, out=found)

    # channel by channel, which stays in the processor's cache; both for every pixel, then what is inside
    planes = list(cv2.split(image))
    for channel, before in enumerate(planes):
        plane = noise[..., 0 if gray else channel]
        step = steps(plane, eps_bg)
        np.copyto(step, steps(plane, eps), where=mask, casting="same_kind")
        planes[channel] = np.clip(step + before, 0, 255, out=step).astype(np.uint8)
    return cv2.merge(planes)


def add_raw_noise(pixels: Array, raw: Tensor, mask: Array, eps: float, eps_bg: float, *, gray: bool = False) -> Array:
    """The image uint8 `(H,W,3)` with raw noise `(3,g,g)` of its padded square within its budget, in strips if large.

    The memory of a long thin image grows with its own area, not with its padded square's.
    """
    parts = strips(*mask.shape)
    if len(parts) == 1 and max(mask.shape) <= LONG:
        return add_noise(pixels, place_noise(raw, *mask.shape), mask, eps, eps_bg, gray=gray)
    done, across = np.empty_like(pixels), _upsampling(mask.shape, raw.shape[1], slice(mask.shape[1]))
    for rows in parts:
        # some rows of what `place_noise` gives, without the others
        down = _upsampling(mask.shape, raw.shape[1], rows)
        noise = np.einsum("yg,cgh,xh->yxc", down, raw.float().numpy(), across, optimize=True)
        done[rows] = add_noise(pixels[rows], noise, mask[rows], eps, eps_bg, gray=gray)
    return done


def _upsampling(shape: tuple[int, int], grid: int, places: slice) -> Array:
    """What some places of a padded square's side take from each cell of a grid: bilinear, float32 `(places,grid)`."""
    centres = (np.arange(places.start or 0, places.stop) + 0.5) * (grid / max(shape)) - 0.5
    distance = np.clip(centres, 0, grid - 1)[:, None] - np.arange(grid)
    return np.maximum(1 - np.abs(distance), 0).astype(np.float32)


def measure(original: Array, poisoned: Array, mask: Array) -> dict[str, float]:
    """What the noise did to an image: both uint8 `(H,W,3)`, mask bool `(H,W)`.

    Returns `linf_inside` and `linf_outside` (the largest change, whole steps over 255; 0 for an empty region), `rms`
    (over 255), `psnr` (dB; infinite for equal images) and `ssim` (nan where a side has fewer than 3 pixels).
    Large images are read in strips: the memory stays bounded.
    """
    import cv2

    inside, outside, squares = 0, 0, 0.0
    for rows in strips(*mask.shape):
        before, after = (np.ascontiguousarray(x[rows]) for x in (original, poisoned))
        size = reduce(np.maximum, cv2.split(cv2.absdiff(before, after)))
        inside = max(inside, int((size * mask[rows]).max(initial=0)))
        outside = max(outside, int((size * ~mask[rows]).max(initial=0)))
        squares += cv2.norm(before, after, cv2.NORM_L2SQR)
    rms = float(np.sqrt(squares / original.size))
    psnr = float(20 * np.log10(255 / rms)) if rms else float("inf")
    ssim = _ssim(original, poisoned)
    return {"linf_inside": inside, "linf_outside": outside, "rms": rms, "psnr": psnr, "ssim": ssim}


def strips(height: int, width: int, pixels: int | None = None) -> list[slice]:
    """Cut the rows of an image so that a strip has at most so many pixels (`STRIP`), or one row."""
    rows = max(1, (pixels or STRIP) // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def _ssim(original: Array, poisoned: Array) -> float:
    """SSIM over all windows that fit into the image, mean over channels, as scikit-image's with its defaults.

    Sums over windows are whole numbers, so that no digit is lost in the variances, which are differences of them.
    """
    import cv2

    side = min(7, *original.shape[:2])  # smaller for tiny images
    window = side - 1 + side % 2
    if window < 3:
        return float("nan")
    n, half, single = window**2, window // 2, np.float32
    c1, c2 = single((0.01 * 255 * n) ** 2), single((0.03 * 255) ** 2 * n * (n - 1))

    def sums(x: Array) -> Array:  # as wide as x: arithmetic on rows that lie in one piece takes half the time
        return cv2.boxFilter(x, cv2.CV_32S, (window, window), normalize=False)[half : len(x) - half]

    total, places = 0.0, original.shape[0] - window + 1  # rows of windows
    for rows in strips(places, original.shape[1], WINDOWS):
        a, b = (np.ascontiguousarray(x[rows.start : rows.stop + window - 1]) for x in (original, poisoned))
        of_a, of_b = sums(a), sums(b)
        a, b = a.astype(np.int32), b.astype(np.int32)
        means, product = of_a * of_a + of_b * of_b, 2 * of_a * of_b
        covariance, variances = 2 * n * sums(a * b) - product, n * sums(a * a + b * b) - means
        above = (product.astype(single) + c1) * (covariance.astype(single) + c2)
        above /= (means.astype(single) + c1) * (variances.astype(single) + c2)
        total += sum(cv2.sumElems(above[:, half : above.shape[1] - half]))
    return total / (places * (original.shape[1] - window + 1) * 3)
