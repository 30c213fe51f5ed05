"""Poison a data set: the same layout with other images, a manifest, and no half-written file.

Killed at any moment, the same call goes on where it was; n shards may run side by side, on several
machines with a common disk. While shard k of n works, its lines stand in manifest-<k>-of-<n>.csv. Who finds that all
images have a line merges them into manifest.csv, in the order of the set. So manifest.csv means: complete.
"""

import hashlib
import shutil
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError, pick
from unseg_lib.files import claim, sha256_if_readable, sha256_of, whole_file, write_csv
from unseg_lib.images import IGNORE, decode_image, encode_image, has_colours
from unseg_lib.method import SEGMENTER, generator_path
from unseg_lib.poisons import POISONS
from unseg_lib.poisons.manifest import Manifest, read_lines, sweep
from unseg_lib.poisons.settings import Apply, PoisonSettings, Sample
from unseg_lib.runtime import progress

FORMATS = ("png", "jpg")  # jpg: quality 95, 4:2:0, as the paper's files; breaks the budget, which the manifest shows
SETTINGS, MERGED, PARTS = "poison.json", "manifest.csv", "manifest-*-of-*.csv"
LEARNT = ".learnt.npz"  # what a poison that is fitted has learnt from the set
# seed: of the run; linf, rms: over 255; psnr: dB; protected: share of pixels inside the mask, 0 = left as it was;
# source_sha256: the image it was made from; sha256: the written file
TYPES = dict(id=str, seed=int, linf_inside=int, linf_outside=int, rms=float, psnr=float, ssim=float)
TYPES |= dict(sha256=str, protected=float, source_sha256=str)
COLUMNS = list(TYPES)


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
    shard (k,n): only images k, k+n, k+2n, ... jobs: threads that write and measure; memory grows by three images each.
    gray: images, which must be gray, are stored as one channel with the gray component of the noise.
    """
    out = Path(out)
    targets, classes = _targets(source, poison, out, shard, jobs, file_format), protected_classes(source, protect)
    if (out.is_file() or any(out.glob("[!.]*"))) and not (out / SETTINGS).exists():
        raise UnsegError(f"Expected a new or empty folder for the poisoned set, found other files in {out}.")
    mine = _identity(source, poison, settings, protect, file_format, gray)
    claim(out, mine, "poisoning", later=("segmenter", "sources"), note=SETTINGS)
    for path in source.annotation_files:
        if not (out / path).exists():  # it is whole if it is there, and the settings hold its checksum
            with whole_file(out / path) as unfinished:
                shutil.copyfile(Path(source.root) / path, unfinished)

    # what is there and still fits stays; the rest is made
    ids, known = source.ids[shard[0] :: shard[1]], read_rows(out)
    kept = lambda row, id: row["sha256"] == sha256_if_readable(targets[id])  # noqa: E731
    made_of = lambda row, id: row["source_sha256"] == sha256_of(source.image_path(id))  # noqa: E731
    done = {id: row for id in ids for row in known.get(id, []) if kept(row, id) and made_of(row, id)}
    todo = [id for id in ids if id not in done]
    if todo or not (out / MERGED).exists():
        manifest = Manifest(out / f"manifest-{shard[0]}-of-{shard[1]}.csv", TYPES)
        manifest.save(done.values())
        if todo:
            read = partial(_read, source, classes, gray)
            write = partial(_write, source, targets, settings.seed, manifest)
            # a poison that learns first sees the whole set, whatever the shard
            every = map(read, progress(source.ids, f"read for {poison}"))
            apply = POISONS[poison].make(with_fit(poison, every, settings, out / LEARNT))
            images = map(read, progress(todo, f"poison {poison}", len(ids), len(ids) - len(todo)))
            done |= {row["id"]: row for row in _rows(images, apply, write, jobs)}
        manifest.save(done[id] for id in ids)
        # who finds that no image of the whole set lacks a line merges those of all parts
        rows = {id: lines[-1] for id, lines in read_rows(out).items()} | done
        if rows.keys() >= set(source.ids) and all(path.exists() for path in targets.values()):  # a line comes first
            write_csv(out / MERGED, [rows[id] for id in source.ids], COLUMNS)
            for part in out.glob(PARTS):
                part.unlink(missing_ok=True)
            sweep([*targets.values(), *(out / path for path in source.annotation_files)])
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
    known = {name: index for index, name in enumerate(source.classes)}
    return [pick(known, name.strip(), f"class of {source.name}:") for name in protect.split(",")]


def protected_mask(source, id: str, classes: list[int]) -> np.ndarray:
    """Where an image carries the noise of the inside, bool `(H,W)`: of `classes`, crowds left out (§ 2.5)."""
    label = source.label(id)
    mask = np.isin(label, classes) & (label != IGNORE)
    for one in source.crowds(id) if source.labelled_crowds else ():
        mask &= ~one.mask
    return mask


def with_fit(poison: str, images: Iterable[Sample], settings: PoisonSettings, path: Path) -> PoisonSettings:
    """Settings with what `poison` has learnt from the images, if it learns, kept in `path` (.npz), whole or absent.

    What is there is not learnt again, also if another shard has just finished it: all shards then use the same.
    """
    fit = POISONS[poison].fit
    if fit and not path.exists():
        arrays = fit(images, settings)
        if not path.exists():
            with whole_file(path) as unfinished:
                np.savez(unfinished, allow_pickle=False, **arrays)
    return replace(settings, fitted=path) if fit else settings


def read_rows(out: Path) -> dict[str, list[dict]]:
    """All lines of all manifests in `out`, by image; newer ones (of unmerged parts) last. Torn lines are left out."""
    rows = defaultdict(list)
    for path in [out / MERGED, *sorted(out.glob(PARTS))]:
        for row in read_lines(path, TYPES)[1]:
            rows[row["id"]].append(row)
    return rows


def _targets(source, poison: str, out: Path, shard: tuple[int, int], jobs: int, file_format: str) -> dict[str, Path]:
    """Where each image goes: its place in the set, with the format's suffix; once all that is asked for can be done."""
    pick(POISONS, poison, "poison")
    if not 0 <= shard[0] < shard[1]:
        raise UnsegError(f"Expected a shard (k, n) with 0 <= k < n, found {tuple(shard)}.")
    if jobs < 1:
        raise UnsegError(f"Expected at least one job, found {jobs}.")
    pick(dict.fromkeys(FORMATS), file_format, "file format")
    if not source.ids:
        raise UnsegError(f"Expected images in split {source.split} of {source.name}, found none.")
    if out.resolve() == Path(source.root).resolve():
        raise UnsegError(f"Expected a folder other than the data set's own, found {out}; the originals stay untouched.")
    targets = {id: out / Path(source.relative_image(id)).with_suffix(f".{file_format}") for id in source.ids}
    if len(set(targets.values())) < len(targets):
        raise UnsegError(f"Expected images of different names in {source.name}, found two that would share a file.")
    return targets


def _identity(source, poison: str, settings: PoisonSettings, protect: str, file_format: str, gray: bool) -> dict:
    """All that decides the bytes of a poisoned set; not how fast or where it is made."""
    about = POISONS[poison]
    generator = sha256_of(generator_path(settings.generator)) if about.needs_generator else None
    notes = [sha256_of(Path(source.root) / path) for path in source.annotation_files]
    mine = {"poison": poison, "eps": float(settings.eps), "eps_bg": float(settings.eps_bg), "seed": settings.seed}
    mine |= {"generator": generator, "prompt": settings.prompt if generator else None, "protect": protect}
    mine |= {"include_background": settings.include_background if about.by_class else None, "gray": gray}
    mine |= {"file_format": file_format, "dataset": source.name, "split": source.split, "classes": list(source.classes)}
    mine |= {"segmenter": sha256_of(SEGMENTER)} if about.needs_segmenter else {}
    mine |= {"working_size": list(source.working_size)} if source.working_size else {}
    lists = {"images": source.ids, "annotations": notes}
    if about.fit:  # what is learnt from all images is of these very ones
        lists["sources"] = [sha256_of(source.image_path(id)) for id in source.ids]
    return mine | {name: hashlib.sha256("\n".join(lines).encode()).hexdigest() for name, lines in lists.items()}


def _read(source, classes: list[int], gray: bool, id: str) -> Sample:
    pixels, label = source.image(id), source.label(id)
    if gray and has_colours(pixels):
        raise UnsegError(f"Expected gray images, found colours in {source.image_path(id)}; use gray=False.")
    return Sample(id, pixels, protected_mask(source, id, classes), label, gray, source.background)


def _rows(images: Iterable[Sample], apply: Apply, write: Callable[..., dict], jobs: int) -> Iterator[dict]:
    """Noise is made here, in order; writing and measuring, which cost more, go to `jobs` threads."""
    pending = deque()
    with ThreadPoolExecutor(jobs) as pool:
        for image in images:
            pending.append(pool.submit(write, image, apply(image)))
            if len(pending) > 2 * jobs:
                yield pending.popleft().result()
        yield from (future.result() for future in pending)


def _write(source, targets: dict[str, Path], seed: int, manifest: Manifest, image: Sample, pixels: np.ndarray) -> dict:
    target, made_from = targets[image.id], sha256_of(source.image_path(image.id))
    content = encode_image(pixels, target.suffix, gray=image.gray)
    row = {"id": image.id, "seed": seed, "source_sha256": made_from, "protected": round(float(image.mask.mean()), 6)}
    written = pixels if target.suffix == ".png" else decode_image(content)
    return manifest.write(target, content, row, original=image.pixels, written=written, mask=image.mask)
