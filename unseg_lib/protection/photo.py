"""Images in and out, from files and from Python: orientation, colour profile, transparency, palettes, gray.

Only the pixels change. Of a file the colour profile is kept, EXIF, which may hold places and names, only on request.
What cannot be kept, or is known not to protect, is remarked.
"""

import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from unseg_lib.errors import UnsegError
from unseg_lib.images import eight_bits, has_colours, opened, png_of

SHORTEST = 16  # pixels; below, an image is smaller than the noise's own grain
FORMATS = {".png": "png", ".webp": "webp", ".tif": "tiff", ".tiff": "tiff"}
FORMATS |= dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "jpeg")
# raw files of cameras: many are TIFFs that begin with a small preview
RAW = (".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2")
OTHER_COLOURS = ("CMYK", "LAB", "YCbCr", "HSV")  # modes of Pillow that become RGB
# tags of TIFF that say more than how its pixels lie: description, maker, model, software, date, artist, copyright, and
# where EXIF and places begin
TIFF_METADATA = {0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298, 0x8769, 0x8825}
# Measured on chest X-rays: of a gray file with a generator's noise a victim learns as of a clean one; of a gray image
# stored in colours one from random weights does, if the generator is UNFIT (profiles small, random-start: Lung).
UNFIT = "small"
ONE_CHANNEL = "one channel keeps only the gray part of the noise"
NO_COLOURS = "an image without colours, for which generator colour is better"


@dataclass(frozen=True)
class Photo:
    """An image and what else of its file a copy keeps, or cannot keep."""

    pixels: np.ndarray  # uint8 (H,W,3), upright
    gray: bool = False  # stored as one channel
    alpha: np.ndarray | None = None  # uint8 (H,W)
    profile: bytes | None = None  # ICC's
    exif: bytes | None = None  # without the orientation
    lost_exif: str = ""  # why there is some that cannot be kept
    remarks: tuple[str, ...] = ()  # what else cannot be kept

    def with_three_channels(self) -> "Photo":
        """The same image to be stored as RGB, so that it can hold noise of any colour."""
        if not self.gray:
            return self
        lost = ("its colour profile, one of gray, was dropped",) if self.profile else ()
        return replace(self, gray=False, profile=None, remarks=self.remarks + lost)

    def remarks_on(self, format: str, *, metadata: bool = False) -> tuple[str, ...]:
        """What a copy in this format does not have of the original's file, a few words each."""
        found = self.remarks
        if format == "jpeg" and self.alpha is not None and self.alpha.min() < 255:
            found += ("transparency was dropped, which JPEG does not have",)
        return found + ((self.lost_exif,) if metadata and self.lost_exif else ())

    def encode(self, pixels: np.ndarray, format: str, *, quality: int = 95, metadata: bool = False) -> bytes:
        """A file of new pixels with all else of this one. png, tiff and webp are lossless; jpeg drops transparency."""
        layers = pixels[..., 0] if self.gray else pixels
        if self.alpha is not None and format != "jpeg":
            layers = np.dstack([layers, self.alpha])
        if format == "png":
            return png_of(layers, self.profile, self.exif if metadata else None)
        options = {
            "jpeg": {"quality": quality, "subsampling": 0 if quality >= 90 else 2},
            "webp": {"lossless": True, "method": 2, "exact": True},
            "tiff": {"compression": "tiff_adobe_deflate"},
        }[format]
        options |= {"icc_profile": self.profile} if self.profile else {}
        options |= {"exif": self.exif} if metadata and self.exif else {}
        file = io.BytesIO()
        try:
            Image.fromarray(layers).save(file, format, **options)
        except (OSError, ValueError, RuntimeError) as error:  # WebP takes at most 16383 pixels a side, TIFF no places
            raise UnsegError(f"Could not write {format} ({error}); choose --format png.") from error
        return file.getvalue()


def read_photo(path: Path) -> Photo:
    """Read an image, upright as its EXIF says and with 8 bits a channel; raises `UnsegError` on anything else."""
    if path.suffix.lower() in RAW:
        raise UnsegError(f"Expected an image, found a raw file of a camera, {path}; develop it first.")
    with opened(path) as file:
        # before anything is decoded: several images in one
        telephone, pages = file.format in ("MPO", "HEIF"), getattr(file, "n_frames", 1)
        if pages > 1 and not telephone:
            raise UnsegError(f"Expected one image in {path}, found {pages}; save them one by one.")
        remarks = {
            f"{file.mode} was converted to RGB": file.mode in OTHER_COLOURS,
            f"of {pages} images in the file only the main one was kept": telephone and pages > 1,
        }
        deep = 16 if ";16" in str(file.tile) else file.info.get("bit_depth", 8)  # how the channels lie in the file
        file.load()
        exif, lost_exif = None, ""
        try:
            # Pillow has the tags of a TIFF only as long as it is not turned, and they tell how the pixels lie, too
            if file.format == "TIFF" and not TIFF_METADATA.isdisjoint(file.getexif()):
                lost_exif = "EXIF of a TIFF was not kept"
            ImageOps.exif_transpose(file, in_place=True)
            if file.format != "TIFF":
                Image.Exif().load(file.info.get("exif", b""))  # opening a JPEG, Pillow has passed over any damage
                file.getexif().pop(ExifTags.Base.Orientation, None)
                exif = file.getexif().tobytes() if len(file.getexif()) else None
        except Exception:  # nearly anything, of damaged EXIF, as of which an image is upright
            lost_exif = "damaged EXIF was not kept"
        upright, reduced = eight_bits(file, path)
        # a transparent colour of 16 bits; Pillow has reduced the pixels of three channels, not that
        key = file.info.get("transparency")
        if deep > 8 and isinstance(key, tuple):
            file.info["transparency"] = tuple(value >> 8 for value in key)
        elif upright is not file and key is not None:
            upright.putalpha(Image.fromarray(np.asarray(file) != key))
        remarks |= {reduced or f"{deep} bits a channel were reduced to 8": deep > 8}
        return Photo(
            pixels=np.asarray(upright if upright.mode == "RGB" else upright.convert("RGB")),
            gray=upright.mode in ("1", "L", "LA"),
            alpha=np.asarray(upright.convert("RGBA"))[..., 3] if upright.has_transparency_data else None,
            # of the colours that were converted away there is none to keep
            profile=None if file.mode in OTHER_COLOURS else file.info.get("icc_profile"),
            exif=exif,
            lost_exif=lost_exif,
            remarks=tuple(remark for remark, holds in remarks.items() if holds),
        )


def gray_remark(pixels: np.ndarray, gray: bool, generator: str) -> str:
    """A few words where noise of this generator is known not to protect such an image, else ""; gray: one channel."""
    if gray:
        return ONE_CHANNEL * (generator != "grating")  # which is gray for the most part
    return NO_COLOURS if generator == UNFIT and not has_colours(pixels) else ""


def array_of(value: Any) -> np.ndarray:
    """A tensor, PIL image or array as numpy."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    if str(value.dtype) == "torch.bfloat16":
        raise UnsegError("Expected uint8 or float32, found bfloat16, which cannot tell 255 steps apart; convert it.")
    try:
        return value.detach().cpu().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised, without data
        raise UnsegError(f"Expected a tensor that numpy can read, found {value.dtype}, {value.layout}.") from error


def pixels_of(image: Any) -> tuple[np.ndarray, bool]:
    """An image of any kind as uint8 `(H,W,3)`, and whether its noise must be gray."""
    if isinstance(image, Image.Image):
        if image.mode not in ("1", "L", "RGB"):
            mend = "scale it to 8 bits" if image.mode[0] in "IF" else "convert it, e.g. image.convert('RGB')"
            raise UnsegError(f"Expected a PIL image of mode RGB or L, found {image.mode}; {mend}.")
        pixels, gray = np.asarray(image.convert("RGB")), image.mode != "RGB"
    else:
        # a list could not be given back as it came
        values = array_of(image) if hasattr(image, "shape") else np.empty(0)
        values = values.transpose(1, 2, 0) if hasattr(image, "detach") and values.ndim == 3 else values
        values = values[..., None] if values.ndim == 2 else values
        if values.ndim != 3 or values.shape[2] not in (1, 3):
            found = f"shape {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
            sentence = f"Expected one image, numpy (H,W,3) or (H,W) or a tensor (3,H,W), found {found}"
            raise UnsegError(f"{sentence}; for several use protect_batch.")
        if values.dtype != np.uint8:
            low, high = values.min(initial=0), values.max(initial=0)
            if values.dtype.kind != "f" or not (low >= 0 and high <= 1):  # also refuses NaN
                raise UnsegError(f"Expected uint8, or floats from 0 to 1, found {values.dtype} from {low} to {high}.")
            values = np.rint(values * 255).astype(np.uint8)
        gray = values.shape[2] == 1
        pixels = np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))
    check_size(pixels)
    return pixels, gray


def check_size(pixels: np.ndarray, where: str = "") -> None:
    """Raise `UnsegError` on an image `(H,W,3)` that is too small; where: " in FILE"."""
    height, width = pixels.shape[:2]
    if min(height, width) < SHORTEST:
        raise UnsegError(f"Expected at least {SHORTEST} pixels a side{where}, found {width}x{height}.")


def like(image: Any, pixels: np.ndarray) -> Any:
    """Pixels uint8 `(H,W,3)` as the kind of image that `image` is."""
    if isinstance(image, Image.Image):
        return Image.fromarray(pixels[..., 0] if image.mode != "RGB" else pixels)
    tensor = hasattr(image, "detach")
    values = pixels[..., : 1 if image.ndim == 2 else image.shape[0 if tensor else 2]]
    values = values[..., 0] if image.ndim == 2 else values.transpose(2, 0, 1) if tensor else values
    if not tensor:
        return values.copy() if image.dtype == np.uint8 else (values / 255).astype(image.dtype)
    import torch

    found = torch.from_numpy(np.ascontiguousarray(values)).to(image.device)
    return found if image.dtype == torch.uint8 else (found / 255).to(image.dtype)
