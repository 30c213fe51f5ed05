"""What is told of copies: protected.csv, in lines and in words, and previews of regions."""

import csv
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePath
from statistics import fmean

import numpy as np
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.files import hold, whole_file, write_csv, writing
from unseg_lib.images import outlined, resize_label
from unseg_lib.method import digest, shrunk
from unseg_lib.poisons import read_lines
from unseg_lib.protection.photo import NO_COLOURS, ONE_CHANNEL

REPORT, PARTS = "protected.csv", "protected-*-of-*.csv"
# found_by: how the region was found; protected: its share of the image. linf_inside, linf_outside, rms: what the
# written file changes, in steps over 255; psnr: dB. bytes_before, bytes_after: sizes of the files. source_sha256,
# sha256: of original and copy; settings: fingerprint of everything else the copy depends on. remark: what could not
# be kept, or will hardly protect. problem: why there is no copy.
TYPES = dict(image=str, written=str, found_by=str, protected=float, eps=float, eps_bg=float)
TYPES |= dict(linf_inside=int, linf_outside=int, rms=float, psnr=float, ssim=float, bytes_before=int, bytes_after=int)
TYPES |= dict(source_sha256=str, sha256=str, settings=str, remark=str, problem=str)
COLUMNS = list(TYPES)
LIKELY = 0.001, 0.9  # share of an image that a region has which somebody means
SIDE = 1024  # pixels; the longer side of a preview
LONGEST = 255  # bytes of a name, as disks allow
PREVIEWS, OUTLINE = "preview", "outline of a protected region, by unseg"  # their folder, and what they say themselves


def new_line(image: str, **columns: object) -> dict:
    """A line of protected.csv; what is not given is 0 or empty."""
    return {name: kind() for name, kind in TYPES.items()} | {"image": image} | columns


def odd_region(line: dict) -> str:
    """A remark where the region is hardly one that somebody means; else, or where nothing else was found, ""."""
    if not line["protected"] or line["found_by"] == "whole image" or LIKELY[0] <= line["protected"] <= LIKELY[1]:
        return ""
    return f"the region is {100 * line['protected']:.3g} % of the image: is this what was meant?"


def earlier_lines(out: Path) -> list[dict]:
    """All lines of earlier runs and unfinished shards, typed, those of older versions, too; `UnsegError` on somebody
    else's protected.csv."""
    found: dict[tuple, dict] = {}
    for path in (*sorted(out.glob(PARTS)), out / REPORT):  # into which a part may go meanwhile
        found |= {tuple(line.values()): line for line in _lines(path)}
    return list(found.values())


def _lines(path: Path) -> list[dict]:
    try:
        size = path.stat().st_size if path.exists() else 0  # before another shard writes it
        columns, lines = read_lines(path, TYPES, {"picture": "image"})
    except (OSError, csv.Error) as error:
        found = f"found none ({getattr(error, 'strerror', error)}); move it away."
        raise UnsegError(f"Expected a readable report at {path}, {found}") from error
    if columns != COLUMNS and size:
        raise UnsegError(f"Expected none but our own report at {path}, found another file; move it away.")
    return lines


class Shard:
    """Part "k/n" of a batch, k from 0 to n - 1, or "" for all, by the names of its images."""

    def __init__(self, text: str = ""):
        k, slash, n = (text or "0/1").partition("/")
        if not (slash and k.isdecimal() and n.isdecimal() and int(k) < int(n)):
            raise UnsegError(f"Expected a shard k/n with k from 0 to n - 1, such as 0/8, found '{text}'.")
        self.k, self.n = int(k), int(n)

    def has(self, image: str) -> bool:
        """Whether an image belongs to this shard, by its name in protected.csv."""
        return int(hashlib.sha256(image.encode()).hexdigest(), 16) % self.n == self.k

    def report(self, out: Path) -> Path:
        return out / (REPORT if self.n == 1 else f"protected-{self.k}-of-{self.n}.csv")

    def finish(self, out: Path, rows: list[dict]) -> None:
        """Its lines replace their older ones in protected.csv; the others stay. Other shards wait meanwhile."""
        import fcntl

        if self.n == 1:  # the lines of all parts are its own, and none of them is at work
            for part in (*out.glob(PARTS), *out.glob(f".{PARTS}.lock")):
                part.unlink(missing_ok=True)
        while self.report(out).exists() and self.n > 1:
            with open(out / REPORT, "ab") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(file.fileno()), os.stat(out / REPORT)):  # else another has replaced it
                    others = [line for line in _lines(out / REPORT) if not self.has(line["image"])]
                    write_csv(out / REPORT, sorted([*others, *rows], key=lambda line: line["image"]), COLUMNS)
                    self.report(out).unlink()


@contextmanager
def alone(out: Path, shard: Shard) -> Iterator[None]:
    """Keep a second run out of the folder: the two would lose each other's lines. Different shards may run."""
    busy = f"Expected no other run in {out}, found one; wait for its end."
    lock = out / f".{shard.report(out).name}.lock"
    with ExitStack() as stack:
        folder = os.open(out, os.O_RDONLY)
        stack.callback(os.close, folder)
        hold(folder, busy, shared=shard.n > 1)
        if shard.n > 1:
            hold(stack.enter_context(open(lock, "wb")), busy)
            stack.callback(lock.unlink, missing_ok=True)
        yield


def check_new_png(path: Path, *, overwrite: bool = False) -> None:
    """Raise `UnsegError` on a name that is not of a PNG, or of a file that is there."""
    if path.suffix.lower() != ".png":
        raise UnsegError(f"Expected a name that ends in .png, found {path}; PNG keeps every pixel as it is.")
    if path.exists() and not overwrite:
        raise UnsegError(f"Expected to write {path}, found a file there; choose another name.")


# what may not protect: a sentence with the number of images, and of which rows it holds
WARNINGS = {
    "JPEG has changed {} of them beyond the budget, and may have weakened the protection; --format png does neither.": (
        lambda row: row["linf_inside"] > row["eps"] or row["linf_outside"] > row["eps_bg"]
    ),
    "In {} the region is empty, so no noise was added; check the masks.": lambda row: row["protected"] == 0,
    "In {} the region is nearly nothing or nearly everything (see its remark); is this what was meant?": odd_region,
    "In {} nothing stood out, so the whole image was taken; better say what to protect.": (
        lambda row: row["found_by"] == "whole image"
    ),
    "{} regions are no exact masks. Those the segmenter finds protected photographs nearly as well, but no X-rays "
    "(docs/protect.md): look at --preview, give --masks.": lambda row: row["found_by"] not in ("mask", "whole image"),
    "In {} the file has one channel and keeps only the gray part of the noise, which protected nothing where we "
    "measured it: take --rgb and --generator colour, or --generator grating.": lambda row: ONE_CHANNEL in row["remark"],
    "In {} there are no colours; there this generator stopped only models that start from ImageNet, none from random "
    "weights: take --generator colour, which stopped both.": lambda row: NO_COLOURS in row["remark"],
}


def summary(rows: list[dict], out: Path) -> str:
    """Lines of text about the rows of `protect_files`; budgets are those of the written files."""
    done = [row for row in rows if row["written"]]
    others = sum(not row["written"] and not row["problem"] for row in rows)  # are no images
    if not rows:
        return f"No image is of this shard; those of the others are in {out}."
    if not done:
        return f"No image was protected; {out / REPORT} says why."
    ways = ", ".join(f"{count} by {way}" for way, count in Counter(row["found_by"] for row in done).items())
    before, after = (sum(row[name] for row in done) / 1e6 for name in ("bytes_before", "bytes_after"))
    inside, outside = (max(row[name] for row in done) for name in ("linf_inside", "linf_outside"))
    psnr = [row["psnr"] for row in done if row["psnr"] != float("inf")]
    change = f"mean PSNR {fmean(psnr):.1f} dB" if psnr else "nothing was changed"
    counts = {sentence: sum(bool(holds(row)) for row in done) for sentence, holds in WARNINGS.items()}
    lines = [
        f"Protected images: {len(done)} in {out}; regions found: {ways}.",
        f"Largest change {inside} inside and {outside} outside the region, of 255 steps; {change}.",
        f"Size of the files: {before:.1f} MB before, {after:.1f} MB after.",
        *(sentence.format(count) for sentence, count in counts.items() if count),
        *([f"Files that are no images: {others}, left alone."] if others else []),
    ]
    return "\n".join([*lines, f"Every file has a line in {out / REPORT}."])


def preview(target: str) -> str:
    """Where below the output the outline of a copy's region goes, by another name where that is too long for a disk."""
    path = PurePath(PREVIEWS, f"{target}.jpg")
    return str(path if len(os.fsencode(path.name)) <= LONGEST else path.with_name(f"{digest(target)}.jpg"))


def is_preview(path: Path) -> bool:
    """Whether a file is a preview of ours, which may be replaced and is no original."""
    if PREVIEWS not in path.parts or not (path.is_file() and os.access(path, os.R_OK)):
        return False
    with open(path, "rb") as file:
        return OUTLINE.encode() in file.read(99)


def write_preview(path: Path, pixels: np.ndarray, mask: np.ndarray) -> None:
    """Write the outline of a region as JPEG, at most `SIDE` pixels a side; an older one is replaced."""
    small = shrunk(pixels, SIDE)
    seen = Image.fromarray(outlined(small, resize_label(mask, small.shape[:2])))
    with writing(path), whole_file(path) as partial:
        seen.save(partial, "JPEG", quality=90, comment=OUTLINE)
