"""Which files are protected, what of them, and under which name each copy is written.

No copy leaves the output, none hides another. In masks, COCO's json, boxes and points a name means an image by its
name below the input ("day1/a.png"), or else by its plain name ("a.png").
"""

import glob
import mimetypes
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, count, product, repeat
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, sha256_if_readable
from unseg_lib.images import IMAGE_SUFFIXES, UNREAD, is_image
from unseg_lib.masks import OUTLINES, mask_key, read_mask
from unseg_lib.method import Region, find_region, segmenter_called
from unseg_lib.outlines import numbers_of, read_coco, read_places
from unseg_lib.protection.photo import FORMATS, RAW
from unseg_lib.protection.report import PREVIEWS, earlier_lines, is_preview

OTHER_SUFFIXES = (*RAW, *UNREAD)  # images that cannot be read: they get a line that says so
# ends of lines, commands to a terminal, bytes that are no text
UNPRINTABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Input:
    """path: the original. name: its name below the input, "holiday/a.jpg". target: its copy's name below the output,
    "" of a file that is no image."""

    path: Path
    name: str
    target: str


MaskOf = Callable[[Input, tuple[int, int]], np.ndarray]  # of a file and its (height, width): bool `(H,W)`, or places


def shown(text: str) -> str:
    """A text with names in it, fit for one line of a file or a terminal."""
    return UNPRINTABLE.sub("?", text)


# the files


def find_inputs(given: Iterable[str | Path] | str | Path, out: Path, format: str, masks: str = "") -> list[Input]:
    """All images in files, folders (with their sub-folders) and patterns like "photos/*.jpg", in a stable order.

    given: one of these, or several. Other files of a folder come last, so that they can be told of. Left alone are
    links that lead out of a folder, hidden files, `out` itself and our own copies there, and the folder of `masks`
    below a given one, unless it holds all there is, or outlines, which may lie beside their images. Raises `UnsegError`
    for what does not exist, for closed folders and where there is no image, `OSError` for refused paths.
    """
    given = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if odd := [type(one).__name__ for one in given if not isinstance(one, (str, Path))]:
        raise UnsegError(f"Expected files, folders or patterns, found {odd[0]}; give their paths.")
    pairs = [pair for one in given for pair in _expand(str(one), out)]
    pairs = _without_masks(pairs, given, Path(masks)) if masks else pairs
    lines = {_real(out) / line["written"]: line for line in earlier_lines(out) if line["written"]}
    found: dict[Path, tuple[Path, str]] = {}
    for path, name in pairs:
        place = _real(path.parent) / path.name  # one file may be given by two paths, but links have names of their own
        if not (lines[place]["sha256"] == sha256_if_readable(place) if place in lines else is_preview(place)):
            found.setdefault(place, (path, name))
    files, others, named = [], [], set(map(Path, given))
    for path, name in found.values():
        (files if path in named or _is_image(path) else others).append((path, name))
    if not files:
        what = ("none but copies of ours" if pairs and not others else "none") + f" in {', '.join(map(str, given))}"
        raise UnsegError(f"Expected images ({', '.join(IMAGE_SUFFIXES)}), found {what}.")
    targets, originals = _targets(files, format, list(lines.values())), {_real(path) for path, _ in files}
    if both := next((target for target in targets if _real(out / target) in originals), None):
        both += " to be both; choose another --out"
        raise UnsegError(f"Expected originals and copies in two folders, found {both}.")
    told = zip([*files, *others], chain(targets, repeat("")))
    return [Input(path, name, target) for (path, name), target in told]


def _without_masks(pairs: list[tuple[Path, str]], given: list[str | Path], masks: Path) -> list[tuple[Path, str]]:
    """What lies not in the folder of masks; all, if that was given itself, holds all there is, or holds outlines."""
    folder = _real(masks)
    others = [pair for pair in pairs if not _real(pair[0]).is_relative_to(folder)]
    if len(others) in (0, len(pairs)) or any(_real(Path(one)).is_relative_to(folder) for one in given):
        return pairs
    return pairs if any(path.suffix.lower() in OUTLINES for path in (masks, *masks.rglob("*"))) else others


def _real(path: Path) -> Path:
    """Without links, as `resolve`, which fails at a link to itself."""
    return Path(os.path.realpath(path))


def _is_image(path: Path) -> bool:
    """Whether a file is an image by its name, readable here or not, or else by its content."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    called_so = path.suffix.lower() in (*IMAGE_SUFFIXES, *OTHER_SUFFIXES) or kind.startswith("image/")
    return called_so or (path.is_file() and is_image(path))


def _expand(text: str, out: Path) -> Iterator[tuple[Path, str]]:
    """The files that a file's name, a folder's or a pattern means: paths, and their names below the input."""
    path, away = Path(text), _real(out)
    if path.is_dir():
        inside = _real(path)
        if inside.is_relative_to(away):
            raise UnsegError(f"Expected images outside the output folder, found {path} in {out}; choose another --out.")
        for place, folders, files in os.walk(path, onerror=_refuse):  # does not follow links to folders
            folders[:] = sorted(one for one in folders if not one.startswith(".") and _real(Path(place, one)) != away)
            images = (Path(place, name) for name in sorted(files) if not name.startswith("."))
            yield from ((one, one.relative_to(path).as_posix()) for one in images if _real(one).is_relative_to(inside))
    elif path.is_file():
        yield path, path.name
    else:
        matches = [Path(match) for match in sorted(glob.glob(text, recursive=True))] if glob.has_magic(text) else []
        if not matches:
            raise UnsegError(f"Expected a file, a folder or a pattern of one, found '{text}'; check the path.")
        # `out` and what is in it only if the pattern looks nowhere else
        for match in [match for match in matches if not _real(match).is_relative_to(away)] or matches:
            if os.path.isdir(match):
                yield from () if _real(match) == away / PREVIEWS else _expand(str(match), out)
            elif not match.name.startswith("."):  # readable or not: one bad file must not stop the others
                yield match, match.name


def _refuse(error: OSError) -> None:
    """Whoever protects a folder must not believe that all of it is protected."""
    found = f"none ({error.strerror}); open it, or give what else there is one by one"
    raise UnsegError(f"Expected a readable folder at {error.filename}, found {found}.") from error


def _targets(files: list[tuple[Path, str]], format: str, lines: list[dict]) -> list[str]:
    """A name for every copy. Two that would be one (a.jpg, a.png -> a.png) get their old suffix, then a number."""
    plain = [_target(path, name, format) for path, name in files]
    counts, earlier, targets = Counter(map(_key, plain)), defaultdict(list), {}
    for line in lines:
        earlier[line["image"]].append(line)
    # a copy that is there keeps its name, whatever images have come or gone since
    for place, ((path, name), target) in enumerate(zip(files, plain)):
        (stem, suffix), like = os.path.splitext(target), earlier[shown(name)]
        same = [line for line in like if line["written"].startswith(stem) and line["written"].endswith(suffix)]
        if counts[_key(target)] == 1 and all(line["written"] == target for line in same):
            continue  # nothing to choose from, so that the file need not be read for it
        sha256 = sha256_if_readable(path) if same else ""
        if line := next((line for line in same if line["source_sha256"] == sha256), None):
            like.remove(line)  # two images of one name and content have two copies
            targets[place] = line["written"]
    # new ones
    taken = set(map(_key, targets.values()))
    for place, target in enumerate(plain):
        if place not in targets:
            stem, suffix = os.path.splitext(target)
            if counts[_key(target)] > 1:
                stem = f"{stem}-{Path(files[place][1]).suffix[1:].lower()}"
            endings = chain([suffix], (f"-{number}{suffix}" for number in count(2)))
            targets[place] = next(f"{stem}{ending}" for ending in endings if _key(f"{stem}{ending}") not in taken)
            taken.add(_key(targets[place]))
    return [targets[place] for place in range(len(files))]


def _key(target: str) -> str:
    """Equal for names that are one on some disks: a and A, or an accent as part of a letter and by itself."""
    return unicodedata.normalize("NFC", target).casefold()


def _target(path: Path, name: str, format: str) -> str:
    """ "holiday/a.JPG" -> "holiday/a.png"; characters that break a line or a path become "_". A format is kept if it is
    known, but none is called JPEG that is not: its copy would lose what the file has."""
    old = Path(name).suffix.lower()
    if format == "keep" and FORMATS.get(old) == "jpeg" and path.is_file() and os.access(path, os.R_OK):
        with open(path, "rb") as file:
            old = old if file.read(3) == b"\xff\xd8\xff" else ".png"
    suffix = {"png": ".png", "jpeg": ".jpg", "keep": old if old in FORMATS else ".png"}[format]
    parts = [UNPRINTABLE.sub("_", part).replace("\\", "_") for part in Path(name).with_suffix("").parts]
    return "/".join("_" if part in ("..", ".") else part for part in parts) + suffix


# what of them


def masks_and_prompts(
    masks: str, classes: str, boxes: str, points: str, files: Sequence[Input], segmenter: str
) -> Callable[[Input, np.ndarray], Region]:
    """What the options of `unseg protect` say, by a file and its pixels, uint8 `(H,W,3)`; classes only with masks.

    masks: a folder with a mask or outlines for every image (see `masks.read_mask`; sub-folders as the images'), one
    such file for a single image, or COCO's json; classes: numbers of label maps, or names in a json, separated by
    commas. boxes: "x0,y0,x1,y1" for every image (several joined by ";"), or a CSV file with the columns
    image,x0,y0,x1,y1; points: likewise, x,y; between 0 and 1 they are shares of the image. files: of the whole batch.
    """
    given = [name for name, value in (("--masks", masks), ("--boxes", boxes), ("--points", points)) if value]
    if len(given) > 1:
        raise UnsegError(f"Expected one of --masks, --boxes and --points, found {' and '.join(given)}.")
    if classes and not masks:
        raise UnsegError("Expected --masks beside --classes, found none; classes are those of the masks.")
    segmenter_called(segmenter)  # refuses an unknown one, also where masks leave it without work
    if not given:
        return lambda file, pixels: find_region(pixels, segmenter=segmenter)
    names = Names(files)
    if masks:
        place, chosen = Path(masks), [name.strip() for name in classes.split(",")] if classes else []
        is_json = place.suffix.lower() == ".json" and place.is_file()
        content = read_json(place) if is_json else None
        if is_json and not (isinstance(content, dict) and "shapes" in content):  # LabelMe's has shapes
            mask_of = _coco_masks(content, place, chosen, names)
        else:
            mask_of = _mask_files(place, chosen, names, sum(bool(file.target) for file in files))
        return lambda file, pixels: Region(mask_of(file, pixels.shape[:2]), "mask")
    kind, columns = ("box", ("x0", "y0", "x1", "y1")) if boxes else ("points", ("x", "y"))
    places_of = _places(boxes or points, columns, names)
    return lambda file, pixels: find_region(pixels, **{kind: places_of(file, pixels.shape[:2])}, segmenter=segmenter)


def _ways(name: str, *, stems: bool = True) -> list[tuple[bool, str]]:
    """(whether it is whole, name) of all that a name may be called by: also without folders, and without suffix."""
    parts = PurePath(name).parts
    tails = [(start == 0, PurePath(*parts[start:])) for start in range(len(parts))]
    return [(whole, one.as_posix()) for whole, tail in tails for one in (tail, tail.with_suffix(""))[: 1 + stems]]


class Names:
    """The names of a batch's images; one that several folders have means none of them."""

    def __init__(self, files: Iterable[Input]):
        self.folders, self.shared = {}, set()
        for file in files:
            folder = os.path.realpath(file.path.parent)
            ways = {(whole, _key(way)) for whole, way in _ways(file.name)}
            self.shared |= {way for way in ways if self.folders.setdefault(way, folder) != folder}

    def find(self, file: Input, gets: Sequence[Callable[[str], Any]], where: Path, missing: str) -> Any:
        """What the first of `gets` has of an image by one of its names; missing: the sentence where none has any."""
        for get, (whole, name) in product(gets, _ways(file.name)):
            # macOS writes an accent as a letter of its own, most others as a part of its letter; cells are stripped
            spellings = (name, name.strip(), *(unicodedata.normalize(form, name) for form in ("NFC", "NFD")))
            if found := next(filter(None, map(get, spellings)), None):
                if (whole, _key(name)) in self.shared or (not whole and (True, _key(name)) in self.folders):
                    mend = "protect the folder above them, and name their sub-folders there, too"
                    found = f"found some in several folders; {mend}."
                    raise UnsegError(f"Expected one image called {name}, as {where} has it, {found}")
                return found
        raise UnsegError(missing)

    def lister(
        self, entries: Iterable[tuple[str, Any]], where: Path, what: str, *, stems: bool = True
    ) -> Callable[[Input], Any]:
        """Who finds an image's entry by the name that it has in `where`; stems: also where only the suffix differs.

        Of another machine's path, or one that leads elsewhere, the end counts.
        """
        whole, tails = defaultdict(list), defaultdict(list)
        for name, entry in entries:
            ways = _ways(name.replace("\\", "/").lstrip("/"), stems=stems)
            for is_whole, way in dict.fromkeys([(True, name), *ways]):
                (whole if is_whole else tails)[way].append((name, entry))

        def entry_of(file: Input) -> Any:
            missing = f"Expected {what} {file.name} in {where}, found none; add it, or protect it by itself."
            found = self.find(file, (whole.get, tails.get), where, missing)
            if len(found) > 1:
                called = f"found several ({', '.join(name for name, _ in found[:3])}); name its folder."
                raise UnsegError(f"Expected one image like {file.name} in {where}, {called}")
            return found[0][1]

        return entry_of


def _mask_files(place: Path, classes: list[str], names: Names, images: int) -> MaskOf:
    """Masks of files, of which each must have the size of its image; images: how many there are."""
    if not place.exists():
        raise UnsegError(f"Expected a folder of masks or COCO's json at {place}, found neither; check --masks.")
    if place.is_file() and images > 1:
        what = f"a folder of masks, or COCO's json, for {images} images"
        raise UnsegError(f"Expected {what}, found the file {place}; give its folder, or one image.")
    labelled = place if place.is_file() else next(place.rglob("*.json"), place)  # LabelMe's classes have names
    if labelled.suffix.lower() != ".json" and not all(name.isdecimal() for name in classes):
        found = f"found '{','.join(classes)}'."
        raise UnsegError(f"Expected the numbers of a label map's classes, e.g. --classes 1,15, {found}")
    chosen = [int(name) if name.isdecimal() else name for name in classes]

    @cache  # each sub-folder once, not for every image
    def masks_in(folder: Path, key: Callable[[str], str]) -> dict[str, list[Path]]:
        found = defaultdict(list)
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.suffix.lower() in (*IMAGE_SUFFIXES, *OUTLINES) and path.is_file():
                found[key(path.stem)].append(path)
        return found

    def called(key: Callable[[str], str], image: Path) -> Callable[[str], list[Path]]:
        def own(path: Path) -> bool:  # masks and outlines may lie beside their image, and then have the longer name
            beside = path.parent.samefile(image.parent) and len(path.stem) < len(image.stem)
            return not (beside or path.samefile(image))

        return lambda name: [*filter(own, masks_in((place / name).parent, key).get(key(PurePath(name).name), ()))]

    def mask_of(file: Input, shape: tuple[int, int]) -> np.ndarray:
        wanted, paths = f"Expected one mask called {Path(file.name).stem} in {place}, found", [place]
        if place.is_dir():
            paths = names.find(file, [called(key, file.path) for key in (str, mask_key)], place, f"{wanted} none.")
        if len(paths) > 1:
            raise UnsegError(f"{wanted} several ({', '.join(path.name for path in paths)}).")
        mask = read_mask(paths[0], chosen, shape)
        if mask.shape != shape:
            sides, size = (f"{width}x{height}" for height, width in (shape, mask.shape))
            raise UnsegError(f"Expected a mask of {sides} pixels in {paths[0]}, found {size}; draw it on the image.")
        return mask

    return mask_of


def _coco_masks(content: object, path: Path, classes: list[str], names: Names) -> MaskOf:
    """Masks of COCO's json: all objects of an image, crowds too, or those of the named classes."""
    images, mask_of = read_coco(content, path, classes)
    image_of = names.lister([(str(image.get("file_name") or ""), image) for image in images], path, "the image")
    return lambda file, shape: mask_of(image_of(file), shape)


def _places(text: str, columns: tuple[str, ...], names: Names) -> MaskOf:
    """Boxes or points in pixels `(k,4)` or `(k,2)`: the same for every image, or from a CSV file by its name."""
    if text.lower().endswith(".csv"):
        listed = read_places(Path(text), columns)
        places_of = names.lister(listed.items(), Path(text), "a line for", stems=False)
    else:
        listed = {"": [numbers_of(part.split(","), columns, text) for part in text.split(";")]}
        places_of = lambda file: listed[""]  # noqa: E731
    # one line's numbers may be between 0 and 1 by chance, those of all lines are not
    every = np.array([number for places in listed.values() for place in places for number in place])
    shares = every.size and every.min() >= 0 and every.max() <= 1 and (every != every.round()).any()

    def in_pixels(file: Input, shape: tuple[int, int]) -> np.ndarray:
        found = np.array(places_of(file))
        return found * np.tile(np.subtract(shape[::-1], 1), len(columns) // 2) if shares else found

    return in_pixels
