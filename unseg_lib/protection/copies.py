"""One protected copy: an image is read and its region found; with its noise, a copy is written whole or not at all."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unseg_lib.errors import UnsegError, no_access
from unseg_lib.files import sha256_of, whole_file
from unseg_lib.method import Region, measure
from unseg_lib.poisons import append_line
from unseg_lib.protection.gray import gray_remark
from unseg_lib.protection.inputs import Input, shown
from unseg_lib.protection.lines import COLUMNS, REPORT, Row
from unseg_lib.protection.one import SHORTEST, Protector
from unseg_lib.protection.photo import FORMATS, Photo, decoded, encode, read_photo, remarks_on, with_three_channels
from unseg_lib.protection.placing import add_raw_noise
from unseg_lib.protection.wanted import Wanted

if TYPE_CHECKING:
    from unseg_lib.method import Prepared

LOSSLESS = ("png", "webp", "tiff")


@dataclass(frozen=True)
class Work:
    """What stays the same from image to image."""

    protector: Protector
    regions: Wanted
    out: Path
    format: str
    quality: int
    metadata: bool
    rgb: bool
    overwrite: bool
    earlier: dict[str, dict]  # lines of copies that are as we wrote them, by the copy's name


@dataclass(frozen=True)
class Ready:
    """An image that was read and whose region is known."""

    file: Input
    photo: Photo
    region: Region
    source_sha256: str
    settings: str
    size: int
    prepared: "Prepared | None"  # None: there is nothing to protect


def read_one(file: Input, work: Work) -> Ready | Row:
    """The image and its region; or its line, if the copy that is there is what would be made."""
    try:
        return _read(file, work)
    except OSError as error:  # of the image, its mask or its copy's name, so that the other images may fare better
        raise UnsegError(no_access(error, file.path)) from error
    except UnsegError:
        raise
    except Exception as error:  # whatever is odd about one image, the others do not wait for it
        raise UnsegError(
            f"Expected an image that can be protected at {file.path}, found one that cannot ({error!r})."
        ) from error


def _read(file: Input, work: Work) -> Ready | Row:
    if file.path.exists() and not file.path.is_file():
        raise UnsegError(f"Expected a file at {file.path}, found something else; take it out.")  # reading may never end
    try:
        source = sha256_of(file.path)
    except OSError as error:
        raise UnsegError(f"Expected a readable file at {file.path}, found none ({error.strerror}).") from None
    target, known = work.out / file.target, work.earlier.get(file.target)
    if target.exists() and not known and not work.overwrite:
        raise UnsegError(
            f"Expected to write {target}, found a file there that is not from here; move it or --overwrite."
        )
    photo = read_photo(file.path)
    photo = with_three_channels(photo) if work.rgb else photo
    if min(photo.pixels.shape[:2]) < SHORTEST:
        size = f"{photo.pixels.shape[1]}x{photo.pixels.shape[0]}"
        raise UnsegError(f"Expected at least {SHORTEST} pixels a side in {file.path}, found {size}.")
    if known and known["source_sha256"] != source and not work.overwrite:
        raise UnsegError(
            f"Expected to write {target}, found the copy of another image, or of {file.path} before it was changed, "
            "there; choose another --out or --overwrite."
        )
    region = work.regions.region(file, photo.pixels)
    settings = _settings(region, work)
    if known and (known["source_sha256"], known["settings"]) == (source, settings):
        return Row(**known)
    prepared = work.protector.prepare(photo.pixels, region.mask) if region.mask.any() else None
    return Ready(file, photo, region, source, settings, file.path.stat().st_size, prepared)


def _settings(region: Region, work: Work) -> str:
    """A fingerprint of all that decides the copy but the original itself."""
    own = work.protector
    words = (own.sha256, own.eps, own.eps_bg, work.format, work.quality, work.metadata, region.mask.shape)
    words += ("reference",) if own.inference.reference else ()
    words += ("rgb",) if work.rgb else ()
    return hashlib.sha256(repr(words).encode() + np.packbits(region.mask).tobytes()).hexdigest()[:16]


def write_one(ready: Ready, raw: torch.Tensor | None, work: Work) -> Row:
    photo, mask, own = ready.photo, ready.region.mask, work.protector
    done = photo.pixels
    if raw is not None:
        done = add_raw_noise(photo.pixels, raw, mask, own.eps, own.eps_bg, gray=photo.gray)
    suffix = Path(ready.file.target).suffix
    content = encode(photo, done, FORMATS[suffix], quality=work.quality, metadata=work.metadata)
    seen = done if FORMATS[suffix] in LOSSLESS else decoded(content)
    row = Row(
        image=shown(ready.file.name),
        written=ready.file.target,
        found_by=ready.region.found_by,
        protected=round(float(mask.mean()), 6) or 1e-6 * bool(mask.any()),  # 0 says that nothing is
        eps=float(own.eps),
        eps_bg=float(own.eps_bg),
        **{name: round(value, 6) for name, value in measure(photo.pixels, seen, mask).items()},
        bytes_before=ready.size,
        bytes_after=len(content),
        source_sha256=ready.source_sha256,
        sha256=hashlib.sha256(content).hexdigest(),
        settings=ready.settings,
        remark="; ".join(_remarks(ready, FORMATS[suffix], work)),
    )
    _put(work.out / ready.file.target, content, row, work.out / REPORT)
    return row


def _remarks(ready: Ready, format: str, work: Work) -> list[str]:
    found = [*remarks_on(ready.photo, format, metadata=work.metadata)]
    if ready.prepared:
        found.append(gray_remark(ready.photo.pixels, ready.photo.gray, work.protector.settings.generator))
    return [remark for remark in found if remark]


def _put(target: Path, content: bytes, row: Row, report: Path) -> None:
    """The line comes before the file has its name: a killed run leaves no file that the next would not know."""
    if not target.parent.resolve().is_relative_to(report.parent.resolve()):
        raise UnsegError(f"Expected {target.parent} below {report.parent}, found a link that leads away; remove it.")
    with writing(target), whole_file(target) as partial:
        partial.write_bytes(content)
        append_line(report, [asdict(row)[name] for name in COLUMNS])


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make one sentence of what keeps a file from being written."""
    try:
        yield
    except OSError as error:
        raise UnsegError(f"Could not write {path} ({error.strerror}); choose another --out.") from error
