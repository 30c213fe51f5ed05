"""Photographs in and out: orientation, colour profile, transparency, palettes, gray, and what cannot be kept.

Only the pixels change. The colour profile is kept, because the numbers mean other colours without it; EXIF, which
may hold places and names, only on request.
"""

import io
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from unseg_lib.errors import UnsegError
from unseg_lib.images import IMAGE_SUFFIXES, PNG_LEVEL, check_depth, open_header

MOST_PIXELS = 100_000_000  # of one image; beyond, a small file may hide an image that fills the memory
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
ORIENTATION = 0x0112  # EXIF tag
OTHER_COLOURS = ("CMYK", "LAB", "YCbCr", "HSV")  # modes of Pillow that become RGB
# tags of TIFF that say more than how its pixels lie: description, maker, model, software, date, artist, copyright, and
# where EXIF and places begin
TIFF_METADATA = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825}


@dataclass(frozen=True)
class Photo:
    """pixels uint8 `(H,W,3)`, upright; gray: stored as one channel; alpha uint8 `(H,W)` or None; profile: ICC bytes;
    exif: EXIF bytes without the orientation; lost_exif: there was some that cannot be kept; remarks: what else the
    file had that cannot be kept.
    """

    pixels: np.ndarray
    gray: bool = False
    alpha: np.ndarray | None = None
    profile: bytes | None = None
    exif: bytes | None = None
    lost_exif: bool = False
    remarks: tuple[str, ...] = field(default=())


def read_photo(path: Path) -> Photo:
    """Read an image of 8 bits a channel, upright as its EXIF says; raises `UnsegError` on anything else."""
    if not path.is_file():
        raise UnsegError(f"Expected an image at {path}, found no such file.")
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise UnsegError(f"Expected {', '.join(IMAGE_SUFFIXES)}, found {path}; convert it first.")
    try:
        with opened(path) as file:
            _check_size(file, path)
            remarks = _remarks(file)
            file.load()
            # Pillow has the tags of a TIFF only as long as it is not turned, and they tell how the pixels lie, too
            lost_exif = file.format == "TIFF" and not TIFF_METADATA.isdisjoint(file.getexif())
            photo = _photo(ImageOps.exif_transpose(file), file.info.get("icc_profile"))
            return replace(photo, lost_exif=lost_exif, remarks=remarks)
    except UnsegError:
        raise
    except Exception as error:  # of broken files Pillow raises nearly anything, TypeErrors too
        what = " ".join(str(error).split())
        raise UnsegError(f"Expected a readable image in {path}, found a corrupt one ({what}); replace it.") from error


def opened(path: Path) -> Image.Image:
    """Read the header only; Pillow refuses the largest ones by itself."""
    try:
        return open_header(path)
    except Image.DecompressionBombError as error:
        raise UnsegError(
            f"Expected at most {MOST_PIXELS // 10**6} million pixels in {path}, found far more ({error})."
        ) from error


def _check_size(file: Image.Image, path: Path) -> None:
    """Before anything is decoded: images that are too small, too large, several in one, or of more than 8 bits."""
    if file.width * file.height > MOST_PIXELS:
        raise UnsegError(
            f"Expected at most {MOST_PIXELS // 10**6} million pixels in {path}, found {file.width}x{file.height}; "
            "shrink it."
        )
    if pages_of(file) > 1:
        raise UnsegError(f"Expected one image in {path}, found {pages_of(file)}; save them one by one.")
    check_depth(file, path)


def pages_of(file: Image.Image) -> int:
    """How many images a file holds; of a telephone's MPO only the first one counts."""
    return 1 if file.format == "MPO" else getattr(file, "n_frames", 1)


def _remarks(file: Image.Image) -> tuple[str, ...]:
    found = []
    if ";16" in str(file.tile):  # how the channels lie in the file
        found.append("16 bits a channel were reduced to 8")
    if file.mode in OTHER_COLOURS:
        found.append(f"{file.mode} was converted to RGB")
    if file.format == "MPO":  # JPEG of a telephone
        found.append(f"of {file.n_frames} images in the file only the first was kept")
    return tuple(found)


def _photo(file: Image.Image, profile: bytes | None) -> Photo:
    gray = file.mode in ("1", "L", "LA")
    alpha = np.asarray(file.convert("RGBA"))[..., 3] if file.has_transparency_data else None
    exif = file.getexif()
    exif.pop(ORIENTATION, None)
    return Photo(
        pixels=np.asarray(file.convert("RGB")),
        gray=gray,
        alpha=alpha,
        profile=None if file.mode in OTHER_COLOURS else profile,  # of the colours that were converted away
        exif=exif.tobytes() if len(exif) else None,
    )


def with_three_channels(photo: Photo) -> Photo:
    """The same image to be stored as RGB, so that it can hold noise of any colour."""
    if not photo.gray:
        return photo
    lost = ("its colour profile, one of gray, was dropped",) if photo.profile else ()
    return replace(photo, gray=False, profile=None, remarks=photo.remarks + lost)


def remarks_on(photo: Photo, format: str, *, metadata: bool = False) -> tuple[str, ...]:
    """What a copy in this format does not have of the original's file, a few words each."""
    found = [*photo.remarks]
    if format == "jpeg" and photo.alpha is not None and photo.alpha.min() < 255:
        found.append("transparency was dropped, which JPEG does not have")
    if metadata and photo.lost_exif:
        found.append("EXIF of a TIFF was not kept")
    return tuple(found)


def encode(photo: Photo, pixels: np.ndarray, format: str, *, quality: int = 95, metadata: bool = False) -> bytes:
    """A file of new pixels with all else of `photo`. png, tiff and webp are lossless; jpeg drops transparency."""
    layers = [pixels[..., :1] if photo.gray else pixels]
    if photo.alpha is not None and format != "jpeg":
        layers.append(photo.alpha[..., None])
    image = Image.fromarray(np.concatenate(layers, axis=2).squeeze(axis=2) if _single(layers) else _stacked(layers))
    options = {
        "png": {"compress_level": PNG_LEVEL},
        "jpeg": {"quality": quality, "subsampling": 0 if quality >= 90 else 2},
        "webp": {"lossless": True, "method": 2, "exact": True},
        "tiff": {"compression": "tiff_adobe_deflate"},
    }[format]
    if photo.profile:
        options["icc_profile"] = photo.profile
    if metadata and photo.exif:
        options["exif"] = photo.exif
    file = io.BytesIO()
    try:
        image.save(file, format, **options)
    except (OSError, ValueError, RuntimeError) as error:  # WebP takes at most 16383 pixels a side, TIFF no GPS places
        raise UnsegError(f"Could not write {format} ({error}); choose --format png.") from error
    return file.getvalue()


def _single(layers: list[np.ndarray]) -> bool:
    return len(layers) == 1 and layers[0].shape[2] == 1


def _stacked(layers: list[np.ndarray]) -> np.ndarray:
    return np.ascontiguousarray(np.concatenate(layers, axis=2))


def decoded(content: bytes) -> np.ndarray:
    """What a reader of the file will see: uint8 `(H,W,3)`."""
    with Image.open(io.BytesIO(content)) as file:
        return np.asarray(file.convert("RGB"))
