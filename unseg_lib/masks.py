"""What the files of label maps and masks mean, and their names: one rule for every form in which people keep them."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.images import IGNORE, IMAGE_SUFFIXES, decoded, has_colours, opened
from unseg_lib.outlines import OUTLINES, read_outlines

# what tools write behind an image's name in the name of its mask
OF_MASK = re.compile(r"[-_. ](masks?|gt|labels?|seg|segmentation|matte|annotation)$")
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "HEIF")  # leave faint ripples around every edge of a mask
RIPPLE, TINT = 48, 32  # of colours in such files: below VOC's darkest ones, which have 64; a gray mask's differ less


def read_label(path: str | Path) -> np.ndarray:
    """Read a label map as uint8 `(H,W)`: palette indices as they are, of several channels the first."""
    with opened(path) as image:
        return _label_of(decoded(image), path)


def _label_of(image: Image.Image, path: str | Path) -> np.ndarray:
    if image.mode == "F":
        return _whole_numbers(image, path)
    label = np.asarray(image.convert("L") if image.mode == "1" else image)
    label = label if label.max(initial=0) > IGNORE else label.astype(np.uint8)  # 16 bits may hold more than any class
    return label if label.ndim == 2 else np.ascontiguousarray(label[..., 0])


def read_mask(path: str | Path, classes: Sequence[int | str] = (), size: tuple[int, int] | None = None) -> np.ndarray:
    """Which pixels a mask file means, bool `(H,W)`: as `read_objects` says, or these `classes` of a label map.

    size: (height, width) of the image, which files of outlines need; their classes are `outlines.read_outlines`'s.
    """
    if Path(path).suffix.lower() in OUTLINES:
        return read_outlines(path, size, list(map(str, classes)))
    if not classes:
        return read_objects(path) == 1
    if texts := [name for name in classes if isinstance(name, str)]:
        raise UnsegError(f"Expected the numbers of classes for the label map {path}, found '{texts[0]}'.")
    with _one_mask(path) as image:
        if image.mode != "P" and has_colours(colours := np.asarray(image.convert("RGB"))):
            found = ", ".join(map(str, np.unique(colours.reshape(-1, 3), axis=0)[:4].tolist()))
            raise UnsegError(
                f"Expected a label map, one number a pixel, in {path} for classes {','.join(map(str, classes))}, "
                f"found the colours {found}; save it with a palette or in gray, or leave the classes out."
            )
        return np.isin(_label_of(image, path), classes)


def read_objects(path: str | Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """What a mask file means, uint8 `(H,W)`: 1 = object, 0 = background, 255 = ignored; size: as of `read_mask`.

    Colours mark objects, black the background. Indices of a palette are a label map, unless its first colour is not
    black, or they stand for grays: such a file is read by its colours. One gray channel is read as `objects_of` says.
    Where a file is partly transparent, what is opaque is the object, unless that itself is black and white, which is
    refused, as are several pages. Numbers of 16 bits are a label map, or soft where they use all of them; floats from 0
    to 1 are probabilities.
    """
    if Path(path).suffix.lower() in OUTLINES:
        return read_outlines(path, size).astype(np.uint8)
    with _one_mask(path) as image:
        if image.mode.startswith(("I", "F")):
            numbers = _whole_numbers(image, path)
            if numbers.max(initial=0) <= IGNORE:
                return objects_of(numbers.astype(np.uint8))
            return (numbers > (0x7FFF if numbers.max() >= 0xF000 else 0)).astype(np.uint8)  # soft, or instances
        soft = image.format in LOSSY
        if image.mode in ("L", "1") and not image.has_transparency_data:
            return objects_of(np.asarray(image.convert("L")), soft=soft)
        opaque = np.asarray(image.convert("RGBA"))[..., 3] > 127 if image.has_transparency_data else np.True_
        numbers = _indices(image)
        # of a label map the background, and nothing else, may be transparent
        if numbers is not None and (opaque.all() or np.array_equal(opaque, numbers > 0)):
            return objects_of(numbers, indexed=True)
        colours = np.asarray(image.convert("RGB"))
        if not opaque.all():
            if set(np.unique(colours[opaque])) == {0, 255} and not has_colours(colours):
                found = "found both; save it as black and white without transparency."
                raise UnsegError(f"Expected either black or transparency as the background of {path}, {found}")
            return opaque.astype(np.uint8)
        if has_colours(colours):
            ripple = (RIPPLE if (np.ptp(colours, axis=2) > TINT).any() else 127) if soft else 0
            return (colours > ripple).any(axis=2).astype(np.uint8)
        return objects_of(colours[..., 0], soft=soft)


def _whole_numbers(image: Image.Image, path: str | Path) -> np.ndarray:
    """The numbers of a mask of more than 8 bits `(H,W)`; of floats from 0 to 1 those above a half are 1.

    -1 of signed ones becomes 255, ignored, as tools that train with -1 mean it.
    """
    numbers = np.asarray(image)
    least, most = numbers.min(), numbers.max()
    if numbers.dtype.kind != "f" and least >= -1:
        return numbers
    if least >= 0 and most <= 1:
        return (numbers > 0.5).astype(np.uint8)
    if least >= 0 and most <= IGNORE and (numbers == numbers.round()).all():
        return numbers.astype(np.uint8)
    found = "some that are none (NaN)" if np.isnan(least) else f"numbers from {least:g} to {most:g}"
    what = f"whole numbers from 0 to {IGNORE}, or shares from 0 to 1, in the mask {path}"
    raise UnsegError(f"Expected {what}, found {found}; save 255 for the object and 0 elsewhere.")


def _indices(image: Image.Image) -> np.ndarray | None:
    """The indices of a palette that are a label map: its first colour is black, and not all others are grays.

    Grays that are all different, some of them above 127, are what a gray mask becomes when it is saved with a palette.
    """
    palette = np.reshape(image.getpalette() or [0, 0, 0], (-1, 3)) if image.mode == "P" else np.ones((1, 3))
    if palette[0].any():
        return None
    numbers = np.asarray(image)
    used = np.unique(numbers)
    grays = palette[used[used < len(palette)]]
    ramp = len(grays) == len(used) == len(np.unique(grays)) and grays.max() > 127 and (grays == grays[:, :1]).all()
    return None if ramp else numbers


def objects_of(label: np.ndarray, *, indexed: bool = False, soft: bool = False) -> np.ndarray:
    """What the numbers of a mask, uint8 `(H,W)`, mean: 1 = object, 0 = background, 255 = ignored; the one rule.

    Only 0 and 255: 255 is object. A number from 128 to 254: soft edges, above 127 is object. Only smaller ones, or they
    and 255: a label map, 255 is ignored and the rest but 0 is object; beside 255 they must not be rare (a twentieth),
    else they are soft edges too. indexed: a palette's, which has no soft edges. soft: known to have them (JPEG).
    """
    counts = np.array(Image.fromarray(label).histogram())
    small, middle, full = counts[1:128].sum(), counts[128:IGNORE].sum(), counts[IGNORE]
    edges = not indexed and (middle or 20 * small < full)
    if (small or middle) and not (soft or edges):
        return np.where(label == IGNORE, IGNORE, label > 0).astype(np.uint8)
    return (label > (127 if label.max(initial=0) > 1 else 0)).astype(np.uint8)


@contextmanager
def _one_mask(path: str | Path) -> Iterator[Image.Image]:
    with opened(path, "mask") as image:
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # a telephone's MPO counts as its first
        if pages > 1:
            raise UnsegError(f"Expected one mask in {path}, found {pages} pages; save them as one.")
        yield decoded(image)


def mask_key(stem: str) -> str:
    """What counts of the name of a mask, without its last suffix, where none is called as the image is.

    "Cat_mask", "cat.png" and "CAT" are all "cat", which is also what an image called so gives.
    """
    found = unicodedata.normalize("NFC", stem).casefold()
    while found.endswith(IMAGE_SUFFIXES):
        found = found.rpartition(".")[0]
    return OF_MASK.sub("", found) or found
