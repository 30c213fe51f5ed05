"""Defences that change each image for itself, as it lies on the disk: the same in every epoch.

A maker takes the seed of the training and its options, which are its keyword-only arguments.
"""

import io
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from runpy import run_path
from types import SimpleNamespace

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from unseg_lib.defenses.defense import Defense, need
from unseg_lib.errors import UnsegError
from unseg_lib.images import as_pixels
from unseg_lib.seeds import numpy_rng


def by_pillow(change: Callable[[Image.Image], Image.Image]) -> Defense:
    """The defence that gives a training image through Pillow's operations."""
    return Defense(image=lambda pixels, id: np.array(change(Image.fromarray(pixels))))


def gaussian_blur(seed: int, *, sigma: float = 1.0) -> Defense:
    """Noise of single pixels goes first. sigma: in pixels of the file, cut at three (the paper gives none)."""
    from scipy.ndimage import gaussian_filter

    need("sigma", sigma, 0, 100)
    return Defense(image=lambda x, id: as_pixels(gaussian_filter(np.float32(x), (sigma, sigma, 0), truncate=3)))


def gaussian_noise(seed: int, *, sigma: float = 8.0) -> Defense:
    """Drawn once per image: drowns a weaker pattern. sigma: over 255."""
    need("sigma", sigma, 0, 255)

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return as_pixels(pixels + sigma * numpy_rng(seed, "gaussian_noise", id).standard_normal(pixels.shape))

    return Defense(image=image)


def median(seed: int, *, size: int = 3) -> Defense:
    """Removes what is thinner than half its window and keeps edges. size: of the window in pixels of the file, odd."""
    if size < 1 or size % 2 == 0:
        raise UnsegError(f"Expected an odd size of at least 1 for the defence median, found {size}.")
    return by_pillow(lambda image: image.filter(ImageFilter.MedianFilter(size)))


def jpeg(seed: int, *, quality: int = 10, subsampling: int = 420) -> Defense:
    """Rounds high frequencies away, colours first: the strongest defence in the paper's Table 4. By Pillow's encoder.

    quality: 10 is that of Image Shortcut Squeezing (Liu et al. 2023), the paper does not give its own.
    subsampling: 420 halves both sides of the colour planes, 422 one, 444 none.
    """
    need("quality", quality, 1, 100)
    if subsampling not in (420, 422, 444):
        raise UnsegError(f"Expected subsampling to be one of 420, 422, 444 for the defence jpeg, found {subsampling}.")

    def saved(image: Image.Image) -> Image.Image:
        image.save(file := io.BytesIO(), "JPEG", quality=quality, subsampling=":".join(str(subsampling)))
        return Image.open(file).convert("RGB")

    return by_pillow(saved)


def grayscale(seed: int) -> Defense:
    """Luma (ITU-R 601) in all three channels: noise that is only a colour has gone. The test stays in colour."""
    return by_pillow(lambda image: image.convert("L").convert("RGB"))


def bit_depth(seed: int, *, bits: int = 2) -> Defense:
    """Steps smaller than what is left vanish, but tip some pixels over an edge.

    bits: the highest so many of 8 stay; 2 as in APBench (Qin et al. 2023).
    """
    need("bits", bits, 1, 8)
    return by_pillow(lambda image: ImageOps.posterize(image, bits))


def down_up(seed: int, *, factor: float = 0.5) -> Defense:
    """What is finer than the shrunk image is lost. factor: its side over the file's; bilinear, down antialiased."""
    if not 0 < factor <= 1:
        raise UnsegError(f"Expected factor above 0 and at most 1 for the defence down_up, found {factor:g}.")

    def again(image: Image.Image) -> Image.Image:
        small = image.resize([max(1, round(factor * n)) for n in image.size], Image.Resampling.BILINEAR)
        return small.resize(image.size, Image.Resampling.BILINEAR)

    return by_pillow(again)


def wiener(seed: int, *, size: int = 5) -> Defense:
    """Wiener's filter: smooths where an image varies no more than its noise. size: of the window in pixels, odd."""
    from scipy.signal import wiener as filtered

    if size < 3 or size % 2 == 0:
        raise UnsegError(f"Expected an odd size of at least 3 for the defence wiener, found {size}.")

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        border = size // 2  # scipy pads with black
        padded = np.pad(pixels.astype(np.float64), ((border, border), (border, border), (0, 0)), mode="symmetric")
        with np.errstate(divide="ignore", invalid="ignore"):  # a window of one value has no variance to divide by
            smooth = np.stack([filtered(plane, size) for plane in np.moveaxis(padded, -1, 0)], axis=-1)
        smooth = smooth[border:-border, border:-border]
        return as_pixels(np.where(np.isfinite(smooth), smooth, pixels))

    return Defense(image=image)


def median_cut(seed: int, *, colours: int = 32) -> Defense:
    """Each image with its own palette of so many colours, by median cut, as GIFs have it."""
    need("colours", colours, 2, 256)
    cut = Image.Quantize.MEDIANCUT
    return by_pillow(lambda image: image.quantize(colours, cut, dither=Image.Dither.NONE).convert("RGB"))


def elastic(seed: int, *, alpha: float = 2.0, sigma: float = 4.0) -> Defense:
    """Elastic distortion (Simard et al., ICDAR 2003): neighbours move together, unlike in `coin`.

    alpha: largest shift along each axis; sigma: how far neighbours go together; both in pixels of the file.
    """
    from scipy.ndimage import gaussian_filter

    need("alpha", alpha, 0, 100)
    need("sigma", sigma, 0.1, 100)

    def field(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        smooth = [gaussian_filter(rng.uniform(-1, 1, shape), sigma, mode="mirror") for _ in range(2)]
        return alpha * np.stack([one / max(abs(one).max(), 1e-9) for one in smooth])

    return Defense(image=lambda pixels, id: fetched(pixels, field(numpy_rng(seed, "elastic", id), pixels.shape[:2])))


def coin(seed: int, *, alpha: float = 2.0) -> Defense:
    """COIN (Li et al., AAAI 2025): every pixel is fetched from a random place nearby. Made against CUDA's blur.

    alpha: largest shift along each axis, in pixels of the file; the published ladder is 0.8 to 3.2, 2.0 its fourth.
    Drawn once per image. Unlike published, it reflects at the border. Labels stay where they are, so up to alpha
    pixels at an object's edge are mixed.
    """
    need("alpha", alpha, 0, 100)

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return fetched(pixels, numpy_rng(seed, "coin", id).uniform(-alpha, alpha, (2, *pixels.shape[:2])))

    return Defense(image=image)


def fetched(pixels: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Every pixel of uint8 `(H,W,3)` from another place, `(2,H,W)` pixels down and right; reflected at the border."""
    from scipy.ndimage import map_coordinates

    place, planes = np.indices(shift.shape[1:]) + shift, np.moveaxis(pixels.astype(np.float32), -1, 0)
    return as_pixels(np.stack([map_coordinates(plane, place, order=1, mode="mirror") for plane in planes], axis=-1))


def total_variation(pixels: np.ndarray) -> np.ndarray:
    """A purifier for `purify`: uint8 `(H,W,3)` smoothed to little total variation (scikit-image, weight 0.1)."""
    from skimage.restoration import denoise_tv_chambolle

    return as_pixels(255 * denoise_tv_chambolle(pixels, weight=0.1, channel_axis=-1))


def purify(seed: int, *, module: str = "", function: str = "") -> Defense:
    """Your own purifier: a function from pixels, uint8 `(H,W,3)`, to as many pixels, such as `total_variation`.

    Either `purify` in the Python file `module`, or an installed `function`, named as "package.module:name".
    """
    if bool(module) == bool(function):
        wanted, found = "module=path/to/file.py and function=package.module:name", "both" if module else "none"
        raise UnsegError(f"Expected one of {wanted} for the defence purify, found {found}.")
    place, _, name = (module, "", "purify") if module else function.partition(":")
    if not place or not name:
        raise UnsegError(f"Expected function=package.module:name for the defence purify, found '{function}'.")
    if module and not Path(module).is_file():
        raise UnsegError(f"Expected a Python file with a function purify(pixels) at {place}, found no such file.")
    try:
        there = SimpleNamespace(**run_path(module)) if module else import_module(place)
    except Exception as error:  # whatever a user's file or a package raises
        failed, mend = ("load", "mend it") if module else ("import", "install or mend it")
        raise UnsegError(f"Could not {failed} {place} ({type(error).__name__}: {error}); {mend}.") from error
    if not callable(call := getattr(there, name, None)):
        raise UnsegError(f"Expected a function {name}(pixels) in {place}, found none.")
    return Defense(image=lambda pixels, id: call(pixels.copy()))
