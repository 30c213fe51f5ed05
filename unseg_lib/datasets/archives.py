"""Files from the network and archives from strangers: whole, checked, and nothing leaves its folder.

Of an archive all names and sizes are checked before the first byte is written, and only plain files are written, by us:
stricter than tarfile's data filter, which lets links inside the archive through (and is not in Python 3.11.2).
"""

import errno
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO
from urllib.parse import unquote, urlsplit

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, sha256_of, told_if_full, write_json
from unseg_lib.runtime import progress

CHUNK = 2**16  # bytes; at most so many are lost when a connection breaks
WAIT = 60  # seconds without a byte before a connection counts as broken
MOST_FILES = 1_000_000
FREE_GROWTH, GROWTH = 100 * 2**20, 30  # bytes an archive may grow by anyway, and times its own size
BROKEN = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, OSError)
BROKEN += (NotImplementedError, RuntimeError)  # zipfile: unknown compression, a password
KEPT = "what came is kept, the same command goes on from there"


def fetch(url: str, path: str | Path, checksum: str, checksums: str | Path) -> Path:
    """Download `url` to `path` through pooch, which checks `checksum` ("sha256:..." or "md5:...").

    Without a checksum the one of the first download is remembered in the file `checksums` and enforced later. What
    broke off is kept as NAME.part and continued by the next call.
    """
    import pooch

    path, checksums = Path(path), Path(checksums)
    remembered = lambda: read_json(checksums) if checksums.is_file() else {}  # noqa: E731
    known = checksum or remembered().get(url)
    pooch.get_logger().setLevel("ERROR")  # progress is shown by us
    try:
        pooch.retrieve(url, known, fname=path.name, path=path.parent, downloader=_resume)
    except ValueError as error:
        advice = "ask the publisher" if checksum else f"compare it with {checksums}"
        found = f"found another file; try again later, and if that does not help, {advice}."
        raise UnsegError(f"Expected {path.name} with checksum {known} from {url}, {found}") from error
    if known is None:
        found = f"sha256:{sha256_of(path)}"
        write_json(checksums, remembered() | {url: found})  # others may have come meanwhile
        print(f"{path.name}: no checksum is published, {found} was found and is expected from now on.")
    return path


def _resume(url: str, output: str, pooch: object) -> None:
    """Pooch's downloader: goes on with the part that is there, if the server still has the same file."""
    import requests

    # pooch's own temporary file has another name each time
    target = Path(output).with_name(name_of(url) + ".part")
    note = target.with_name(target.name + ".json")  # which version of the file it is a part of
    start = target.stat().st_size if target.is_file() and note.is_file() else 0
    headers = {"Range": f"bytes={start}-", "If-Range": read_json(note)["version"]} if start else {}
    try:
        with requests.get(url, headers={"Accept-Encoding": "identity"} | headers, stream=True, timeout=WAIT) as answer:
            if start and answer.status_code == 416:  # nothing is left to send, but the part was not moved: start again
                note.unlink()
                return _resume(url, output, pooch)
            answer.raise_for_status()
            _receive(answer, target, note, start if answer.status_code == 206 else 0)
    except requests.RequestException as error:
        answer = error.response
        reason = type(error).__name__ if answer is None else f"the server says {answer.status_code} {answer.reason}"
        raise UnsegError(f"Could not download {url} ({reason}); {KEPT}.") from error
    except OSError as error:
        found = f"({error.strerror}); free some space and run the same command again."
        raise UnsegError(f"Could not write {target} {found}") from error
    os.replace(target, output)
    note.unlink(missing_ok=True)


def _receive(answer, target: Path, note: Path, start: int) -> None:
    """Append the body of an answer to `target`, of which `start` bytes are kept; requests checks its length."""
    tag = answer.headers.get("ETag", "W/")  # a weak tag does not promise equal bytes
    version = answer.headers.get("Last-Modified") if tag.startswith("W/") else tag
    if version:  # without one a changed file could not be told from the old one: no resume
        write_json(note, {"version": version})
    else:
        note.unlink(missing_ok=True)
    chunks = answer.iter_content(CHUNK)
    if length := answer.headers.get("Content-Length"):
        total = -(-(start + int(length)) // CHUNK)
        chunks = progress(chunks, f"download {target.stem}", total, start // CHUNK)
    with open(target, "ab" if start else "wb") as file:
        for chunk in chunks:
            file.write(chunk)


def name_of(url: str) -> str:
    """The file name at the end of an address."""
    return unquote(urlsplit(url).path.rsplit("/", 1)[-1]) or "download"


def unpack(archive: str | Path, into: str | Path, folder: str = "") -> int:
    """Unpack what is in `folder` of a tar (plain, gz, bz2, xz) or zip file into `into`; the number of files.

    A hostile or broken archive is refused with one sentence; what is in `into` then is for the caller to remove.
    """
    archive, into = Path(archive), Path(into)
    opened, members = (zipfile.ZipFile, _zip_members) if zipfile.is_zipfile(archive) else (tarfile.open, _tar_members)
    try:
        with told_if_full(f"unpack {archive}"), opened(archive) as file:
            count = _write_all(archive, into, folder, members(file))
    except BROKEN as error:
        found = f"found something else or a broken one ({error}); download it again."
        raise UnsegError(f"Expected a whole tar or zip archive in {archive}, {found}") from error
    if not count:
        raise UnsegError(f"Expected files in '{folder}' of {archive}, found none; is it the right archive?")
    return count


# something in an archive: its name, its size, and a function that opens it (None: a link or device)
Member = tuple[str, int, Callable[[], IO[bytes]] | None]


def _zip_members(file: zipfile.ZipFile) -> Iterator[Member]:
    for member in file.infolist():
        plain = stat.S_IFMT(member.external_attr >> 16) in (0, stat.S_IFREG)
        if not member.is_dir():
            yield member.filename, member.file_size, partial(file.open, member) if plain else None


def _tar_members(file: tarfile.TarFile) -> Iterator[Member]:
    for member in file:
        if not member.isdir():
            yield member.name, member.size, partial(file.extractfile, member) if member.isreg() else None


def _write_all(archive: Path, into: Path, folder: str, members: Iterator[Member]) -> int:
    # first look at everything: names, kinds, how far it may grow and what the disk has
    into.mkdir(parents=True, exist_ok=True)
    allowed, free = FREE_GROWTH + GROWTH * archive.stat().st_size, shutil.disk_usage(into).free
    wanted = []
    for count, (name, size, open_it) in enumerate(members, start=1):
        place = _place(archive, name, folder)
        allowed, free = allowed - size, free - size * (place is not None)
        if count > MOST_FILES or allowed < 0:
            found = "found one that grows to an absurd size; do not trust it."
            raise UnsegError(f"Expected a data set in {archive}, {found}")
        if free < 0:
            raise OSError(errno.ENOSPC, "the disk is full")
        if place is not None and open_it is None:
            raise UnsegError(f"Expected plain files in {archive}, found a link or device '{name}'; do not trust it.")
        if place is not None:
            wanted.append((into / place, open_it))
    # then write
    for target, open_it in progress(wanted, f"unpacking {archive.name}"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with open_it() as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, 2**20)
    return len(wanted)


def _place(archive: Path, name: str, folder: str) -> Path | None:
    """Where a member goes, below the target; None if it is not in `folder`. Names that leave the target are refused."""
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root or ".." in windows.parts or "\0" in name:
        raise UnsegError(f"Expected names inside {archive}, found '{name}' that leaves it; do not trust it.")
    inside = path.is_relative_to(folder) and path != PurePosixPath(folder)
    return Path(path.relative_to(folder)) if inside else None
