"""What to protect: the region of an image that gets the full budget, from a mask, a box, points, or nothing.

The generator is always shown the region as a mask prompt, from which the shipped ones have learnt; so does the
released code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.images import resize_label

Box = Sequence[float]  # x0, y0, x1, y1 in pixels, corners included
SIDE = 320  # pixels; regions are looked for in an image shrunk to this
SMALLEST, LARGEST = 0.005, 0.9  # share of the image that a salient object, and all of them together, may have


@dataclass(frozen=True)
class Region:
    """mask bool `(H,W)`, True = protect; found_by: "mask", "box", "points", "salient objects" or "whole image"."""

    mask: np.ndarray
    found_by: str


def region_of(pixels: np.ndarray, mask: np.ndarray | None = None, box=None, points=None) -> Region:
    """The region that the given prompt means in an image uint8 `(H,W,3)`; without a prompt what stands out.

    mask: `(H,W)`, anything but 0 is protected. box: one box or several. points: `(k,2)` x, y.
    """
    kinds = {"mask": (checked_mask, mask), "box": (inside_boxes, box), "points": (around_points, points)}
    given = [kind for kind, (_, value) in kinds.items() if value is not None]
    if len(given) > 1:
        raise UnsegError(f"Expected one of mask, box and points, found {' and '.join(given)}; give one of them.")
    for kind in given:
        find, value = kinds[kind]
        return Region(find(pixels, value), kind)
    salient = salient_objects(pixels)
    return Region(salient, "salient objects") if salient.any() else Region(~salient, "whole image")


def checked_mask(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask as bool `(H,W)`, or a sentence where it does not fit the image."""
    mask, (height, width) = np.asarray(mask), pixels.shape[:2]
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise UnsegError(f"Expected a mask of numbers, (H,W), found {mask.dtype} of the shape {mask.shape}.")
    if mask.shape != (height, width):
        found = "{1}x{0}".format(*mask.shape)
        raise UnsegError(f"Expected a mask of {width}x{height} pixels, found {found}; draw it on the image itself.")
    return mask != 0


def inside_boxes(pixels: np.ndarray, box: Box | Sequence[Box]) -> np.ndarray:
    """All pixels of one box or several: what is near an object's edge is protected with it."""
    mask, (height, width) = np.zeros(pixels.shape[:2], bool), pixels.shape[:2]
    for x0, y0, x1, y1 in _numbers(box, 4, "boxes", "x0,y0,x1,y1"):
        if not (x0 <= x1 and y0 <= y1 and x1 >= 0 and y1 >= 0 and x0 < width and y0 < height):
            raise UnsegError(
                f"Expected a box x0,y0,x1,y1 with x0 <= x1 and y0 <= y1 that meets the image of "
                f"{width}x{height} pixels, found {x0:g},{y0:g},{x1:g},{y1:g}."
            )
        rows, columns = (slice(max(0, int(low)), int(np.ceil(high)) + 1) for low, high in ((y0, y1), (x0, x1)))
        mask[rows, columns] = True
    return mask


def around_points(pixels: np.ndarray, points: Sequence[Sequence[float]]) -> np.ndarray:
    """The parts of the image that hold a point: areas of like colour (Felzenszwalb and Huttenlocher 2004).

    Each point also brings a disc of a twentieth of the shorter side, so that a point on a thin part counts.
    """
    from skimage.segmentation import felzenszwalb

    height, width = pixels.shape[:2]
    given = _numbers(points, 2, "points", "x,y")
    for x, y in given:
        if not (0 <= x < width and 0 <= y < height):
            sentence = f"Expected points inside the image of {width}x{height} pixels, found {x:g},{y:g}; x comes first."
            raise UnsegError(sentence)
    # the areas of like colour, in a small image
    small = shrunk(pixels)
    parts = felzenszwalb(small, scale=200, sigma=0.8, min_size=small.shape[0] * small.shape[1] // 100)
    columns, rows = (given * parts.shape[::-1] / (width, height)).astype(int).T
    mask = resize_label(np.isin(parts, parts[rows, columns]), (height, width))
    # and the discs
    y, x = np.ogrid[:height, :width]
    for px, py in given:
        mask |= (x - px) ** 2 + (y - py) ** 2 <= (min(height, width) / 20) ** 2
    return mask


def salient_objects(pixels: np.ndarray) -> np.ndarray:
    """What stands out by its colour, bool `(H,W)`; nothing where the answer would be next to nothing or everything.

    Frequency-tuned saliency (Achanta et al., CVPR 2009): how far the smoothed image is in Lab from its mean colour,
    by Otsu's threshold. It knows colours, not objects.
    """
    from scipy.ndimage import binary_fill_holes, binary_opening
    from skimage.color import rgb2lab
    from skimage.filters import gaussian, threshold_otsu
    from skimage.measure import label, regionprops

    # how far each pixel's colour is from the mean
    lab = rgb2lab(shrunk(pixels))
    distance = np.linalg.norm(gaussian(lab, sigma=2, channel_axis=2) - lab.mean(axis=(0, 1)), axis=2)
    if distance.max() < 1:  # below what an eye can tell apart
        return np.zeros(pixels.shape[:2], bool)
    # what is far, without specks and holes
    candidates = label(binary_opening(distance > threshold_otsu(distance), iterations=2))
    mask = np.zeros(candidates.shape, bool)
    for part in regionprops(candidates):
        if part.area >= SMALLEST * mask.size:
            mask[part.slice] |= binary_fill_holes(part.image)
    return resize_label(mask & (mask.mean() <= LARGEST), pixels.shape[:2])


def shrunk(pixels: np.ndarray, longest: int = SIDE) -> np.ndarray:
    """The image uint8 `(H,W,3)` with its longer side at most `longest`."""
    ratio = min(1, longest / max(pixels.shape[:2]))
    size = tuple(max(1, round(side * ratio)) for side in pixels.shape[1::-1])
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2))


def _numbers(values: object, width: int, what: str, form: str) -> np.ndarray:
    """What a user gave as rows of so many numbers."""
    values = values.detach().cpu() if hasattr(values, "detach") else values
    try:
        found = np.asarray(values, float).reshape(-1, width)
        if found.size and np.isfinite(found).all():
            return found
    except (TypeError, ValueError):
        pass
    raise UnsegError(f"Expected {what} as {form}, found {values!r}.")
