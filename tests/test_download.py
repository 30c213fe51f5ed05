"""Downloads and archives: resumed, checked, and never half there; hostile archives are refused."""

import hashlib
import io
import re
import shutil
import stat
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import tiny_sets
from tiny_sets import refused

from unseg_lib import datasets
from unseg_lib.datasets import CHECKSUMS, DATASETS, DOWNLOADS, SOURCES, check, fetch, get, load_dataset, unpack
from unseg_lib.files import read_json, write_json
from unseg_lib.masks import read_label

CONTENT = np.random.default_rng(0).bytes(3 * 2**20)


@pytest.fixture
def server():
    """A server of `files`; break_after: bytes after which a connection is cut; ranges: what it was asked."""
    state = SimpleNamespace(files={}, break_after=None, tag='"one"', resumes=True, ranges=[])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked, body = self.headers.get("Range"), state.files.get(self.path)
            state.ranges.append(asked)
            same = self.headers.get("If-Range") == state.tag
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same and state.resumes else 0
            if body is None or start >= len(body):
                self.send_error(404 if body is None else 416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            if state.tag:
                self.send_header("ETag", state.tag)
            self.end_headers()
            self.wfile.write(body[start:][: state.break_after])

        def log_message(self, *arguments):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    state.address = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join(5)


@pytest.fixture
def one_file(server, tmp_path):
    """A function that fetches the server's file, with a checksum or without."""
    server.files["/a.bin"] = CONTENT
    return lambda sum="": fetch(f"{server.address}/a.bin", tmp_path / "a.bin", sum, tmp_path / CHECKSUMS)


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def only(folder, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(names)


# one file


def test_a_file_is_fetched_and_checked(one_file, server, tmp_path, capsys, monkeypatch):
    with refused(r"Expected a\.bin with checksum sha256:0+ "):
        one_file("sha256:" + 64 * "0")
    assert only(tmp_path)
    assert one_file(sha256(CONTENT)).read_bytes() == CONTENT
    assert only(tmp_path, "a.bin")
    one_file("md5:" + hashlib.md5(CONTENT).hexdigest())  # there already
    # the first checksum is remembered, beside those that came meanwhile, and enforced
    (tmp_path / "a.bin").unlink()
    come, other = datasets.archives._receive, lambda: write_json(tmp_path / CHECKSUMS, {"b": "c"})
    monkeypatch.setattr("unseg_lib.datasets.archives._receive", lambda *given: (other(), come(*given)))
    one_file()
    assert sha256(CONTENT) in capsys.readouterr().out
    assert read_json(tmp_path / CHECKSUMS) == {"b": "c", f"{server.address}/a.bin": sha256(CONTENT)}
    (tmp_path / "a.bin").unlink()
    server.files["/a.bin"] = CONTENT[::-1]
    with refused("found another file"):
        one_file()
    assert only(tmp_path, CHECKSUMS)


def test_a_broken_download_goes_on_where_it_was(one_file, server, tmp_path):
    server.break_after = 2 * 2**20
    with refused("the same command goes on"):
        one_file(sha256(CONTENT))
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").stat().st_size > 0
    server.break_after = None
    kept = (tmp_path / "a.bin.part").stat().st_size
    assert one_file(sha256(CONTENT)).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"] and only(tmp_path, "a.bin")


@pytest.mark.parametrize("why", ["no range", "no tag", "weak tag", "another file", "killed behind the last byte"])
def test_where_nothing_can_be_resumed_it_starts_again(why, one_file, server, tmp_path):
    server.resumes = why != "no range"
    server.tag = {"no tag": "", "weak tag": 'W/"one"'}.get(why, '"one"')
    server.break_after = 2**20
    with refused("goes on from there"):
        one_file()
    server.break_after, content = None, CONTENT
    if why == "another file":
        server.tag, content = '"two"', CONTENT[::-1]
        server.files["/a.bin"] = content
    if why == "killed behind the last byte":
        (tmp_path / "a.bin.part").write_bytes(CONTENT)
    assert one_file().read_bytes() == content


def test_a_full_disk_and_server_errors_are_one_sentence(one_file, server, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with refused("No space left on device"):
        one_file()
    (tmp_path / "a.bin.part").unlink()
    (tmp_path / "a.bin.part.json").unlink()
    answers = {server.address: "the server says 404 Not Found", "http://127.0.0.1:9": "ConnectionError"}
    for address, words in answers.items():
        with refused(f"Could not download .*{words}"):
            fetch(f"{address}/none", tmp_path / "none", "", tmp_path / CHECKSUMS)
    assert only(tmp_path)
    assert datasets.name_of("https://x.org/a/NWPU%20VHR-10.zip?download=1") == "NWPU VHR-10.zip"


# archives


def write_tar(path, members):
    """members: (name or ready `TarInfo`, bytes)."""
    with tarfile.open(path, "w:gz") as file:
        for name, content in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def write_zip(path, members):
    """members: (name or ready `ZipInfo`, bytes)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in members:
            file.writestr(*member)
    return path


WRITERS = {"tar": write_tar, "zip": write_zip}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_is_unpacked_without_the_rest(kind, tmp_path):
    members = [("set/im/a.txt", b"a"), ("set/b.txt", b"b"), ("other/c.txt", b"c"), ("settings.txt", b"d")]
    assert unpack(WRITERS[kind](tmp_path / "x", members), tmp_path / "out", "set") == 2
    assert (tmp_path / "out/im/a.txt").read_bytes() == b"a" and only(tmp_path / "out", "im", "b.txt")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "\\evil", "a/.."])
@pytest.mark.parametrize("kind", WRITERS)
def test_names_that_leave_the_folder_are_refused(kind, name, tmp_path):
    (tmp_path / "in").mkdir()
    archive = WRITERS[kind](tmp_path / "x", [("set/a.txt", b"a"), (name, b"evil")])
    for folder in ("", "set"):
        with refused("that leaves it; do not trust it"):
            unpack(archive, tmp_path / "in/out", folder)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, "zip"])
def test_links_and_devices_are_refused_but_outside_the_wanted_folder_left_alone(kind, tmp_path):
    if kind == "zip":
        write, link, content = write_zip, zipfile.ZipInfo("set/link"), b"/etc/passwd"
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
    else:
        write, link, content = write_tar, tarfile.TarInfo("set/link"), b""
        link.type, link.linkname = kind, "/etc/passwd"
    archive = write(tmp_path / "x", [("set/a.txt", b"a"), (link, content), ("good/a.txt", b"a")])
    with refused("found a link or device 'set/link'"):
        unpack(archive, tmp_path / "out", "set")
    assert only(tmp_path / "out")
    assert unpack(archive, tmp_path / "out", "good") == 1 and only(tmp_path / "out", "a.txt")


@pytest.mark.parametrize("kind", WRITERS)
def test_absurd_sizes_are_refused_before_anything_is_written(kind, tmp_path, monkeypatch):
    archive = WRITERS[kind](tmp_path / "x", [("a.txt", b"a"), ("b.txt", b"b"), ("bomb", bytes(8 * 2**20))])
    for owner, name, value, words in (
        (datasets.archives, "FREE_GROWTH", 2**20, "grows to an absurd size"),
        (datasets.archives, "MOST_FILES", 2, "grows to an absurd size"),
        (shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 5, 4), "the disk is full"),
    ):
        with monkeypatch.context() as patch, refused(words):
            patch.setattr(owner, name, value)
            unpack(archive, tmp_path / "out")
        assert only(tmp_path / "out")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_broken_archives_are_one_sentence(kind, keep, tmp_path):
    archive = WRITERS[kind](tmp_path / "x", [("a.txt", CONTENT[:200_000]), ("b.txt", CONTENT[:100_000])])
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    with refused(r"Expected a whole tar or zip archive"):
        unpack(archive, tmp_path / "out")


def test_changed_strange_and_contradictory_archives_are_refused(tmp_path):
    archive = write_zip(tmp_path / "x", [("a.txt", CONTENT[:1000])])
    with refused("Expected files in 'set'"):
        unpack(archive, tmp_path / "out", "set")
    content = bytearray(archive.read_bytes())
    content[200] ^= 1
    archive.write_bytes(content)
    for one in (archive, write_tar(tmp_path / "y", [("a", b"1"), ("a/b", b"2")])):  # a file that is also a folder
        with refused("broken one"):
            unpack(one, tmp_path / "out")


# whole sets


@pytest.fixture
def served(server, monkeypatch):
    """A function: let the set's archives be these contents, served here."""

    def serve(name: str, *contents: bytes, checksum: str = ""):
        found = []
        for archive, content in zip(SOURCES[name].archives, contents, strict=True):
            place = f"/{datasets.name_of(archive.url).replace(' ', '-')}"
            server.files[place] = content
            found.append(replace(archive, url=server.address + place, checksum=checksum))
        source = replace(SOURCES[name], archives=tuple(found))
        monkeypatch.setitem(SOURCES, name, source)
        if name in DATASETS:
            monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], source=source))

    return serve


@pytest.fixture
def kvasir(served, tmp_path):
    """The set `kvasir`, tiny, served here."""
    tiny_sets.kvasir(tmp_path / "original")
    content = Path(shutil.make_archive(tmp_path / "kvasir", "zip", tmp_path / "original")).read_bytes()
    served("kvasir", content, checksum=sha256(content))


def nothing_but_downloads(root) -> bool:
    return only(root, DOWNLOADS) and not [path for path in (root / DOWNLOADS).iterdir() if path.is_dir()]


def test_a_set_is_downloaded_in_two_goes_and_read(kvasir, tmp_path, server, monkeypatch, capsys):
    monkeypatch.setattr("unseg_lib.datasets.archives.CHUNK", 512)
    root, server.break_after = tmp_path / "data", 2000
    with refused("goes on from there"):
        get("kvasir", root)
    assert nothing_but_downloads(root)
    server.break_after = None
    assert get("kvasir", root) == root / "Kvasir-SEG" and server.ranges[1].startswith("bytes=")
    assert check("kvasir", root) == {"train": 8, "test": 2}
    assert not list((root / DOWNLOADS).glob("*.zip*"))
    get("kvasir", root)
    assert "is there" in capsys.readouterr().out and len(server.ranges) == 2


def test_a_wrong_checksum_or_a_hostile_archive_is_no_set(served, tmp_path):
    members = [("Kvasir-SEG/images/a.jpg", b"a"), ("../../evil", b"b")]
    evil = write_zip(tmp_path / "evil.zip", members).read_bytes()
    for checksum, words in (("md5:" + 32 * "0", "found another file"), (sha256(evil), "that leaves it")):
        served("kvasir", evil, checksum=checksum)
        with refused(words):
            get("kvasir", tmp_path / "data")
    assert nothing_but_downloads(tmp_path / "data") and not list(tmp_path.rglob("evil"))


def test_interrupted_is_no_set_and_goes_on(kvasir, tmp_path, monkeypatch):
    # what a kill leaves, half an unpacked folder, is neither taken for the set nor kept
    root = tmp_path / "data"
    half = root / DOWNLOADS / "kvasir.unpacked/Kvasir-SEG/masks"
    half.mkdir(parents=True)
    (half / "stranger.jpg").write_bytes(b"half")
    with refused("unseg data get kvasir"):
        load_dataset("kvasir", root, "train")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("unseg_lib.datasets.download.os.replace", Mock(side_effect=KeyboardInterrupt))
        get("kvasir", root)
    assert not (root / "Kvasir-SEG").exists()
    for one, other in (("kvasir", "kvasir"), ("coift", "hrsod")):  # the latter are of one archive
        with datasets.download._alone(root, one, SOURCES[one].place), refused(f"of {other} .*found one running"):
            get(other, root)

    # another call ends while this one waits for its turn: it is not done again
    @contextmanager
    def late(*given):
        with alone(*given):
            (root / "Kvasir-SEG").mkdir()
            yield

    alone = datasets.download._alone
    with monkeypatch.context() as patch:
        patch.setattr(datasets.download, "_alone", late)
        assert get("kvasir", root).is_dir() and not any((root / "Kvasir-SEG").iterdir())
    (root / "Kvasir-SEG").rmdir()
    get("kvasir", root)
    assert check("kvasir", root) == {"train": 8, "test": 2}
    (tmp_path / "file").write_text("")
    with refused("Expected a data root that can be written"):
        get("kvasir", tmp_path / "file")


def test_plain_files_beside_an_archive(served, tmp_path):
    tiny_sets.nwpu(tmp_path / "original")
    folder = tmp_path / "original/NWPU_VHR-10"
    images = [(f"NWPU VHR-10 dataset/positive image set/{p.name}", p.read_bytes()) for p in folder.glob("images/*")]
    notes = [(tmp_path / "original" / archive.place).read_bytes() for archive in SOURCES["nwpu"].archives[1:]]
    served("nwpu", write_zip(tmp_path / "p.zip", images).read_bytes(), *notes)
    get("nwpu", tmp_path / "data")
    assert check("nwpu", tmp_path / "data") == {"train": 8, "val": 3}
    assert len(read_json(tmp_path / "data" / CHECKSUMS)) == 3


def test_sbd_is_merged_into_voc(served, tmp_path):
    from scipy.io import savemat

    # SBD's layout: MATLAB files and lists; 2007_000001 has a mask of VOC's own
    members = []
    for name, value in {"2007_000001": 9, "2008_000002": 4, "2009_000003": 5}.items():
        content = io.BytesIO()
        savemat(content, {"GTcls": {"Segmentation": tiny_sets.label(value)}})
        members.append((f"benchmark_RELEASE/dataset/cls/{name}.mat", content.getvalue()))
    lists = {"train": "2008_000002\n", "val": "2009_000003\n2007_000001\n"}
    members += [(f"benchmark_RELEASE/dataset/{name}.txt", text.encode()) for name, text in lists.items()]
    folder = tmp_path / "data/VOCdevkit/VOC2012"
    for split, name, value in (("train", "2007_000001", 1), ("val", "2009_000003", 2)):
        tiny_sets.write_text(folder / f"ImageSets/Segmentation/{split}.txt", f"{name}\n")
        tiny_sets.write_mask(folder / f"SegmentationClass/{name}.png", tiny_sets.label(value))
    served("voc-aug", write_tar(tmp_path / "b", members).read_bytes())
    get("voc-aug", tmp_path / "data")
    assert load_dataset("voc", tmp_path / "data", "train").ids == ("2007_000001", "2008_000002")
    masks = {path.stem: read_label(path).max() for path in (folder / "SegmentationClassAug").iterdir()}
    assert masks == {"2007_000001": 1, "2008_000002": 4, "2009_000003": 2}


def test_panoptic_annotations_are_merged_into_coco(served, tmp_path):
    tiny_sets.coco_panoptic(tmp_path / "original")
    notes = tmp_path / "original/coco/annotations"
    members = []
    for year in ("train2017", "val2017"):
        pngs = [(f"panoptic_{year}/{p.name}", p.read_bytes()) for p in sorted((notes / f"panoptic_{year}").iterdir())]
        inner = write_zip(tmp_path / f"{year}.zip", [*pngs, (f"__MACOSX/panoptic_{year}/._x.png", b"")])
        members.append((f"annotations/panoptic_{year}.zip", inner.read_bytes()))
        members.append((f"annotations/panoptic_{year}.json", (notes / f"panoptic_{year}.json").read_bytes()))
    served("coco-panoptic", write_zip(tmp_path / "p.zip", members).read_bytes())
    (tmp_path / "data/coco").mkdir(parents=True)
    for year in ("train2017", "val2017"):
        (tmp_path / "original/coco" / year).rename(tmp_path / "data/coco" / year)
    # killed between the two splits: the same call goes on
    (tmp_path / "data/coco/annotations/panoptic_train2017").mkdir(parents=True)
    for path in (notes / "panoptic_train2017").iterdir():
        path.rename(tmp_path / "data/coco/annotations/panoptic_train2017" / path.name)
    get("coco-panoptic", tmp_path / "data")
    assert check("coco-panoptic", tmp_path / "data") == {"train": 8, "val": 3}
    names = [f"panoptic_{split}2017{end}" for split in ("train", "val") for end in ("", ".json")]
    assert only(tmp_path / "data/coco/annotations", *names)


@pytest.mark.parametrize(
    ("do", "name", "words"),
    [
        *((get, name, "downloaded without a person: ") for name, source in SOURCES.items() if source.by_hand),
        (get, "folder", r"folder cannot be downloaded \(any folder with im/"),
        (get, "kvasr", "Unknown data set 'kvasr'; did you mean 'kvasir'"),
        (get, "voc-aug", "get voc first"),
        (get, "coco-panoptic", "get coco first"),
        (get, "ade20k-instances", "get ade20k first"),
        (check, "voc-aug", "has no reader"),
        (check, "davis", "has no reader; check folder:interactive/davis"),
        (check, "nonsense", "Unknown data set 'nonsense'"),
    ],
)
def test_what_cannot_be_got_or_checked_says_why(do, name, words, tmp_path):
    with refused(words):
        do(name, tmp_path)
    assert only(tmp_path)


# the registry


def test_every_source_can_be_had_and_every_reader_has_one():
    plain = ("host.robots.ox.ac.uk", "images.cocodataset.org", "sceneparsing.csail.mit.edu")
    for name, source in SOURCES.items():
        assert source.title and source.licence and source.paper and source.place and source.official, name
        for archive in source.archives:
            assert archive.url.startswith(("https://", *(f"http://{host}" for host in plain)))
    assert all(one.source == SOURCES.get(name) for name, one in DATASETS.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("by_hand: fly", ""), "Expected either archives or by_hand for mine in .*, found neither"),
        (("title: Kites", ""), "found no title; mend the file"),
        (("place: Mine", "place: 7"), "found place=7"),
        (("paper:", "papper:"), "found papper='nobody'"),
        (("by_hand: fly", "archives: [{uri: x}]"), "the keys url, checksum, .* of an archive of mine .* found uri='x'"),
        (("by_hand: fly", "archives: [{url: x, checksum: 'md5:7'}]"), "found checksum 'md5:7'"),
    ],
)
def test_a_file_of_sources_is_checked(change, words, tmp_path):
    text = "mine:\n  title: Kites\n  place: Mine\n  licence: CC0\n  paper: nobody\n  by_hand: fly\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert datasets.read_sources(tmp_path / "mine.yaml")["mine"].by_hand == "fly"
    (tmp_path / "mine.yaml").write_text(text.replace(*change))
    with refused(words):
        datasets.read_sources(tmp_path / "mine.yaml")


def test_list_names_every_set(tmp_path, capsys):
    tiny_sets.kvasir(tmp_path)
    datasets.list_sets(tmp_path)
    printed = capsys.readouterr().out
    assert all(name in printed for name in SOURCES) and re.search("^kvasir +here ", printed, re.MULTILINE)
    assert "unseg data get coift (size not published)" in printed and "COCO 2017 panoptic, needs coco;" in printed
    assert re.search("^scenes +- +generated", printed, re.M) and re.search("^folder:SUB +- +any folder", printed, re.M)
