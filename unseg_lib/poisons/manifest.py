"""The one writer of noised images: each file whole, measured, and with a line of its own; no work is done twice.

A line counts only together with a file of its sha256. Whoever is killed goes on by the same call: lines that a kill
has torn are left out, files without a line that fits are made again. `poison_dataset` and `protect_files` use it.
"""

import csv
import hashlib
import io
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.files import append_line, whole_file, write_csv
from unseg_lib.method import measure

Types = dict[str, type]  # of a manifest's columns, in their order


class Manifest:
    """A CSV file with a line for every image that is written; any thread may write.

    path: the file. types: its columns, with those of `measure` that are wanted and sha256 among them.
    """

    def __init__(self, path: Path, types: Types):
        self.path, self.types, self.lock = path, types, threading.Lock()

    def save(self, rows: Iterable[dict]) -> None:
        """The whole file anew, also before others are appended: the next must not follow a torn one."""
        write_csv(self.path, list(rows), list(self.types))

    def check_place(self, path: Path, replace: object) -> None:
        """Raise `UnsegError` where writing would follow a link out of the folder, or replace a file unasked."""
        folder = self.path.parent
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise UnsegError(f"Expected {path.parent} below {folder}, found a link that leads away; remove it.")
        if path.exists() and not replace:
            found = "a file there that is not from here; move it or --overwrite"
            raise UnsegError(f"Expected to write {path}, found {found}.")

    def write(
        self, target: Path, content: bytes, row: dict, *, original: np.ndarray, written: np.ndarray, mask: np.ndarray
    ) -> dict:
        """Write one file and its line, which is returned: `row` with what has changed (see `measure`) and the sha256.

        original, written: uint8 `(H,W,3)`, before and as a reader of the file sees it; mask bool `(H,W)`.
        """
        row = row | {name: round(value, 6) for name, value in measure(original, written, mask).items()}
        row |= {"sha256": hashlib.sha256(content).hexdigest()}
        row = {name: row[name] for name in self.types}
        with whole_file(target) as partial:
            partial.write_bytes(content)
            # the line comes before the file has its name: a killed run leaves no file that the next would not know
            with self.lock:
                append_line(self.path, list(row.values()))
        return row


def read_lines(path: Path, types: Types, renamed: dict[str, str] | None = None) -> tuple[list[str], list[dict]]:
    """The columns of a manifest and its lines with their types; none where there is no file. Torn lines are left out.

    renamed: {name of a column in older files: its name today}.
    """
    try:
        text = path.read_text("utf-8-sig", errors="replace")
    except (FileNotFoundError, NotADirectoryError):  # not there yet, or merged by another shard since it was listed
        return [], []
    lines, rows = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1])), []
    lines.fieldnames = [(renamed or {}).get(name, name) for name in lines.fieldnames or []]
    for line in lines:
        with suppress(KeyError, TypeError, ValueError):  # of a line that was cut off
            row = {name: kind(line[name]) for name, kind in types.items()}
            rows += [row] if None not in line.values() else []
    return lines.fieldnames, rows


def sweep(files: Iterable[Path]) -> None:
    """Remove what killed runs have left half-written beside these files; nobody else may write them now."""
    places = {(file.parent, file.name[-50:]) for file in files}  # as much of a name as `whole_file` keeps
    for folder in {folder for folder, _ in places}:
        for partial in folder.glob(".partial-*"):
            ours = (folder, *partial.name.split("-", 2)[2:]) in places  # somebody else's may have fewer parts
            if ours and partial.is_file():
                partial.unlink(missing_ok=True)
