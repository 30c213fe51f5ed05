"""Reading and writing images and label maps, with errors that name the file.

Images are uint8 RGB `(H,W,3)`, label maps uint8 `(H,W)` with 255 = ignore.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes

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


LOSSY = ("JPEG", "MPO", "WEBP")  # they leave faint ripples around every edge


def read_mask(path: str | Path, classes: Sequence[int] = ()) -> np.ndarray:
    """A mask file as bool `(H,W)`, upright as its EXIF says: what is not background, or with `classes` those numbers.

    A palette that begins with black is a label map (0 background, 255 ignored), as is a gray file of small numbers
    with or without 255; of another gray file, values above 127 are the object; of colours all but black.
    Raises `UnsegError` for what is no image, has several pages, 16 bits or transparency, and for classes of colours.
    """
    path = Path(path)
    with _readable(path), open_header(path) as file:
        file.load()
        pages = 1 if file.format == "MPO" else getattr(file, "n_frames", 1)
        mask, lossy = ImageOps.exif_transpose(file), file.format in LOSSY
    check_depth(mask, path)
    if pages > 1:
        raise UnsegError(f"Expected one mask in {path}, found {pages} pages; save them as one.")
    if not classes and mask.has_transparency_data and np.asarray(mask.convert("RGBA"))[..., 3].min() < 255:
        raise UnsegError(f"Expected a mask without transparency in {path}, found some; save it as black and white.")
    label_map = mask.mode == "P" and (mask.getpalette()[:3] == [0, 0, 0] or bool(classes))
    values = np.asarray(mask) if label_map else np.asarray(mask.convert("RGB"))
    if values.ndim == 3:
        if has_colours(values):
            if classes:
                raise UnsegError(f"Expected a label map in {path} for classes, found colours; save numbers of classes.")
            return values.max(axis=2) > 127 if lossy else values.any(axis=2)
        values = values[..., 0]
    if classes:
        return np.isin(values, classes)
    found = set(np.unique(values).tolist())
    if label_map or (max(found) == 255 and found - {0, 255} and not lossy and max(found - {255}) <= 127):
        return (values > 0) & (values < 255)
    return values > 127 if lossy or max(found) > 127 else values > 0


def encode_image(image: np.ndarray, suffix: str, *, gray: bool = False, quality: int = 95) -> bytes:
    """The file of uint8 RGB `(H,W,3)`; the suffix chooses the format, `gray=True` stores one channel.

    PNG is lossless. JPEG uses `quality` with 4:2:0 chroma subsampling, as OpenCV's default does.
    """
    suffix, file = suffix.lower(), io.BytesIO()
    options = {".jpg": {"quality": quality, "subsampling": 2}, ".png": {"compress_level": PNG_LEVEL}}
    format = Image.registered_extensions()[suffix]
    Image.fromarray(image[..., 0] if gray else image).save(file, format, **options.get(suffix, {}))
    return file.getvalue()


def decode_image(content: bytes) -> np.ndarray:
    """What a reader of a file with this content sees: uint8 RGB `(H,W,3)`."""
    with Image.open(io.BytesIO(content)) as file:
        return np.asarray(file.convert("RGB"))


def write_image(path: str | Path, image: np.ndarray, *, gray: bool = False, quality: int = 95) -> None:
    """Write uint8 RGB `(H,W,3)` as `encode_image` says."""
    write_bytes(path, encode_image(image, Path(path).suffix, gray=gray, quality=quality))


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
