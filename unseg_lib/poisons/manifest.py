"""The manifest of a poisoned set: one line per image, appended as soon as its file is whole.

While shard k of n works, its lines stand in manifest-<k>-of-<n>.csv. Who finds that all images have a
line merges them into manifest.csv, in the order of the set. So manifest.csv means: complete.
A line counts only together with a file of its sha256: torn lines and damaged files are simply redone.
"""

import csv
import errno
import io
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, sha256_of, write_csv

MERGED = "manifest.csv"
# seed: of the run; linf, rms: over 255; psnr: dB; protected: share of pixels inside the mask, 0 = left as it was;
# source_sha256: the image it was made from; sha256: the written file
TYPES = {
    "id": str,
    "seed": int,
    "linf_inside": int,
    "linf_outside": int,
    "rms": float,
    "psnr": float,
    "ssim": float,
    "sha256": str,
    "protected": float,
    "source_sha256": str,
}
COLUMNS = list(TYPES)


def part_path(out: Path, shard: tuple[int, int]) -> Path:
    return out / f"manifest-{shard[0]}-of-{shard[1]}.csv"


def read_rows(out: Path) -> dict[str, list[dict]]:
    """All lines of all manifests in `out`, by image; newer ones (of unmerged parts) last. Torn lines are left out."""
    rows: dict[str, list[dict]] = {}
    for path in [out / MERGED, *sorted(out.glob("manifest-*-of-*.csv"))]:
        for row in _readable(path):
            rows.setdefault(row["id"], []).append(row)
    return rows


def _readable(path: Path) -> list[dict]:
    try:
        lines = read_csv(path)
    except FileNotFoundError:  # not there yet, or merged by another shard since it was listed
        return []
    return [row for row in map(_typed, lines) if row]


def _typed(line: dict) -> dict | None:
    """A line with its types; None for one that was cut off."""
    try:
        row = {name: kind(line[name]) for name, kind in TYPES.items()}
    except (KeyError, TypeError, ValueError):
        return None
    return row if len(row["sha256"]) == len(row["source_sha256"]) == 64 else None


def finished(rows: list[dict], target: Path, source: Path) -> dict | None:
    """The line that fits both the written file and the image it was made from, if there is one."""
    if not rows or not target.is_file():
        return None
    found, origin = sha256_of(target), sha256_of(source)
    return next((row for row in rows if (row["sha256"], row["source_sha256"]) == (found, origin)), None)


def append_line(path: Path, cells: list) -> None:
    """Append one line in a single write, so that a kill tears it at most once and never its neighbours."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    try:
        with open(path, "ab", buffering=0) as file:
            file.write(text.getvalue().encode())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UnsegError(
                f"Could not write {path}: the disk is full; free some space and run the same command again."
            ) from error
        raise


def finish(out: Path, ids: tuple[str, ...], mine: dict[str, dict], shard: tuple[int, int]) -> bool:
    """Write the shard's lines in order; merge, and return True, if no image of the whole set lacks a line."""
    write_csv(part_path(out, shard), [mine[id] for id in ids if id in mine], COLUMNS)
    merged = {id: rows[-1] for id, rows in read_rows(out).items()} | mine
    if not all(id in merged for id in ids):
        return False
    write_csv(out / MERGED, [merged[id] for id in ids], COLUMNS)
    for part in out.glob("manifest-*-of-*.csv"):
        part.unlink(missing_ok=True)
    return True
