"""`unseg data list | get NAME | check NAME`."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name

import numpy as np

from unseg_lib.datasets.archives import fetch, name_of, unpack
from unseg_lib.datasets.registry import DATASETS, PARTS, data_root, load_dataset, sources, splits_of
from unseg_lib.datasets.sources import Source
from unseg_lib.errors import UnsegError, pick
from unseg_lib.files import hold
from unseg_lib.images import IGNORE
from unseg_lib.runtime import progress

DOWNLOADS = ".downloads"  # below the data root: archives on their way
CHECKSUMS = ".checksums.json"  # in the data root: address -> sha256 found by the first download
SMALLEST, LARGEST = 0.001, 0.9  # shares of object pixels beyond which a set's masks are hardly masks
ARCHIVES = (".tar", ".tgz", ".tar.gz", ".zip")


def list_sets(root: str | Path | None = None) -> None:
    """Print every data set: whether it is there, its size, how to get it, its licence."""
    root, known = data_root(root), sources()
    wide = max(map(len, known))
    print(f"data root: {root}\n")
    for name, source in known.items():
        here = "here" if (root / source.place).exists() else "-"
        sizes = [archive.megabytes for archive in source.archives]
        size = f"{sum(sizes)} MB" if all(sizes) else "size not published"
        how = f"unseg data get {name} ({size})" if source.archives else f"by hand: {source.by_hand}"
        needs = f", needs {source.needs}" if source.needs else ""
        print(f"{name:{wide}} {here:5} {source.title}{needs}; {source.official}")
        print(f"{'':{wide + 6}} in {source.place}; {source.licence}\n{'':{wide + 6}} {how}\n")
    for name, one in DATASETS.items():
        if one.source is None:
            print(f"{name + ':SUB' * one.takes_place:{wide}} {'-':5} {one.words}")


def get(name: str, root: str | Path) -> Path:
    """Download and unpack a data set below `root`, or say in an error what must be done by hand.

    It is moved to its place as a whole: what is there is complete. Interrupted, the same call goes on.
    """
    root, known = Path(root), sources()
    if name == "scenes":
        load_dataset("scenes", root, "train")
        return root / "scenes"
    if name in DATASETS and name not in known:
        raise UnsegError(f"{name} cannot be downloaded ({DATASETS[name].words}); put it below the data root {root}.")
    source = pick(known, name, "data set")
    target = root / source.place
    if target.exists():
        print(f"{source.title} is there: {target} (delete it to download it again).")
        return target
    if not source.archives:
        place = f"below the data root {root} (licence: {source.licence})"
        raise UnsegError(f"{source.title} cannot be downloaded without a person: {source.by_hand}, {place}.")
    if source.needs and not (root / known[source.needs].place).is_dir():
        what = f"{known[source.needs].title} in {root} before {source.title}"
        raise UnsegError(f"Expected {what}, found none; get {source.needs} first.")
    with _alone(root, name, source.place):
        if not target.exists():  # another call may just have ended
            _download(root, name, source)
    print(f"{source.title}: {target} ({source.licence}; cite {source.paper}).")
    return target


@contextmanager
def _alone(root: Path, name: str, place: str) -> Iterator[None]:
    """Refuse a second download to one place: some sets share an archive. The lock dies with its process."""
    try:
        (root / DOWNLOADS).mkdir(parents=True, exist_ok=True)
        file = open(root / DOWNLOADS / f"{place.replace('/', '-')}.lock", "w")  # noqa: SIM115 - closed below
    except OSError as error:
        found = f"found {root} ({error.strerror}); name another with --data."
        raise UnsegError(f"Expected a data root that can be written, {found}") from error
    with file:
        hold(file, f"Expected no other download of {name} into {root}, found one running; wait for it.")
        yield


def _download(root: Path, name: str, source: Source) -> None:
    downloads, staging = root / DOWNLOADS, root / DOWNLOADS / f"{name}.unpacked"
    files = [fetch(one.url, downloads / name_of(one.url), one.checksum, root / CHECKSUMS) for one in source.archives]
    shutil.rmtree(staging, ignore_errors=True)  # of an interrupted call
    try:
        for archive, file in zip(source.archives, files):
            place = staging / archive.place
            if file.name.endswith(ARCHIVES):
                unpack(file, place, archive.folder)
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, place)
        # the set is there, or complete, from the last of these moves on
        if source.merge:
            resolve_name(source.merge)(staging / source.archives[0].place, root / sources()[source.needs].place)
        else:
            (root / source.place).parent.mkdir(parents=True, exist_ok=True)
            os.replace(staging / source.place, root / source.place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    for file in files:
        file.unlink()


def check(name: str, root: str | Path) -> dict[str, int]:
    """Read every image and mask of a data set; how many each split has. The first fault is an error."""
    known = sources()
    if name in known and name not in DATASETS:
        place = known[name].place
        way = f"; check folder:{place}" if place.startswith("interactive/") else ""
        raise UnsegError(f"Expected one of {', '.join(DATASETS)} to check, found {name}, which has no reader{way}.")
    ids, shares = {}, []  # shares: of object pixels, by image
    for split in (split for split in splits_of(name) if split not in PARTS):
        found = load_dataset(name, root, split)
        if found.ids in ids.values():  # of many sets "test" is val
            continue
        ids[split] = found.ids
        for id in progress(found.ids, f"checking {name} {split}"):
            _, label = found.image(id), found.label(id)
            if found.background is not None:
                shares.append(np.mean((label != found.background) & (label != IGNORE)))
            if found.things is not None:  # has masks of objects in files of their own
                found.instances(id)
    others = {id for split, part in ids.items() if split != "train" for id in part}
    if shared := others.intersection(ids.get("train", ())):
        raise UnsegError(f"Expected no image of {name} both in train and test, found {min(shared)}.")
    counts = {split: len(part) for split, part in ids.items()}
    has = ", ".join(f"{split} {count}" for split, count in counts.items())
    whole = f" (the whole set: {known[name].official})" if name in known and known[name].official else ""
    print(f"{name}: every image and mask can be read: {has}{whole}.")
    if shares and not SMALLEST < (share := float(np.mean(shares))) < LARGEST:
        print(f"But {share:.2%} of all pixels are object: is this what the masks mean? See data/README.md.")
    return counts
