"""Protect many pictures: what `unseg protect` does.

The generator works on one picture while threads read the next ones and measure and write the last ones; only a few
pictures are in memory at once. `protected.csv` gets a line as soon as a file is whole. A picture that cannot be
protected gets a line with the reason, and the rest goes on. The same call again does nothing twice.
"""

import errno
import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from unseg_lib.errors import UnsegError
from unseg_lib.files import sha256_of, whole_file, write_csv
from unseg_lib.hardware import thread_count
from unseg_lib.method.budget import measure
from unseg_lib.poisons.manifest import append_line
from unseg_lib.progress import progress
from unseg_lib.protection.inputs import Input, find_inputs, shown
from unseg_lib.protection.lines import COLUMNS, REPORT, Row, alone, earlier_rows
from unseg_lib.protection.one import SHORTEST, Protector
from unseg_lib.protection.photo import FORMATS, Photo, decoded, encode, read_photo
from unseg_lib.protection.placing import add_raw_noise
from unseg_lib.protection.region import Region
from unseg_lib.protection.wanted import Wanted, wanted

if TYPE_CHECKING:
    from unseg_lib.method.inference import Prepared

LOSSLESS = ("png", "webp", "tiff")
HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@dataclass(frozen=True)
class _Work:
    """What stays the same from picture to picture."""

    protector: Protector
    regions: Wanted
    out: Path
    format: str
    quality: int
    metadata: bool
    overwrite: bool
    earlier: dict[str, dict]  # lines of copies that are as we wrote them, by the copy's name


@dataclass(frozen=True)
class _Ready:
    """A picture that was read and whose region is known."""

    file: Input
    photo: Photo
    region: Region
    source_sha256: str
    settings: str
    size: int
    prepared: "Prepared | None"  # None: there is nothing to protect


def protect_files(
    inputs: Iterable[str | Path],
    out: str | Path,
    *,
    masks: str = "",
    classes: str = "",
    boxes: str = "",
    points: str = "",
    eps: float = 8,
    eps_bg: float = 2,
    generator: str = "small",
    format: str = "png",
    quality: int = 95,
    metadata: bool = False,
    overwrite: bool = False,
    jobs: int = 2,
    batch: int = 1,
    device: str = "auto",
    reference: bool = False,
    compiled: bool = False,
) -> list[dict]:
    """Protect pictures of files, folders and patterns, write copies of the same names below `out`; originals stay.

    masks, classes, boxes, points: what to protect, see `wanted`; with none of them what stands out by its colour, at
    last the whole picture. format: "png"; "keep" the original's (JPEG stays JPEG, the others are lossless); "jpeg".
    quality: of JPEG. metadata: keep EXIF. overwrite: replace files in `out` that are not ours, and copies of other
    pictures. jobs: threads that read and write. batch: pictures that the generator is given at once, for GPUs; a
    picture may then differ by a step from what it is alone. reference, compiled: see `Protector`.

    Returns the lines of `out`/protected.csv for these pictures, those with a problem included. Raises `UnsegError` at
    once where nothing can be done at all: no picture, no generator, a full disk.
    """
    out = Path(out)
    if format not in ("png", "keep", "jpeg"):
        raise UnsegError(f"Expected the format png, keep or jpeg, found '{format}'.")
    if not 1 <= quality <= 100:
        raise UnsegError(f"Expected a JPEG quality from 1 to 100, found {quality}.")
    if batch < 1:
        raise UnsegError(f"Expected a batch of at least 1 picture, found {batch}.")
    if out.exists() and not out.is_dir():
        raise UnsegError(f"Expected a folder for the output, found a file at {out}; choose another.")
    if masks and out.resolve() == Path(masks).resolve():
        raise UnsegError(f"Expected masks and copies in two folders, found both in {out}; choose another --out.")
    files, regions = find_inputs(inputs, out, format), wanted(masks, classes, boxes, points)
    protector = Protector(generator, eps=eps, eps_bg=eps_bg, device=device, reference=reference, compiled=compiled)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with alone(out), thread_count(_threads(protector)):
        earlier = earlier_rows(out)
        with writing(out / REPORT):  # anew, so that no line is appended to one that a kill has torn
            write_csv(out / REPORT, list(earlier.values()), COLUMNS)
        work = _Work(protector, regions, out, format, quality, metadata, overwrite, earlier)
        rows = [asdict(row) for row in progress(_rows(files, work, max(1, jobs), batch), "protect", total=len(files))]
        again = {row["written"] for row in rows}
        kept = [row for row in earlier.values() if row["written"] not in again]
        write_csv(out / REPORT, kept + rows, COLUMNS)
    return rows


def _threads(protector: Protector) -> int:
    """Torch's threads: 0 for its own number. On a CPU, reading and writing take longer than a small generator does."""
    own = protector.inference
    return 0 if own.large or own.device.type != "cpu" else max(1, torch.get_num_threads() // 2)


def _rows(files: list[Input], work: _Work, jobs: int, batch: int) -> Iterator[Row]:
    """One line for each file, in order. Read ahead and written behind by threads, the generator's turn in between."""
    with ThreadPoolExecutor(jobs) as readers, ThreadPoolExecutor(jobs) as writers:
        coming, going, left = deque(), deque(), iter(files)

        def read(number: int) -> None:
            coming.extend((file, readers.submit(_read, file, work)) for file in islice(left, number))

        read(jobs + batch - 1)
        while coming or going:
            group = [coming.popleft() for _ in range(min(batch, len(coming)))]
            going.extend(_noised(group, work, writers))
            read(len(group))
            while going and (not coming or len(going) > jobs):
                file, writing = going.popleft()
                yield _explained(file, writing.result)


def _noised(
    group: "list[tuple[Input, Future[_Ready | Row]]]", work: _Work, writers: ThreadPoolExecutor
) -> "Iterator[tuple[Input, Future[Row]]]":
    """The generator's turn, for all of a group at once; what went wrong before is passed on to the writers, which is
    where lines come from.
    """
    read = [(file, _result(reading)) for file, reading in group]
    prepared = [ready.prepared for _, ready in read if isinstance(ready, _Ready) and ready.prepared]
    raws = iter(work.protector.raw_noises(prepared) if prepared else ())
    for file, ready in read:
        raw = next(raws) if isinstance(ready, _Ready) and ready.prepared else None
        yield file, writers.submit(_finish, ready, raw, work)


def _result(reading: "Future[_Ready | Row]") -> "_Ready | Row | UnsegError":
    try:
        return reading.result()
    except UnsegError as error:
        return error


def _finish(ready: "_Ready | Row | UnsegError", raw, work: _Work) -> Row:
    if isinstance(ready, UnsegError):
        raise ready
    return ready if isinstance(ready, Row) else _write(ready, raw, work)


def _explained(file: Input, get: Callable[[], Row]) -> Row:
    try:
        return get()
    except UnsegError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in HOPELESS:
            raise  # no other picture would fare better
        return Row(shown(file.name), problem=shown(str(error)))


def _read(file: Input, work: _Work) -> "_Ready | Row":
    """The picture and its region; or its line, if the copy that is there is what would be made."""
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
    if min(photo.pixels.shape[:2]) < SHORTEST:
        size = f"{photo.pixels.shape[1]}x{photo.pixels.shape[0]}"
        raise UnsegError(f"Expected at least {SHORTEST} pixels a side in {file.path}, found {size}.")
    if known and known["source_sha256"] != source and not work.overwrite:
        raise UnsegError(
            f"Expected to write {target}, found the copy of another picture, or of {file.path} before it was changed, "
            "there; choose another --out or --overwrite."
        )
    region = work.regions.region(file, photo.pixels)
    settings = _settings(region, work)
    if known and (known["source_sha256"], known["settings"]) == (source, settings):
        return Row(**known)
    prepared = work.protector.prepare(photo.pixels, region.mask) if region.mask.any() else None
    return _Ready(file, photo, region, source, settings, file.path.stat().st_size, prepared)


def _settings(region: Region, work: _Work) -> str:
    """A fingerprint of all that decides the copy but the original itself."""
    own = work.protector
    words = (own.sha256, own.eps, own.eps_bg, work.format, work.quality, work.metadata, region.mask.shape)
    words += ("reference",) if own.inference.reference else ()
    return hashlib.sha256(repr(words).encode() + np.packbits(region.mask).tobytes()).hexdigest()[:16]


def _write(ready: _Ready, raw, work: _Work) -> Row:
    photo, mask, own = ready.photo, ready.region.mask, work.protector
    done = photo.pixels
    if raw is not None:
        done = add_raw_noise(photo.pixels, raw, mask, own.eps, own.eps_bg, gray=photo.gray)
    suffix = Path(ready.file.target).suffix
    content = encode(photo, done, FORMATS[suffix], quality=work.quality, metadata=work.metadata)
    seen = done if FORMATS[suffix] in LOSSLESS else decoded(content)
    row = Row(
        picture=shown(ready.file.name),
        written=ready.file.target,
        found_by=ready.region.found_by,
        protected=round(float(mask.mean()), 6),
        eps=float(own.eps),
        eps_bg=float(own.eps_bg),
        **{name: round(value, 6) for name, value in measure(photo.pixels, seen, mask).items()},
        bytes_before=ready.size,
        bytes_after=len(content),
        source_sha256=ready.source_sha256,
        sha256=hashlib.sha256(content).hexdigest(),
        settings=ready.settings,
        remark="; ".join(photo.remarks),
    )
    _put(work.out / ready.file.target, content, row, work.out / REPORT)
    return row


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
