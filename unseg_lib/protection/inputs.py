"""Which files are protected, and under which name each copy is written: none leaves the output, none hides another."""

import glob
import mimetypes
import os
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.pictures import PICTURE_SUFFIXES
from unseg_lib.protection.photo import FORMATS

# ends of lines, commands to a terminal, bytes that are no text
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Input:
    """path: the original. name: its name below the input, "holiday/a.jpg". target: its copy's name below the output."""

    path: Path
    name: str
    target: str


def find_inputs(given: Iterable[str | Path], out: Path, format: str) -> list[Input]:
    """All pictures in files, folders (with their sub-folders) and patterns like "photos/*.jpg", in a stable order.

    Links that lead out of a folder are left alone, as are hidden files and `out` itself. Raises `UnsegError` for what
    does not exist and where there is no picture at all.
    """
    found: dict[Path, str] = {}
    for one in given:
        for path, name in _expand(str(one), out):
            found.setdefault(path, name)
    if not found:
        raise UnsegError(
            f"Expected pictures ({', '.join(PICTURE_SUFFIXES)}), found none in {', '.join(map(str, given))}."
        )
    targets = _targets(list(found.items()), format)
    originals = {path.resolve() for path in found}
    for target in targets:
        if (out / target).resolve() in originals:
            raise UnsegError(
                f"Expected originals and copies in two folders, found {target} to be both; choose another --out."
            )
    return [Input(path, name, target) for (path, name), target in zip(found.items(), targets)]


def is_picture(path: Path) -> bool:
    """Whether a file is a picture by its name, readable here or not, and not hidden."""
    known = path.suffix.lower() in PICTURE_SUFFIXES or (mimetypes.guess_type(path.name)[0] or "").startswith("image/")
    return known and not path.name.startswith(".")


def shown(text: str) -> str:
    """A text with names in it, fit for one line of a file or a terminal."""
    return UNPRINTABLE.sub("?", text)


def _expand(text: str, out: Path) -> list[tuple[Path, str]]:
    path = Path(text)
    if path.is_dir():
        if path.resolve().is_relative_to(out.resolve()):
            raise UnsegError(
                f"Expected pictures outside the output folder, found {path} in {out}; choose another --out."
            )
        return [(file, file.relative_to(path).as_posix()) for file in _pictures_below(path, out)]
    if path.is_file():
        return [(path, path.name)]
    matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))] if glob.has_magic(text) else []
    if not matches:
        raise UnsegError(f"Expected a file, a folder or a pattern that matches one, found '{text}'; check the path.")
    wanted = (match for match in matches if match.is_dir() or is_picture(match))
    return [pair for match in wanted for pair in _expand(str(match), out)]


def _pictures_below(folder: Path, out: Path) -> list[Path]:
    inside, away, found = folder.resolve(), out.resolve(), []
    for place, folders, files in os.walk(folder):  # does not follow links to folders
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(place) / name).resolve() != away
        )
        pictures = (Path(place) / name for name in sorted(files) if is_picture(Path(name)))
        found += [path for path in pictures if path.resolve().is_relative_to(inside)]
    return found


def _targets(files: list[tuple[Path, str]], format: str) -> list[str]:
    """A name for every copy. Two that would be one (a.jpg, a.png -> a.png) get their old suffix, then a number."""
    plain = [_target(name, format) for _, name in files]
    counts: dict[str, int] = {}
    for target in plain:
        counts[_key(target)] = counts.get(_key(target), 0) + 1
    taken, chosen = set(), []
    for (_, name), target in zip(files, plain):
        stem, suffix = os.path.splitext(target)
        if counts[_key(target)] > 1:
            stem = f"{stem}-{Path(name).suffix[1:].lower()}"
        wanted, number = f"{stem}{suffix}", 2
        while _key(wanted) in taken:
            wanted, number = f"{stem}-{number}{suffix}", number + 1
        taken.add(_key(wanted))
        chosen.append(wanted)
    return chosen


def _key(target: str) -> str:
    """Equal for names that are one on some disks: a and A, or an accent as part of a letter and by itself."""
    return unicodedata.normalize("NFC", target).casefold()


def _target(name: str, format: str) -> str:
    """ "holiday/a.JPG" -> "holiday/a.png"; characters that break a line or a path become "_"."""
    old = Path(name).suffix.lower()
    kept = FORMATS.get(old, "png")
    suffix = {"png": ".png", "jpeg": ".jpg"}.get(format) or (old if old in FORMATS and kept != "png" else ".png")
    parts = [UNPRINTABLE.sub("_", part).replace("\\", "_") for part in Path(name).with_suffix("").parts]
    return "/".join("_" if part in ("..", ".") else part for part in parts) + suffix
