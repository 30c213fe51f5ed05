"""Protect a folder of pictures: what `unseg protect` does.

Every picture gets UnSeg's noise around its mask and is written as PNG under its own name. Originals are
never touched. A picture that cannot be protected is named with its reason, and the others still are.
"""

import errno
import mimetypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, sha256_of, whole_file, write_csv
from unseg_lib.method.budget import measure
from unseg_lib.pictures import PICTURE_SUFFIXES, is_gray_file, read_label, read_picture, write_picture
from unseg_lib.poisons import POISONS, Picture, PoisonSettings
from unseg_lib.poisons.manifest import append_line
from unseg_lib.progress import progress

REPORT = "protected.csv"
# linf, rms: over 255; psnr: dB; protected: share of pixels inside the mask; problem: why a picture was left out
COLUMNS = ["picture", "written", "eps", "eps_bg", "protected", "linf_inside", "linf_outside", "rms", "psnr", "ssim"]
COLUMNS += ["sha256", "problem"]


def protect_folder(
    images: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    eps: float = 8,
    eps_bg: float = 2,
    generator: str = "small",
    device: str = "auto",
) -> list[dict]:
    """Protect the pictures that lie in `images` by the masks of the same stem in `masks`; write PNGs to `out`.

    A mask is 0 where nothing is to be protected and anything else where something is (a JPEG mask:
    at least 128); with an empty mask the picture is written unchanged. Gray files stay gray,
    transparency is kept. `out`/protected.csv has a line per picture, which is returned.
    Raises `UnsegError` at the end if a picture was left out, at once if nothing can be done at all.
    """
    images, masks, out = Path(images), Path(masks), Path(out)
    _check_folders(images, masks, out)
    pictures = _pictures_in(images)
    if not pictures:
        raise UnsegError(f"Expected pictures ({', '.join(PICTURE_SUFFIXES)}) in {images}, found none.")
    settings = PoisonSettings(eps, eps_bg, generator=str(generator), device=device)
    earlier = _earlier_rows(out)
    work = _Work(
        masks=_by_stem(_pictures_in(masks)),
        out=out,
        settings=settings,
        poison=POISONS["unseg"](settings),
        stems=Counter(path.stem.casefold() for path in pictures),  # some disks tell no A from a
        ours={row["written"] for row in earlier},
    )
    if not (out / REPORT).exists():
        write_csv(out / REPORT, [], COLUMNS)
    rows = [_protect_or_explain(path, work) for path in progress(pictures, "protect")]
    again = {row["written"] for row in rows}
    write_csv(out / REPORT, [row for row in earlier if row["written"] not in again] + rows, COLUMNS)
    _raise_if_left_out(rows, out)
    return rows


def _check_folders(images: Path, masks: Path, out: Path) -> None:
    for folder, what in ((images, "pictures"), (masks, "masks")):
        if not folder.is_dir():
            raise UnsegError(f"Expected a folder of {what} at {folder}, found none; check the path.")
        if out.resolve().is_relative_to(folder.resolve()):
            raise UnsegError(f"Expected an output folder outside the {what}, found {out} in {folder}; choose another.")
    if images.resolve() == masks.resolve():
        raise UnsegError(f"Expected pictures and masks in two folders, found both in {images}; move the masks.")
    if out.exists() and not out.is_dir():
        raise UnsegError(f"Expected a folder for the output, found a file at {out}; choose another.")


def _pictures_in(folder: Path) -> list[Path]:
    """All files that are pictures by their names, readable ones or not; hidden files and sub-folders are left alone."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and (_readable(path) or _is_picture(path))
    )


def _readable(path: Path) -> bool:
    return path.suffix.lower() in PICTURE_SUFFIXES


def _is_picture(path: Path) -> bool:
    return (mimetypes.guess_type(path.name)[0] or "").startswith("image/")


def _earlier_rows(out: Path) -> list[dict]:
    """The lines of files that earlier runs wrote and nobody changed since: only those may be replaced."""
    if not (out / REPORT).exists():
        return []
    rows = (row for row in read_csv(out / REPORT) if row.get("written") and row.get("sha256"))
    return [
        row for row in rows if (out / row["written"]).is_file() and sha256_of(out / row["written"]) == row["sha256"]
    ]


@dataclass(frozen=True)
class _Work:
    """What stays the same from picture to picture."""

    masks: dict[str, list[Path]]
    out: Path
    settings: PoisonSettings
    poison: Callable[[Picture], np.ndarray]
    stems: Counter
    ours: set[str]  # files in `out` that may be replaced


def _protect_or_explain(path: Path, work: _Work) -> dict:
    try:
        return _protect(path, work)
    except UnsegError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            raise  # no other picture would fare better
        return dict.fromkeys(COLUMNS, "") | {"picture": path.name, "problem": str(error)}


def _protect(path: Path, work: _Work) -> dict:
    target = work.out / f"{path.stem}.png"
    if work.stems[path.stem.casefold()] > 1:
        raise UnsegError(f"Expected different names, found several pictures that would become {target}; rename them.")
    if target.exists() and target.name not in work.ours:
        raise UnsegError(f"Expected to write {target}, found a file there that is not from here; move it away.")
    picture, alpha = _read(path, work.masks)
    poisoned = work.poison(picture)
    found = measure(picture.pixels, poisoned, picture.mask)
    layers = [poisoned[..., :1] if picture.gray else poisoned] + ([alpha] if alpha is not None else [])
    row = {
        "picture": path.name,
        "written": target.name,
        "eps": work.settings.eps,
        "eps_bg": work.settings.eps_bg,
        "protected": round(float(picture.mask.mean()), 6),
        **{name: round(value, 6) for name, value in found.items()},
        "problem": "",
    }
    with whole_file(target) as partial:
        layered = np.concatenate(layers, axis=2)
        write_picture(partial, layered, gray=layered.shape[2] == 1)
        row["sha256"] = sha256_of(partial)
        # the line comes before the file has its name: a killed run leaves none that the next would not know
        append_line(work.out / REPORT, [row[name] for name in COLUMNS])
    return row


def _read(path: Path, masks: dict[str, list[Path]]) -> tuple[Picture, np.ndarray | None]:
    """A picture with its mask, and its transparency `(H,W,1)` if it has any."""
    if not _readable(path):
        raise UnsegError(f"Expected {', '.join(PICTURE_SUFFIXES)}, found {path}; convert it first.")
    pixels = read_picture(path)
    with Image.open(path) as file:
        if getattr(file, "n_frames", 1) > 1:
            raise UnsegError(f"Expected one picture in {path}, found {file.n_frames}; save them one by one.")
        alpha = np.asarray(file.convert("RGBA"))[..., 3:] if file.has_transparency_data else None
    mask = _mask_for(path, masks)
    if mask.shape != pixels.shape[:2]:
        height, width = pixels.shape[:2]
        raise UnsegError(
            f"Expected a mask of {width}x{height} pixels for {path}, found {mask.shape[1]}x{mask.shape[0]}; "
            "draw it on the picture itself."
        )
    return Picture(path.stem, pixels, mask, mask.astype(np.uint8), is_gray_file(path)), alpha


def _by_stem(files: list[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in files:
        found.setdefault(path.stem, []).append(path)
    return found


def _mask_for(path: Path, masks: dict[str, list[Path]]) -> np.ndarray:
    """The mask bool `(H,W)` of the picture at `path`: of indexed and gray files any value but 0, else any colour."""
    found = masks.get(path.stem, [])
    if len(found) != 1:
        count = "none" if not found else f"several ({', '.join(mask.name for mask in found)})"
        raise UnsegError(f"Expected one mask called {path.stem} for {path}, found {count}.")
    values = read_label(found[0])
    with Image.open(found[0]) as file:
        if file.mode in ("RGBA", "LA", "PA"):
            raise UnsegError(
                f"Expected a mask without transparency in {found[0]}, found some; save it as black and white."
            )
        indexed = file.mode in ("1", "L", "P")
    if not indexed:
        values = read_picture(found[0]).max(axis=2)
    # JPEG leaves faint ripples around every edge
    return values >= 128 if found[0].suffix.lower() in (".jpg", ".jpeg") else values > 0


def _raise_if_left_out(rows: list[dict], out: Path) -> None:
    bad = [row for row in rows if row["problem"]]
    if bad:
        raise UnsegError(
            f"Protected {len(rows) - len(bad)} of {len(rows)} pictures; {len(bad)} left out, all listed in "
            f"{out / REPORT}, the first one because: {bad[0]['problem']}"
        )
