"""Which files are protected, and under which name each copy is written: none leaves the output, none hides another."""

import glob
import mimetypes
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import sha256_of
from unseg_lib.images import IMAGE_SUFFIXES
from unseg_lib.protection.lines import earlier_lines
from unseg_lib.protection.photo import FORMATS

# images that neither Pillow nor `mimetypes` knows everywhere: they get a line that says so
OTHER_SUFFIXES = (".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".nef", ".orf", ".raf", ".rw2", ".tga")
# ends of lines, commands to a terminal, bytes that are no text
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Input:
    """path: the original. name: its name below the input, "holiday/a.jpg". target: its copy's name below the output."""

    path: Path
    name: str
    target: str


def find_inputs(given: Iterable[str | Path], out: Path, format: str) -> list[Input]:
    """All images in files, folders (with their sub-folders) and patterns like "photos/*.jpg", in a stable order.

    Links that lead out of a folder are left alone, as are hidden files, `out` itself and copies that we wrote there.
    Raises `UnsegError` for what does not exist, for closed folders and where there is no image at all, `OSError`
    where the system refuses a path.
    """
    given = list(given)
    pairs = [pair for one in given for pair in _expand(str(one), out)]
    lines = {_real(out) / line["written"]: line for line in earlier_lines(out) if line["written"]}
    found: dict[Path, tuple[Path, str]] = {}
    for path, name in pairs:
        place = _real(path.parent) / path.name  # one file may be given by two paths, but links have names of their own
        if place not in lines or lines[place]["sha256"] != _sha256(place):
            found.setdefault(place, (path, name))
    if not found:
        what = "none but copies of ours" if pairs else "none"
        raise UnsegError(
            f"Expected images ({', '.join(IMAGE_SUFFIXES)}), found {what} in {', '.join(map(str, given))}."
        )
    files = list(found.values())
    targets = _targets(files, format, list(lines.values()))
    originals = {_real(path) for path, _ in files}
    for target in targets:
        if _real(out / target) in originals:
            raise UnsegError(
                f"Expected originals and copies in two folders, found {target} to be both; choose another --out."
            )
    return [Input(path, name, target) for (path, name), target in zip(files, targets)]


def is_image(path: Path) -> bool:
    """Whether a file is an image by its name, readable here or not, and not hidden."""
    guessed = mimetypes.guess_type(path.name)[0] or ""
    known = path.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES) or guessed.startswith("image/")
    return known and not path.name.startswith(".")


def shown(text: str) -> str:
    """A text with names in it, fit for one line of a file or a terminal."""
    return UNPRINTABLE.sub("?", text)


def _expand(text: str, out: Path) -> list[tuple[Path, str]]:
    path = Path(text)
    if path.is_dir():
        if _real(path).is_relative_to(_real(out)):
            raise UnsegError(f"Expected images outside the output folder, found {path} in {out}; choose another --out.")
        return [(file, file.relative_to(path).as_posix()) for file in _images_below(path, out)]
    if path.is_file():
        return [(path, path.name)]
    matches = _matches(text, out) if glob.has_magic(text) else []
    if not matches:
        raise UnsegError(f"Expected a file, a folder or a pattern that matches one, found '{text}'; check the path.")
    pairs = []
    for match in matches:
        if os.path.isdir(match):
            pairs += _expand(str(match), out)
        elif is_image(match):  # readable or not: one bad file must not stop the others
            pairs.append((match, match.name))
    return pairs


def _matches(pattern: str, out: Path) -> list[Path]:
    """What a pattern matches; `out` and what is in it only if the pattern looks nowhere else."""
    matches, away = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))], _real(out)
    return [match for match in matches if not _real(match).is_relative_to(away)] or matches


def _images_below(folder: Path, out: Path) -> list[Path]:
    inside, away, found = _real(folder), _real(out), []
    for place, folders, files in os.walk(folder, onerror=_refuse):  # does not follow links to folders
        folders[:] = sorted(name for name in folders if not name.startswith(".") and _real(Path(place) / name) != away)
        images = (Path(place) / name for name in sorted(files) if is_image(Path(name)))
        found += [path for path in images if _real(path).is_relative_to(inside)]
    return found


def _refuse(error: OSError) -> None:
    """Whoever protects a folder must not believe that all of it is protected."""
    raise UnsegError(
        f"Expected a readable folder at {error.filename}, found none ({error.strerror}); open it, or give what "
        "else there is one by one."
    ) from error


def _real(path: Path) -> Path:
    """Without links, as `resolve`, which fails at a link to itself."""
    return Path(os.path.realpath(path))


def _targets(files: list[tuple[Path, str]], format: str, lines: list[dict]) -> list[str]:
    """A name for every copy. Two that would be one (a.jpg, a.png -> a.png) get their old suffix, then a number."""
    plain = [_target(name, format) for _, name in files]
    counts = Counter(map(_key, plain))
    known = _known(files, plain, counts, lines)
    taken, chosen = set(map(_key, known.values())), []
    for place, ((_, name), target) in enumerate(zip(files, plain)):
        if place in known:
            chosen.append(known[place])
            continue
        stem, suffix = os.path.splitext(target)
        if counts[_key(target)] > 1:
            stem = f"{stem}-{Path(name).suffix[1:].lower()}"
        wanted, number = f"{stem}{suffix}", 2
        while _key(wanted) in taken:
            wanted, number = f"{stem}-{number}{suffix}", number + 1
        taken.add(_key(wanted))
        chosen.append(wanted)
    return chosen


def _known(files: list[tuple[Path, str]], plain: list[str], counts: Counter, lines: list[dict]) -> dict[int, str]:
    """{place in `files`: the name of the copy that is there}, where an image that came or went would change it."""
    earlier, known = defaultdict(list), {}
    for line in lines:
        earlier[line["image"]].append(line)
    for place, ((path, name), target) in enumerate(zip(files, plain)):
        stem, suffix = os.path.splitext(target)
        form, like = re.compile(f"{re.escape(stem)}[^/]*{suffix}"), earlier[shown(name)]
        same = [line for line in like if form.fullmatch(line["written"])]
        if counts[_key(target)] == 1 and all(line["written"] == target for line in same):
            continue  # nothing to choose from, so that the file need not be read for it
        sha256 = _sha256(path) if same else ""
        if line := next((line for line in same if line["source_sha256"] == sha256), None):
            like.remove(line)  # two images of one name and content have two copies
            known[place] = line["written"]
    return known


def _sha256(path: Path) -> str:
    try:
        return sha256_of(path) if path.is_file() else ""
    except OSError:  # it gets its line when it is read
        return ""


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
