"""Reading and writing images and label maps, with errors that name the file.

Images are uint8 RGB `(H,W,3)`, label maps uint8 `(H,W)` with 255 = ignore.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import numpy as np
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.files import whole_file

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
# zlib's level 2 writes noisy photographs a third faster than 4, within 8 % of its size and often smaller
PNG_LEVEL = 2


def _open(path: Path) -> Image.Image:
    path = Path(path)
    if not path.is_file():
        raise UnsegError(f"Expected an image at {path}, found no such file; check the data root.")
    with _readable(path):
        image = open_header(path)
        image.load()
    check_depth(image, path)
    return image


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """One sentence for whatever Pillow raises of a broken file: nearly anything, TypeErrors too."""
    try:
        yield
    except Exception as error:
        raise UnsegError(f"Expected a readable image in {path}, found a corrupt one ({error}); replace it.") from error


def open_header(path: str | Path) -> Image.Image:
    """An image of which only the header is read."""
    image = Image.open(path)
    # else Pillow 13 maps plain TIFFs into memory, and mixes up rows and columns of those that lie on their side
    image.filename = ""
    return image


def check_depth(image: Image.Image, path: Path) -> None:
    """Raise `UnsegError` where a channel has more than 8 bits."""
    if image.mode.startswith(("I", "F")):
        raise UnsegError(f"Expected 8 bits a channel in {path}, found mode {image.mode}; convert it to 8 bits first.")


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as uint8 RGB `(H,W,3)`; a gray file gives three equal channels."""
    return np.asarray(_open(path).convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width as the header says, without decoding the pixels."""
    with _readable(path), Image.open(path) as image:
        return image.height, image.width


def is_gray_file(path: str | Path) -> bool:
    """Whether the file stores one gray channel (not whether its colours happen to be gray)."""
    return _open(path).mode in ("L", "LA", "1")


def has_colours(pixels: np.ndarray) -> bool:
    """Whether the channels of an image `(H,W,3)` differ anywhere; of one in colour hardly more than a row is read."""
    return any((row != row[:, :1]).any() for row in pixels)


def read_label(path: str | Path) -> np.ndarray:
    """Read a label map as uint8 `(H,W)`: palette indices as they are, of several channels the first."""
    return label_of(_open(path))


def label_of(image: Image.Image) -> np.ndarray:
    """The label map that an open image holds, as `read_label` gives it."""
    label = np.asarray(image.convert("L") if image.mode == "1" else image)
    return label if label.ndim == 2 else np.ascontiguousarray(label[..., 0])


def write_image(path: str | Path, image: np.ndarray, *, gray: bool = False, quality: int = 95) -> None:
    """Write uint8 RGB `(H,W,3)`; the suffix chooses the format, `gray=True` stores one channel.

    PNG is lossless. JPEG uses `quality` with 4:2:0 chroma subsampling, as OpenCV's default does.
    """
    file = Image.fromarray(image[..., 0] if gray else image)
    options = {".jpg": {"quality": quality, "subsampling": 2}, ".png": {"compress_level": PNG_LEVEL}}
    with whole_file(path) as partial:
        file.save(partial, **options.get(Path(path).suffix.lower(), {}))


def find_image(folder: str | Path, stem: str) -> Path:
    """The image called `stem` in `folder`, whatever its suffix.

    A poisoned set keeps the stems of the original but writes PNG, so readers search by stem.
    """
    folder = Path(folder)
    for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):  # cameras write IMG.JPG
        path = folder / f"{stem}{suffix}"
        if path.exists():
            return path
    others = folder.glob(f"{escape(stem)}.*") if folder.is_dir() else ()  # of mixed case, such as IMG.Jpg
    for path in sorted(others):
        if path.stem == stem and path.suffix.lower() in IMAGE_SUFFIXES:
            return path
    raise UnsegError(f"Expected an image called {stem} in {folder}, found none; is the download complete?")
