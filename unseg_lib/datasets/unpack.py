"""Unpacking archives from strangers: nothing leaves its folder, no links, no bombs.

All names and sizes are checked before the first byte is written, and only plain files are written, by us:
stricter than tarfile's data filter, which lets links inside the archive through (and is not in Python 3.11.2).
"""

import errno
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from unseg_lib.errors import UnsegError
from unseg_lib.runtime import progress

MOST_FILES = 1_000_000
FREE_GROWTH, GROWTH = 100 * 2**20, 30  # bytes an archive may grow by anyway, and times its own size
BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError)
BROKEN += (NotImplementedError, RuntimeError)  # zipfile: unknown compression, a password


def unpack(archive: str | Path, into: str | Path, folder: str = "") -> int:
    """Unpack what is in `folder` of a tar (plain, gz, bz2, xz) or zip file into `into`; the number of files.

    A hostile or broken archive is refused with one sentence; what is in `into` then is for the caller to remove.
    """
    archive, into = Path(archive), Path(into)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                count = _write_all(archive, into, folder, _zip_members(file))
        elif tarfile.is_tarfile(archive):
            with tarfile.open(archive, "r:*") as file:
                count = _write_all(archive, into, folder, _tar_members(file))
        else:
            raise UnsegError(f"Expected a tar or zip archive in {archive}, found something else; download it again.")
    except BROKEN as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UnsegError(_full(archive)) from error
        raise UnsegError(f"Expected a whole archive in {archive}, found a broken one ({error}).") from error
    if not count:
        raise UnsegError(f"Expected files in '{folder}' of {archive}, found none; is it the right archive?")
    return count


# something in an archive: its name, its size, and a function that opens it (None: a link or device)
Member = tuple[str, int, Callable[[], IO[bytes]] | None]


def _write_all(archive: Path, into: Path, folder: str, members: Iterator[Member]) -> int:
    allowance, wanted = _Allowance(archive, into), []
    for name, size, open_it in members:
        place = _place(archive, name, folder)
        allowance.take(size, written=place is not None)
        if place is not None and open_it is None:
            raise UnsegError(f"Expected plain files in {archive}, found a link or device '{name}'; do not trust it.")
        if place is not None:
            wanted.append((place, open_it))
    for place, open_it in progress(wanted, f"unpacking {archive.name}"):
        target = into / place
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_it() as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 2**20)
    return len(wanted)


def _zip_members(file: zipfile.ZipFile) -> Iterator[Member]:
    for member in file.infolist():
        plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
        if not member.is_dir():
            yield member.filename, member.file_size, (lambda member=member: file.open(member)) if plain else None


def _tar_members(file: tarfile.TarFile) -> Iterator[Member]:
    for member in file:
        if not member.isdir():
            yield member.name, member.size, (lambda member=member: file.extractfile(member)) if member.isreg() else None


def _place(archive: Path, name: str, folder: str) -> Path | None:
    """Where a member goes, below the target; None if it is not in `folder`. Names that leave the target are refused."""
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise UnsegError(
            f"Expected names inside the archive {archive}, found '{name}' that leaves it; do not trust it."
        )
    if not path.is_relative_to(folder) or path == PurePosixPath(folder):
        return None
    return Path(path.relative_to(folder))


class _Allowance:
    """Counts files and bytes against what an archive of this size may hold and what the disk has."""

    def __init__(self, archive: Path, into: Path):
        self.archive, self.files = archive, 0
        self.bytes = FREE_GROWTH + GROWTH * archive.stat().st_size
        into.mkdir(parents=True, exist_ok=True)
        self.free = shutil.disk_usage(into).free

    def take(self, size: int, written: bool) -> None:
        self.files, self.bytes, self.free = self.files + 1, self.bytes - size, self.free - size * written
        if self.files > MOST_FILES or self.bytes < 0:
            raise UnsegError(
                f"Expected a data set in {self.archive}, found one that grows to an absurd size; do not trust it."
            )
        if self.free < 0:
            raise UnsegError(_full(self.archive))


def _full(archive: Path) -> str:
    return f"Could not unpack {archive}: the disk is full; free some space and run the same command again."
