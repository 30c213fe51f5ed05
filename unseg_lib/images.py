"""Reading and writing images, uint8 RGB `(H,W,3)`, upright; how far two masks agree."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from unseg_lib.errors import UnsegError, no_access
from unseg_lib.files import write_bytes

IGNORE = 255  # in a label map, uint8 `(H,W)`
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB in [0,1] of ImageNet: what pretrained encoders expect
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
IMAGE_SUFFIXES += (".jfif", ".jpe", ".gif", ".avif", ".heic", ".heif")
# what is read, by content and never by name; none of them starts another program
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "AVIF", "JPEG2000", "PPM", "QOI", "HEIF")
# other images that people have
UNREAD = (".tga", ".ico", ".icns", ".cur", ".pcx", ".sgi", ".svg", ".psd", ".xcf", ".dds", ".exr", ".jxl")
MOST_PIXELS = 300_000_000  # of one image; beyond, a small file may hide an image that fills the memory
Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, MOST_PIXELS)  # Pillow's own limit is lower
pillow_heif.register_heif_opener()
INNER, OUTER = (220, 30, 40), (255, 255, 255)  # a mask's outline: two lines, of which one is seen on any ground
BORDER = 0.02  # width of a mask's border, as a share of the image's diagonal


def open_image(path: str | Path) -> Image.Image:
    """An image file, decoded and upright as its EXIF says; of more than 8 bits a channel it is reduced to 8."""
    with opened(path) as image:
        return eight_bits(decoded(image), path)[0]


@contextmanager
def opened(path: str | Path, what: str = "image") -> Iterator[Image.Image]:
    """Read the header of an image; one sentence for whatever Pillow raises of a broken file, then or later."""
    if not Path(path).is_file():
        raise UnsegError(f"Expected an image at {path}, found no such file; check the path, or the data root.")
    try:
        with open_header(path) as image:
            yield image
    except UnsegError:
        raise
    except PermissionError as error:
        raise UnsegError(no_access(error, path)) from error
    except Exception as error:  # nearly anything, TypeErrors too
        found = f"found a corrupt one ({' '.join(str(error).split())}); replace it."
        if isinstance(error, UnidentifiedImageError) and Path(path).suffix.lower() in UNREAD:
            found = f"found a format that is not read ({Path(path).suffix.lower()}); convert it to PNG."
        raise UnsegError(f"Expected a readable {what} in {path}, {found}") from error


def open_header(path: str | Path) -> Image.Image:
    """An image of which only the header is read; raises `UnsegError` where it is too large."""
    most = f"at most {MOST_PIXELS // 10**6} million pixels in {path}"
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:  # Pillow refuses the largest ones by itself
        raise UnsegError(f"Expected {most}, found far more ({error}).") from error
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise UnsegError(f"Expected {most}, found {image.width}x{image.height}; shrink it.")
    # Pillow 13 reads these as other images, and says nothing: channels apart, and negatives
    odd = image.format == "TIFF" and max(image.tag_v2.get(258, (8,))) == 16
    if odd and (";16" not in str(image.tile) or image.tag_v2.get(262) == 0):
        raise UnsegError(f"Expected 16 bits as most TIFFs have them in {path}, found planes or a negative; save a PNG.")
    # else Pillow 13 maps plain TIFFs into memory, and mixes up rows and columns of those that lie on their side
    image.filename = ""
    return image


def is_image(path: str | Path) -> bool:
    """Whether a file is an image by its content."""
    try:
        open_header(path).close()
        return True
    except Exception as error:  # of files of other kinds Pillow raises nearly anything
        return isinstance(error, UnsegError)


def decoded(image: Image.Image) -> Image.Image:  # upright, as its EXIF says
    image.load()
    if _orientation(image) > 1:
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _orientation(image: Image.Image) -> int:
    """EXIF's number, 1 = upright, also where EXIF is damaged. Not of a TIFF's header: Pillow turns it when decoding."""
    with suppress(Exception):
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)  # a PNG's own `getexif` would decode it
    return 1


def eight_bits(image: Image.Image, path: str | Path) -> tuple[Image.Image, str]:
    """A decoded image with 8 bits a channel, and in a few words what that took; of 16 the lower ones are dropped.

    Gray images such as X-rays often use 12 bits of 16, or 8: they keep their contrast.
    """
    if not image.mode.startswith(("I", "F")):
        return image, ""
    values = np.asarray(image)
    if values.dtype.kind == "f" or not 0 <= values.min() <= values.max() < 1 << 16:
        found = f"found numbers from {values.min()} to {values.max()}"
        raise UnsegError(f"Expected 8 or 16 bits a channel in {path}, {found}; convert it to 8 bits first.")
    bits = next(bits for bits in (8, 12, 16) if values.max() < 1 << bits)
    reduced = Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    return reduced, f"{bits} bits a channel were reduced to 8" * (bits > 8)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image as uint8 RGB `(H,W,3)`, upright as its EXIF says; a gray file gives three equal channels."""
    return np.asarray(open_image(path).convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """Height and width of the upright image as the header says, without decoding the pixels."""
    with opened(path) as image:
        if image.format == "PNG" and "exif" not in image.info and b"eXIf" in Path(path).read_bytes():
            image.load()  # EXIF may lie behind the pixels
        turned = image.format != "TIFF" and _orientation(image) > 4  # of TIFF Pillow gives the upright one's
        return image.size if turned else image.size[::-1]


def as_pixels(values: np.ndarray) -> np.ndarray:
    """Float values of an image to uint8, rounded and clipped."""
    return values.round().clip(0, 255).astype(np.uint8)


def resize_image(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels uint8 `(h,w,3)` or a soft mask `(h,w)` at (height, width), bilinearly with antialiasing."""
    return np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR))  # Pillow has the width first


def cell_of(length: int, side: int, cells: int) -> np.ndarray:
    """Which cell each of `length` pixels lies in, when `side` pixels hold `cells` cells: int `(length,)`."""
    cells = min(cells, side)
    return (np.arange(length) * 2 + 1) * cells // (2 * side)  # of the pixel's centre


def resize_label(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map or mask `(h,w)` at (height, width), each pixel from the nearest one."""
    return np.array(Image.fromarray(label).resize(size[::-1], Image.Resampling.NEAREST))


def any_in_cells(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask bool `(h,w)` at a smaller (height, width) that loses none of it: whether a cell holds any."""
    rows, columns = (np.arange(few) * many // few for few, many in zip(size, mask.shape))
    return np.logical_or.reduceat(np.logical_or.reduceat(mask, rows, axis=0), columns, axis=1)


def has_colours(pixels: np.ndarray) -> bool:
    """Whether the channels of an image `(H,W,3)` differ anywhere; of one in colour only some rows are read."""
    parts = (pixels[top : top + 64] for top in range(0, len(pixels), 64))
    return any((part[..., i] != part[..., 0]).any() for part in parts for i in (1, 2))


def outlined(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The image uint8 `(H,W,3)` with the border of a mask bool `(H,W)` drawn on it, red inside and white outside."""
    from scipy.ndimage import binary_dilation, binary_erosion

    width, done = max(1, round(max(mask.shape) / 300)), pixels.copy()
    done[mask & ~binary_erosion(mask, iterations=width)] = INNER
    done[~mask & binary_dilation(mask, iterations=width)] = OUTER
    return done


def encode_image(image: np.ndarray, suffix: str, *, gray: bool = False) -> bytes:
    """The file of uint8 RGB `(H,W,3)`, its format chosen by the suffix; gray: with one channel.

    JPEG is of quality 95 with 4:2:0 chroma subsampling, as OpenCV's default is.
    """
    layers, suffix = image[..., 0] if gray else image, suffix.lower()
    if suffix == ".png":
        return png_of(layers)
    file, options = io.BytesIO(), {"quality": 95, "subsampling": 2} if suffix == ".jpg" else {}
    Image.fromarray(layers).save(file, Image.registered_extensions()[suffix], **options)
    return file.getvalue()


def png_of(layers: np.ndarray, profile: bytes | None = None, exif: bytes | None = None) -> bytes:
    """PNG of uint8 `(H,W)` or `(H,W,2 to 4)`, gray or RGB and transparency last, in a tenth of Pillow's time.

    The compression is Intel's: on another kind of processor a file may be of other bytes. profile: ICC's.
    """
    from isal import isal_zlib

    height, width = layers.shape[:2]
    kind = {(): 0, (2,): 4, (3,): 2, (4,): 6}[layers.shape[2:]]
    lines = _differences(layers.reshape(height, -1), layers[0, 0].size)
    parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0))]
    parts += [(b"iCCP", b"ICC Profile\0\0" + isal_zlib.compress(profile, 1))] if profile else []
    parts += [(b"eXIf", exif.removeprefix(b"Exif\0\0"))] if exif else []
    parts += [(b"IDAT", isal_zlib.compress(lines.data, 1)), (b"IEND", b"")]
    file = [b"\x89PNG\r\n\x1a\n"]
    for name, content in parts:
        check = isal_zlib.crc32(content, isal_zlib.crc32(name))
        file += [struct.pack(">I", len(content)), name, content, struct.pack(">I", check)]
    return b"".join(file)


def _differences(rows: np.ndarray, channels: int) -> np.ndarray:
    """PNG's lines `(H,1+W)` of rows uint8 `(H,W)`: what the pixel to the left, the one above or their mean does not
    tell, whichever leaves least, and before it which of these it is.
    """
    lines = np.empty((len(rows), 1 + rows.shape[1]), np.uint8)
    for start in range(0, len(rows), 64):  # some at a time: large images must not fill the memory
        here = rows[start : start + 64]
        above, left = np.zeros_like(here), np.zeros_like(here)
        above[1:], left[:, channels:] = here[:-1], here[:, :-channels]
        above[0] = rows[start - 1] if start else 0
        tried = here - np.stack([left, above, (above & left) + ((above ^ left) >> 1)])
        least = np.minimum(tried, -tried).sum(axis=2, dtype=np.uint32).argmin(axis=0)
        lines[start : start + 64, 0], lines[start : start + 64, 1:] = least + 1, tried[least, np.arange(len(here))]
    return lines


def decode_image(content: bytes) -> np.ndarray:
    """What a reader of a file with this content sees: uint8 RGB `(H,W,3)`."""
    with Image.open(io.BytesIO(content)) as file:
        return np.asarray(file.convert("RGB"))


def write_image(path: str | Path, image: np.ndarray, *, gray: bool = False) -> None:
    """Write uint8 RGB `(H,W,3)` as `encode_image` says."""
    write_bytes(path, encode_image(image, Path(path).suffix, gray=gray))


def find_image(folder: str | Path, stem: str) -> Path:
    """The image called `stem` in `folder`, whatever its suffix: a poisoned set keeps the stems but writes PNG."""
    for suffix in (*IMAGE_SUFFIXES, *map(str.upper, IMAGE_SUFFIXES)):  # cameras write IMG.JPG
        if (path := Path(folder, f"{stem}{suffix}")).exists():
            return path
    for path in sorted(Path(folder).glob(f"{escape(stem)}.*")):  # of mixed case, such as IMG.Jpg
        if path.stem == stem and path.suffix.lower() in IMAGE_SUFFIXES:
            return path
    raise UnsegError(f"Expected an image called {stem} in {folder}, found none; is the download complete?")


def mask_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks, bool of one shape, in [0,1]; 1 where both are empty."""
    either = int((prediction | truth).sum())
    return float((prediction & truth).sum() / either) if either else 1.0


def boundary_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Boundary IoU of two masks, bool `(H,W)`, in [0,1]: that of their borders, which fine details decide.

    The border of a mask is what of it lies within 2 % of the diagonal of its outline, and the edge of the image
    is outline (Cheng et al., CVPR 2021, in the way of their code, which SAM-HQ is evaluated with).
    """
    if prediction.shape != truth.shape:
        sizes = " and ".join("x".join(map(str, mask.shape)) for mask in (prediction, truth))
        raise UnsegError(f"Expected masks of one size, found {sizes}; scale the prediction to the image's size.")
    return mask_iou(_border(prediction), _border(truth))


def _border(mask: np.ndarray) -> np.ndarray:
    """The mask without its erosion by a square of `2 d + 1` pixels, which is `d` erosions by 3x3 pixels."""
    from scipy.ndimage import minimum_filter

    width = max(1, round(BORDER * float(np.hypot(*mask.shape))))
    return mask & ~minimum_filter(mask, 2 * width + 1, mode="constant", cval=0)
