"""Files that are either whole or absent: written beside their place, then renamed."""

import csv
import errno
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from unseg_lib.errors import UnsegError


def hold(file: IO | int, busy: str, *, shared: bool = False) -> None:
    """Lock an open file until it is closed; `UnsegError(busy)` where another process holds it. shared: among readers.

    The lock vanishes with the process, so it is never stale.
    """
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UnsegError(busy) from error


@contextmanager
def told_if_full(what: str) -> Iterator[None]:
    """A full disk becomes one sentence; `what` could not be done, such as "write a.csv"."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UnsegError(
            f"Could not {what}: the disk is full; free some space and run the same command again, "
            "finished work is kept."
        ) from error


@contextmanager
def writing(path: Path, instead: str = "--out") -> Iterator[None]:
    """Make one sentence of what keeps a file from being written; instead: what else to choose."""
    try:
        yield
    except OSError as error:
        raise UnsegError(f"Could not write {path} ({error.strerror}); choose another {instead}.") from error


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it there only if the block ends well, else it is removed.

    It keeps the end of the name, so that libraries that choose a format by its suffix still do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # unique even where two machines with the same process number share a disk; of a name as long as disks allow
    # (255 bytes) not all fits behind that
    partial = path.with_name(f".partial-{os.getpid()}x{secrets.token_hex(4)}-{path.name[-50:]}")
    try:
        with told_if_full(f"write {path}"):
            yield partial
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(path: str | Path, content: bytes) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(content)


def write_json(path: str | Path, value: object) -> None:
    """Write JSON with sorted keys and two spaces, so that two runs can be compared by diff."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: str | Path) -> dict:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))  # with or without a byte-order mark
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UnsegError(f"Expected JSON in {path}, found something else ({error}); mend or replace it.") from error


def write_csv(path: str | Path, rows: list[dict], columns: list[str] | None = None) -> None:
    """Write rows with a header; `columns` fixes the order (default: the keys of the first row)."""
    columns = columns or (list(rows[0]) if rows else [])
    with whole_file(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: str | Path) -> list[dict]:
    """Read rows as dicts of strings, with or without the byte-order mark of a spreadsheet program."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        return list(csv.DictReader(file))


def append_line(path: str | Path, cells: list) -> None:
    """Append a line to a CSV file in a single write, so that a kill tears it at most once and never its neighbours."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    with told_if_full(f"write {path}"), open(path, "ab", buffering=0) as file:
        file.write(text.getvalue().encode())


def sha256_of(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_if_readable(path: str | Path) -> str:
    """The checksum; "" where there is no file, or one that the system refuses to read."""
    try:
        return sha256_of(path) if Path(path).is_file() else ""
    except OSError:
        return ""


def claim(folder: str | Path, mine: dict, what: str, *, later: tuple[str, ...] = (), note="training.json") -> None:
    """Note in `folder` what is made there; raise `UnsegError` rather than continue something else.

    mine: the settings and inputs that decide the result, as JSON values; the note holds just these. what: the thing
    that is made, for the error. later: keys that notes of older versions lack; such a note is continued whatever
    they are. What older versions called pictures are images.
    """
    path = Path(folder) / note
    found = read_json(path) if path.exists() else None
    theirs = mine if found is None else _named_today(found)
    known = {key for key in mine | theirs if key in theirs or key not in later}
    if other := sorted(key for key in known if theirs.get(key) != mine.get(key)):
        told = "; ".join(f"{key} {theirs.get(key)} there, {mine.get(key)} asked" for key in other)
        raise UnsegError(
            f"Expected an empty folder or one of the same {what}, found another one in {folder} ({told}); "
            "delete it or choose another folder."
        )
    if found != theirs:
        write_json(path, theirs)


def _named_today(value: object) -> object:
    """A note with its keys, also the inner ones, as they are called today."""
    if not isinstance(value, dict):
        return value
    return {key.replace("picture", "image"): _named_today(item) for key, item in value.items()}
