"""One file from the network: resumed where it broke off, checked, and in its place only when it is whole."""

import os
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, sha256_of, write_json
from unseg_lib.runtime import progress

CHUNK = 2**16  # bytes; at most so many are lost when a connection breaks
WAIT = 60  # seconds without a byte before a connection counts as broken
CHECKSUMS = ".checksums.json"  # in the data root: address -> sha256 found by the first download


def fetch(url: str, path: str | Path, checksum: str | None, checksums: str | Path) -> Path:
    """Download `url` to `path` through pooch, which checks `checksum` ("sha256:..." or "md5:...").

    Without a checksum the one of the first download is remembered in the file `checksums` and enforced
    later. A download that broke off is kept as `path`.part and continued by the next call.
    """
    import pooch

    path, checksums = Path(path), Path(checksums)
    remembered = read_json(checksums) if checksums.is_file() else {}
    known = checksum or remembered.get(url)
    pooch.get_logger().setLevel("ERROR")  # progress is shown by us
    try:
        pooch.retrieve(url, known, fname=path.name, path=path.parent, downloader=_resume)
    except ValueError as error:
        raise UnsegError(
            f"Expected {path.name} with checksum {known} from {url}, found another file; try again later, and if that "
            f"does not help, {'ask the publisher' if checksum else f'compare it with {checksums}'}."
        ) from error
    if known is None:
        found = f"sha256:{sha256_of(path)}"
        write_json(checksums, remembered | {url: found})
        print(f"{path.name}: no checksum is published, {found} was found and is expected from now on.")
    return path


def _resume(url: str, output: str, pooch: object) -> None:
    """Pooch's downloader: goes on with the part that is there, if the server still has the same file."""
    import requests

    # pooch's own temporary file has another name each time
    target = Path(output).with_name(name_of(url) + ".part")
    note = target.with_name(target.name + ".json")
    start = target.stat().st_size if target.is_file() and note.is_file() else 0
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": read_json(note)["version"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=WAIT) as answer:
            if start and answer.status_code == 416:  # nothing is left to send, but the part was not moved: start again
                note.unlink()
                return _resume(url, output, pooch)
            answer.raise_for_status()
            _receive(answer, url, target, note, start if answer.status_code == 206 else 0)
    except requests.RequestException as error:
        raise UnsegError(
            f"Could not download {url} ({_reason(error)}); what came is kept, the same command goes on from there."
        ) from error
    os.replace(target, output)
    note.unlink(missing_ok=True)


def _receive(answer, url: str, target: Path, note: Path, start: int) -> None:
    """Append the body of an answer to `target`, of which `start` bytes are kept."""
    tag = answer.headers.get("ETag", "W/")  # a weak tag does not promise equal bytes
    version = answer.headers.get("Last-Modified") if tag.startswith("W/") else tag
    if version:  # without one a changed file could not be told from the old one: no resume
        write_json(note, {"version": version, "url": url})
    else:
        note.unlink(missing_ok=True)
    length = answer.headers.get("Content-Length")
    total = start + int(length) if length else None
    with open(target, "ab" if start else "wb") as file:
        chunks = answer.iter_content(CHUNK)
        if total:
            chunks = progress(chunks, f"download {target.stem}", -(-total // CHUNK), start // CHUNK)
        for chunk in chunks:
            _write(file, chunk, target)
    size = target.stat().st_size
    if total is not None and size != total:
        raise UnsegError(
            f"Expected {total} bytes from {url}, found {size}; what came is kept, the same command goes on from there."
        )


def _write(file, chunk: bytes, target: Path) -> None:
    try:
        file.write(chunk)
        file.flush()
    except OSError as error:
        raise UnsegError(
            f"Could not write {target} ({error.strerror}); free some space and run the same command again."
        ) from error


def _reason(error: Exception) -> str:
    answer = getattr(error, "response", None)
    return f"the server says {answer.status_code} {answer.reason}" if answer is not None else type(error).__name__


def name_of(url: str) -> str:
    """The file name at the end of an address."""
    from urllib.parse import unquote, urlsplit

    return unquote(urlsplit(url).path.rsplit("/", 1)[-1]) or "download"
