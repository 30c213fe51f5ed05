"""Where the data sets come from, read from sources.yaml: addresses, checksums, licences, what is done by hand."""

import re
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import get_origin

import yaml

from unseg_lib.errors import UnsegError


@dataclass(frozen=True)
class Archive:
    """One file to download: `folder` in it becomes `place` below the data root; what is no archive becomes `place`."""

    url: str
    checksum: str = ""  # "sha256:..." or "md5:..."
    megabytes: int = 0  # 0: not published
    folder: str = ""
    place: str = ""


@dataclass(frozen=True)
class Source:
    """What is known of a data set's origin: how to get it, and the classes that its files do not name."""

    title: str
    place: str  # the folder (or file) below the data root whose presence means that the set is there
    licence: str
    paper: str
    archives: tuple[Archive, ...] = ()
    by_hand: str = ""  # what to do where nothing can be downloaded without an account or the reading of terms
    needs: str = ""  # the set that this one completes
    merge: str = ""  # "module:function" that puts what the first archive held into the folder of that set
    official: str = ""  # how many images the whole set has
    classes: tuple[str, ...] = ()  # index -> name
    stuff: tuple[str, ...] = ()  # those of them that cannot be counted


def read_sources(path: str | Path) -> dict[str, Source]:
    """{name: Source} of a YAML file; `UnsegError` where a key is missing, unknown or of another type."""
    found = {}
    for name, content in yaml.safe_load(Path(path).read_text()).items():
        where = f"{name} in {path}"
        archives = tuple(record_of(Archive, one, f"an archive of {where}") for one in content.get("archives", ()))
        found[name] = record_of(Source, content | {"archives": archives}, where)
        if bool(archives) == bool(found[name].by_hand):
            both = "both" if archives else "neither"
            raise UnsegError(f"Expected either archives or by_hand for {where}, found {both}.")
        for checksum in (archive.checksum for archive in archives):
            if not re.fullmatch(r"(sha256:\w{64}|md5:\w{32})?", checksum):
                raise UnsegError(f"Expected sha256: or md5: and its digits for {where}, found checksum '{checksum}'.")
    return found


def record_of(kind: type, content: dict, where: str):
    """A dataclass from a mapping of YAML; `UnsegError` where a key is missing, unknown or of another type."""
    types = {field.name: get_origin(field.type) or field.type for field in fields(kind)}
    content = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    wrong = [key for key, value in content.items() if not isinstance(value, types.get(key, ()))]
    wrong += [field.name for field in fields(kind) if field.default is MISSING and field.name not in content]
    if wrong:
        found = f"{wrong[0]}={content[wrong[0]]!r}" if wrong[0] in content else f"no {wrong[0]}"
        raise UnsegError(f"Expected the keys {', '.join(types)} of {where}, found {found}; mend the file.")
    return kind(**content)


SOURCES = read_sources(Path(__file__).with_name("sources.yaml"))
