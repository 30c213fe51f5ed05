"""One mask file: which of its pixels are meant, upright as its EXIF says, because its image is read so."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unseg_lib.errors import UnsegError
from unseg_lib.images import check_depth, label_of
from unseg_lib.protection.photo import opened, pages_of

LOSSY = ("JPEG", "MPO", "WEBP")  # they leave faint ripples around every edge


def read_mask(path: Path, classes: Sequence[int] = ()) -> np.ndarray:
    """A mask as bool `(H,W)`: any colour but black, or with `classes` those numbers of a label map.

    Of an indexed file whose first colour is black, as label maps have it, any index but 0: other classes may be drawn
    in black, too. Raises `UnsegError` for what is no image, has 16 bits or transparency.
    """
    mask, format = _upright(path)
    if classes:
        return np.isin(label_of(mask), classes)
    if mask.has_transparency_data and np.asarray(mask.convert("RGBA"))[..., 3].min() < 255:
        raise UnsegError(f"Expected a mask without transparency in {path}, found some; save it as black and white.")
    indexed = mask.mode == "P" and mask.getpalette()[:3] == [0, 0, 0]
    plain = indexed or mask.mode in ("1", "L")
    values = np.asarray(mask) if plain else np.asarray(mask.convert("RGB")).max(axis=2)
    return values >= 128 if format in LOSSY else values > 0


def _upright(path: Path) -> tuple[Image.Image, str]:
    """The image, and in which format it was stored."""
    try:
        with opened(path) as file:
            file.load()
            mask, format, pages = ImageOps.exif_transpose(file), file.format, pages_of(file)
    except UnsegError:
        raise
    except Exception as error:  # of broken files Pillow raises nearly anything, TypeErrors too
        raise UnsegError(f"Expected a readable mask in {path}, found a corrupt one ({error}); replace it.") from error
    check_depth(mask, path)
    if pages > 1:
        raise UnsegError(f"Expected one mask in {path}, found {pages} pages; save them as one.")
    return mask, format
