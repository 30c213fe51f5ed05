"""Poison a data set: the same layout with other images, a manifest, and no half-written file.

Killed at any moment, the same call goes on where it was; n shards may run side by side, on several
machines with a common disk.
"""

import hashlib
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError, closest, pick
from unseg_lib.files import read_json, sha256_of, whole_file, write_csv, write_json
from unseg_lib.images import has_colours, read_image, write_image
from unseg_lib.method import measure
from unseg_lib.poisons import POISONS, with_fit
from unseg_lib.poisons.manifest import COLUMNS, MERGED, append_line, finish, finished, part_path, read_rows
from unseg_lib.poisons.settings import IGNORE, PoisonSettings, Sample
from unseg_lib.runtime import progress

FORMATS = ("png", "jpg")  # jpg: quality 95, 4:2:0, as the paper's files; breaks the budget, which the manifest shows
SETTINGS = "poison.json"
LEARNT = ".learnt.npz"  # what a poison with a `fit` has learnt from the set


def poison_dataset(
    source,
    poison: str,
    out: str | Path,
    settings: PoisonSettings,
    *,
    protect: str = "all",
    shard: tuple[int, int] = (0, 1),
    jobs: int = 1,
    file_format: str = "png",
    gray: bool = False,
) -> list[dict]:
    """Write the poisoned copy of `source` (a `SegmentationSet`) to the folder `out`; return its manifest's rows.

    protect: "all" objects, "things" or "stuff" of a set that tells them apart, or class names joined by commas.
    shard (k,n): only images k, k+n, k+2n, ...
    jobs: threads that write and measure; memory grows by three images each. gray: images, which
    must be gray, are stored as one channel with the gray component of the noise.
    """
    out = Path(out)
    _check(source, poison, out, shard, jobs, file_format)
    wanted = protected_classes(source, protect)
    targets = _targets(source, out, file_format)
    _claim(out, _identity(source, poison, settings, protect, file_format, gray))
    _copy_annotations(source, out)

    ids = source.ids[shard[0] :: shard[1]]
    known = read_rows(out)
    done = {id: row for id in ids if (row := finished(known.get(id, []), targets[id], source.image_path(id)))}
    todo = [id for id in ids if id not in done]
    if todo or not (out / MERGED).exists():
        write_csv(part_path(out, shard), list(done.values()), COLUMNS)
        work = _Work(source, settings, wanted, gray, targets, part_path(out, shard), threading.Lock())
        done |= {row["id"]: row for row in _poison_all(work, poison, todo, len(ids), jobs)}
        if finish(out, source.ids, done, shard):
            _sweep([*targets.values(), *(out / path for path in source.annotation_files)])
    return [done[id] for id in ids]


def protected_classes(source, protect: str) -> list[int]:
    """Indices of the classes to protect: "all" but the background, the "things" or the "stuff", or the named ones."""
    if protect == "all":
        return [i for i in range(len(source.classes)) if i != source.background]
    if protect in ("things", "stuff") and protect not in source.classes:
        if source.things is None:
            raise UnsegError(
                f"Expected a data set that tells things from stuff for protect={protect}, found {source.name}; "
                "use protect=all or the names of classes."
            )
        return list(getattr(source, protect))
    names = [name.strip() for name in protect.split(",")]
    for name in names:
        if name not in source.classes:
            raise UnsegError(f"{source.name} has no class '{name}'; {closest(name, list(source.classes))}")
    return [source.classes.index(name) for name in names]


def _check(source, poison: str, out: Path, shard: tuple[int, int], jobs: int, file_format: str) -> None:
    pick(POISONS, poison, "poison")
    if not 0 <= shard[0] < shard[1]:
        raise UnsegError(f"Expected a shard (k, n) with 0 <= k < n, found {tuple(shard)}.")
    if jobs < 1:
        raise UnsegError(f"Expected at least one job, found {jobs}.")
    if file_format not in FORMATS:
        raise UnsegError(f"Unknown file format '{file_format}'; {closest(file_format, list(FORMATS))}")
    if not source.ids:
        raise UnsegError(f"Expected images in split {source.split} of {source.name}, found none.")
    if out.resolve() == Path(source.root).resolve():
        raise UnsegError(f"Expected a folder other than the data set's own, found {out}; the originals stay untouched.")


def _targets(source, out: Path, file_format: str) -> dict[str, Path]:
    """Where each image goes: its place in the set, with the format's suffix."""
    targets = {id: out / Path(source.relative_image(id)).with_suffix(f".{file_format}") for id in source.ids}
    if len(set(targets.values())) < len(targets):
        raise UnsegError(f"Expected images of different names in {source.name}, found two that would share a file.")
    return targets


def _identity(source, poison: str, settings: PoisonSettings, protect: str, file_format: str, gray: bool) -> dict:
    """All that decides the bytes of a poisoned set; not how fast or where it is made."""
    generator = None
    if POISONS[poison].needs_generator:
        from unseg_lib.method import generator_path

        generator = sha256_of(generator_path(settings.generator))
    notes = [sha256_of(Path(source.root) / path) for path in source.annotation_files]
    return {
        "poison": poison,
        "eps": float(settings.eps),
        "eps_bg": float(settings.eps_bg),
        "seed": settings.seed,
        "generator": generator,
        "prompt": settings.prompt if generator else None,
        "include_background": settings.include_background if POISONS[poison].by_class else None,
        "protect": protect,
        "file_format": file_format,
        "gray": gray,
        "dataset": source.name,
        "split": source.split,
        "classes": list(source.classes),
        "images": hashlib.sha256("\n".join(source.ids).encode()).hexdigest(),
        "annotations": hashlib.sha256("\n".join(notes).encode()).hexdigest(),
    }


def _claim(out: Path, identity: dict) -> None:
    """Write the settings into a new folder; refuse one that holds something else."""
    path = out / SETTINGS
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(not file.name.startswith(".") for file in out.iterdir())):
            raise UnsegError(f"Expected a new or empty folder for the poisoned set, found other files in {out}.")
        write_json(path, identity)
        return
    found = read_json(path)
    other = [name for name in identity if found.get(name) != identity[name]]
    if other:
        name = other[0]
        raise UnsegError(
            f"{out} holds a poisoning with {name}={found.get(name)}, asked for was {name}={identity[name]}; "
            "choose another folder or delete this one."
        )


def _copy_annotations(source, out: Path) -> None:
    for path in source.annotation_files:
        original, copy = Path(source.root) / path, out / path
        if not copy.exists():  # it is whole if it is there, and the settings hold its checksum
            with whole_file(copy) as partial:
                shutil.copyfile(original, partial)


@dataclass(frozen=True)
class _Work:
    """What stays the same from image to image."""

    source: object
    settings: PoisonSettings
    wanted: list[int]
    gray: bool
    targets: dict[str, Path]
    part: Path
    lock: threading.Lock

    def read(self, id: str) -> Sample:
        pixels, label = self.source.image(id), self.source.label(id)
        if self.gray and has_colours(pixels):
            raise UnsegError(f"Expected gray images, found colours in {self.source.image_path(id)}; use gray=False.")
        mask = np.isin(label, self.wanted) & (label != IGNORE)
        return Sample(id, pixels, mask, label, self.gray, self.source.background)

    def fitted(self, poison: str) -> PoisonSettings:
        """The settings, for a poison with a `fit` with what it has learnt from the whole set, whatever the shard."""
        every = (self.read(id) for id in progress(self.source.ids, f"read for {poison}"))
        return with_fit(poison, every, self.settings, self.part.with_name(LEARNT))

    def write(self, image: Sample, pixels: np.ndarray) -> dict:
        """Write one poisoned image, then its line of the manifest."""
        target, source = self.targets[image.id], self.source.image_path(image.id)
        write_image(target, pixels, gray=self.gray)
        written = pixels if target.suffix == ".png" else read_image(target)
        found = measure(image.pixels, written, image.mask)
        row = {
            "id": image.id,
            "seed": self.settings.seed,
            **{name: round(value, 6) for name, value in found.items()},
            "sha256": sha256_of(target),
            "protected": round(float(image.mask.mean()), 6),
            "source_sha256": sha256_of(source),
        }
        with self.lock:
            append_line(self.part, [row[name] for name in COLUMNS])
        return row


def _poison_all(work: _Work, poison: str, todo: list[str], total: int, jobs: int) -> Iterator[dict]:
    """Noise is made here, in order; writing and measuring, which cost more, go to `jobs` threads."""
    if not todo:
        return
    apply: Callable[[Sample], np.ndarray] = POISONS[poison].make(work.fitted(poison))
    pending: deque[Future] = deque()
    with ThreadPoolExecutor(jobs) as pool:
        for id in progress(todo, f"poison {poison}", total, total - len(todo)):
            image = work.read(id)
            pending.append(pool.submit(work.write, image, apply(image)))
            if len(pending) > 2 * jobs:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)


def _sweep(files: list[Path]) -> None:
    """Remove what killed runs left half-written beside the finished files of a complete set."""
    names = {file.name for file in files}
    for folder in {file.parent for file in files}:
        for partial in folder.glob(".partial-*"):
            if partial.name.split("-", 2)[2] in names:
                partial.unlink(missing_ok=True)
