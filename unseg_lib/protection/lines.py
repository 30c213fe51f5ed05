"""The lines of protected.csv: one for every image, whether or not there is a copy of it."""

import csv
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import hold, sha256_of

REPORT = "protected.csv"


@dataclass(frozen=True)
class Row:
    """A line of protected.csv.

    found_by: how the region was found; protected: its share of the image. linf_inside, linf_outside, rms: what the
    written file changes, in steps over 255; psnr: dB. bytes_before, bytes_after: sizes of the files. source_sha256,
    sha256: of original and copy; settings: fingerprint of everything else the copy depends on. remark: what could not
    be kept, or will hardly protect. problem: why there is no copy.
    """

    image: str
    written: str = ""
    found_by: str = ""
    protected: float = 0.0
    eps: float = 0.0
    eps_bg: float = 0.0
    linf_inside: int = 0
    linf_outside: int = 0
    rms: float = 0.0
    psnr: float = 0.0
    ssim: float = 0.0
    bytes_before: int = 0
    bytes_after: int = 0
    source_sha256: str = ""
    sha256: str = ""
    settings: str = ""
    remark: str = ""
    problem: str = ""


COLUMNS = [column.name for column in fields(Row)]


def earlier_lines(out: Path) -> list[dict]:
    """All lines of earlier runs, with their types.

    Raises `UnsegError` if there is a file called protected.csv of somebody else.
    """
    if not (out / REPORT).exists():
        return []
    found, kinds = [], {column.name: column.type for column in fields(Row)}
    for row in _read(out / REPORT):
        try:
            found.append({name: kinds[name](row[name]) for name in COLUMNS})
        except (TypeError, ValueError):
            continue  # a torn line: its image is simply done again
    return found


def whole_copies(lines: list[dict], out: Path) -> dict[str, dict]:
    """Those lines whose copies nobody changed since, by the copy's name."""
    return {line["written"]: line for line in lines if line["written"] and _has(out / line["written"], line["sha256"])}


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep a second run out of the folder: the two would lose each other's lines."""
    folder = os.open(out, os.O_RDONLY)
    try:
        hold(folder, f"Expected no other run in {out}, found one; wait for its end.")
        yield
    finally:
        os.close(folder)


def _has(path: Path, sha256: str) -> bool:
    try:
        return path.is_file() and sha256_of(path) == sha256
    except OSError:  # unreadable: whatever it is now, it is not touched
        return False


def _read(path: Path) -> list[dict]:
    try:
        with open(path, newline="", errors="replace") as file:
            lines = csv.DictReader(file)
            if lines.fieldnames != COLUMNS:
                raise UnsegError(f"Expected none but our own report at {path}, found another file; move it away.")
            return list(lines)
    except (OSError, csv.Error) as error:
        raise UnsegError(f"Expected a readable report at {path}, found none ({error}); move it away.") from error
