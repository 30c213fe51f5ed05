"""Protect many images: what `unseg protect` does.

The generator works on one image while threads read the next ones and measure and write the last ones; only a few
images are in memory at once. `protected.csv` gets a line as soon as a file is whole. An image that cannot be
protected gets a line with the reason, and the rest goes on. The same call again does nothing twice.
"""

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import torch

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_csv
from unseg_lib.protection.copies import Ready, Work, read_one, write_one, writing
from unseg_lib.protection.inputs import Input, find_inputs, shown
from unseg_lib.protection.lines import COLUMNS, REPORT, Row, alone, earlier_lines, whole_copies
from unseg_lib.protection.one import Protector
from unseg_lib.protection.wanted import Wanted, wanted
from unseg_lib.runtime import progress, thread_count

HOPELESS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


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
    rgb: bool = False,
    overwrite: bool = False,
    jobs: int = 2,
    batch: int = 1,
    device: str = "auto",
    reference: bool = False,
    compiled: bool = False,
) -> list[dict]:
    """Protect images of files, folders and patterns, write copies of the same names below `out`; originals stay.

    masks, classes, boxes, points: what to protect, see `wanted`; with none of them what stands out by its colour, at
    last the whole image. format: "png"; "keep" the original's (JPEG stays JPEG, the others are lossless); "jpeg".
    quality: of JPEG. metadata: keep EXIF. rgb: store gray images in three channels, which keep all of the noise.
    overwrite: replace files in `out` that are not ours, and copies of other images. jobs: threads that read and
    write. batch: images that the generator is given at once, for GPUs; an image may then differ by a step from
    what it is alone. reference, compiled: see `Protector`.

    Returns the lines of `out`/protected.csv for these images, those with a problem included. Raises `UnsegError` at
    once where nothing can be done at all: no image, no generator, a full disk; `OSError` where the system refuses a
    path of an option.
    """
    out = Path(out)
    asked = {"masks": masks, "classes": classes, "boxes": boxes, "points": points}
    files, regions = planned(inputs, out, format=format, quality=quality, batch=batch, jobs=jobs, **asked)
    protector = Protector(generator, eps=eps, eps_bg=eps_bg, device=device, reference=reference, compiled=compiled)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with alone(out), thread_count(_threads(protector)):
        lines, images = earlier_lines(out), {shown(file.name) for file in files}
        earlier = whole_copies(lines, out)
        failed = [line for line in lines if line["problem"] and line["image"] not in images]
        with writing(out / REPORT):  # anew, so that no line is appended to one that a kill has torn
            write_csv(out / REPORT, [*earlier.values(), *failed], COLUMNS)
        work = Work(protector, regions, out, format, quality, metadata, rgb, overwrite, earlier)
        rows = [asdict(row) for row in progress(_rows(files, work, jobs, batch), "protect", total=len(files))]
        again = {row["written"] for row in rows}
        kept = [row for row in earlier.values() if row["written"] not in again]
        write_csv(out / REPORT, kept + failed + rows, COLUMNS)
    return rows


def planned(
    inputs: Iterable[str | Path],
    out: Path,
    *,
    format: str,
    quality: int,
    batch: int,
    jobs: int,
    masks: str,
    **asked: str,
) -> tuple[list[Input], Wanted]:
    """The files that `protect_files` would protect and how their regions are found; nothing is written."""
    if format not in ("png", "keep", "jpeg"):
        raise UnsegError(f"Expected the format png, keep or jpeg, found '{format}'.")
    if not 1 <= quality <= 100:
        raise UnsegError(f"Expected a JPEG quality from 1 to 100, found {quality}.")
    if batch < 1:
        raise UnsegError(f"Expected a batch of at least 1 image, found {batch}.")
    if jobs < 1:
        raise UnsegError(f"Expected at least 1 job, found {jobs}.")
    if out.exists() and not out.is_dir():
        raise UnsegError(f"Expected a folder for the output, found a file at {out}; choose another.")
    if masks and out.resolve() == Path(masks).resolve():
        raise UnsegError(f"Expected masks and copies in two folders, found both in {out}; choose another --out.")
    files = find_inputs(inputs, out, format)
    return files, wanted(masks, files=files, **asked)


def _threads(protector: Protector) -> int:
    """Torch's threads: 0 for its own number. On a CPU, reading and writing take longer than a small generator does."""
    own = protector.inference
    return 0 if own.large or own.device.type != "cpu" else max(1, torch.get_num_threads() // 2)


def _rows(files: list[Input], work: Work, jobs: int, batch: int) -> Iterator[Row]:
    """One line for each file, in order. Read ahead and written behind by threads, the generator's turn in between."""
    with ThreadPoolExecutor(jobs) as readers, ThreadPoolExecutor(jobs) as writers:
        coming, going, left = deque(), deque(), iter(files)

        def read(number: int) -> None:
            coming.extend((file, readers.submit(read_one, file, work)) for file in islice(left, number))

        read(jobs + batch - 1)
        while coming or going:
            group = [coming.popleft() for _ in range(min(batch, len(coming)))]
            going.extend(_noised(group, work, writers))
            read(len(group))
            while going and (not coming or len(going) > jobs):
                file, row = going.popleft()
                yield _explained(file, row.result)


def _noised(
    group: list[tuple[Input, Future[Ready | Row]]], work: Work, writers: ThreadPoolExecutor
) -> Iterator[tuple[Input, Future[Row]]]:
    """The generator's turn, for all of a group at once; what went wrong before is passed on to the writers, which is
    where lines come from.
    """
    read = [(file, _result(reading)) for file, reading in group]
    prepared = [ready.prepared for _, ready in read if isinstance(ready, Ready) and ready.prepared]
    raws = iter(work.protector.raw_noises(prepared) if prepared else ())
    for file, ready in read:
        raw = next(raws) if isinstance(ready, Ready) and ready.prepared else None
        yield file, writers.submit(_finish, ready, raw, work)


def _result(reading: Future[Ready | Row]) -> Ready | Row | UnsegError:
    try:
        return reading.result()
    except UnsegError as error:
        return error


def _finish(ready: Ready | Row | UnsegError, raw, work: Work) -> Row:
    if isinstance(ready, UnsegError):
        raise ready
    return ready if isinstance(ready, Row) else write_one(ready, raw, work)


def _explained(file: Input, get: Callable[[], Row]) -> Row:
    try:
        return get()
    except UnsegError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in HOPELESS:
            raise  # no other image would fare better
        return Row(shown(file.name), problem=shown(str(error)))
