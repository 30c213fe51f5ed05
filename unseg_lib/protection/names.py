"""Which image is meant by a name in somebody's masks, boxes or points: "day1/a.png", or plain "a.png"."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path, PurePath
from typing import TypeVar

from unseg_lib.errors import UnsegError
from unseg_lib.protection.inputs import Input

Found = TypeVar("Found")


class Names:
    """The names of a batch's images; a name that images of several folders share means none of them.

    key: what counts of a name, e.g. all of it, or all but its suffix.
    """

    def __init__(self, files: Iterable[Input], key: Callable[[str], str]):
        files, self.key = list(files), key
        self.ways = [(way, _shared(files, way)) for way in (self._below, self._plain)]

    def find(self, file: Input, get: Callable[[str], Found | None], where: Path) -> Found | None:
        """What `get` has of an image by its name below the input, or else by its plain name; None: nothing.

        Raises `UnsegError` if that may as well be meant for an image in another folder. where: for the sentence.
        """
        for way, shared in self.ways:
            name = way(file)
            if found := _spelt_either_way(get, name):
                if name in shared:
                    raise UnsegError(
                        f"Expected one image called {name}, as {where} has it, found some in several folders; "
                        "protect the folder above them, and name their sub-folders there, too."
                    )
                return found
        return None

    def _below(self, file: Input) -> str:
        return self.key(file.name)

    def _plain(self, file: Input) -> str:
        return self.key(PurePath(file.name).name)


def _spelt_either_way(get: Callable[[str], Found | None], name: str) -> Found | None:
    """macOS writes an accent as a letter of its own, most others as a part of its letter."""
    spellings = dict.fromkeys((name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD"))))
    return next((found for spelling in spellings if (found := get(spelling))), None)


def without_suffix(name: str) -> str:
    """ "day1/a.png" -> "day1/a"."""
    return PurePath(name).with_suffix("").as_posix()


def _shared(files: Iterable[Input], way: Callable[[Input], str]) -> set[str]:
    folders = defaultdict(set)
    for file in files:
        folders[way(file)].add(os.path.realpath(file.path.parent))
    return {name for name, places in folders.items() if len(places) > 1}
