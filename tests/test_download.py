"""Downloads and archives: resumed, checked, and never half there; hostile archives are refused."""

import hashlib
import io
import re
import stat
import tarfile
import threading
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import tiny_sets

from unseg_lib.datasets import (
    CHECKSUMS,
    DATASETS,
    DOWNLOADS,
    SOURCES,
    Archive,
    Source,
    check,
    get,
    list_sets,
    load_dataset,
    name_of,
)
from unseg_lib.datasets import archives as unpack_module
from unseg_lib.datasets import fetch, unpack
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.images import read_label, write_image

CONTENT = np.random.default_rng(0).bytes(3 * 2**20)

# of pycocotools with numpy 2
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


class Server:
    """What the tests' server serves and what it was asked."""

    def __init__(self):
        self.files: dict[str, bytes] = {}
        self.break_after = None  # bytes of a body after which the connection is cut
        self.tag = '"one"'
        self.resumes = True
        self.ranges: list[str | None] = []
        self.address = ""


def handler_for(server: Server) -> type:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            server.ranges.append(asked)
            body = server.files.get(self.path)
            if body is None:
                self.send_error(404)
                return
            same = self.headers.get("If-Range") == server.tag
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and same and server.resumes else 0
            if start >= len(body):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body) - start))
            if server.tag:
                self.send_header("ETag", server.tag)
            self.end_headers()
            self.wfile.write(body[start:][: server.break_after])

        def log_message(self, *arguments):
            pass

    return Handler


@pytest.fixture
def server():
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler_for(state))
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

    def fetch_it(checksum=None):
        return fetch(f"{server.address}/a.bin", tmp_path / "a.bin", checksum, tmp_path / CHECKSUMS)

    return fetch_it


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def only(folder, *names: str) -> bool:
    return {path.name for path in folder.iterdir()} == set(names)


# one file


def test_a_file_is_fetched_and_checked(one_file, tmp_path):
    assert one_file(sha256(CONTENT)).read_bytes() == CONTENT
    assert only(tmp_path, "a.bin")
    one_file("md5:" + hashlib.md5(CONTENT).hexdigest())  # there already


def test_another_checksum_leaves_nothing(one_file, tmp_path):
    with pytest.raises(UnsegError, match=r"Expected a\.bin with checksum sha256:0+ "):
        one_file("sha256:" + 64 * "0")
    assert only(tmp_path)


def test_first_checksum_is_remembered_and_enforced(one_file, server, tmp_path, capsys):
    one_file()
    assert sha256(CONTENT) in capsys.readouterr().out
    assert read_json(tmp_path / CHECKSUMS) == {f"{server.address}/a.bin": sha256(CONTENT)}
    (tmp_path / "a.bin").unlink()
    server.files["/a.bin"] = CONTENT[::-1]
    with pytest.raises(UnsegError, match="found another file"):
        one_file()
    assert only(tmp_path, CHECKSUMS)


def test_a_broken_download_goes_on_where_it_was(one_file, server, tmp_path):
    server.break_after = 2 * 2**20
    with pytest.raises(UnsegError, match="the same command goes on"):
        one_file(sha256(CONTENT))
    assert not (tmp_path / "a.bin").exists() and (tmp_path / "a.bin.part").stat().st_size > 0
    server.break_after = None
    kept = (tmp_path / "a.bin.part").stat().st_size
    assert one_file(sha256(CONTENT)).read_bytes() == CONTENT
    assert server.ranges == [None, f"bytes={kept}-"] and only(tmp_path, "a.bin")


def test_a_changed_file_is_not_glued_to_the_old_part(one_file, server, tmp_path):
    server.break_after = 2**20
    with pytest.raises(UnsegError):
        one_file()
    server.break_after, server.tag, server.files["/a.bin"] = None, '"two"', CONTENT[::-1]
    assert one_file().read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize("why", ["no range", "no tag", "weak tag"])
def test_where_nothing_can_be_resumed_it_starts_again(why, one_file, server):
    server.resumes = why != "no range"
    server.tag = {"no range": '"one"', "no tag": "", "weak tag": 'W/"one"'}[why]
    server.break_after = 2**20
    with pytest.raises(UnsegError):
        one_file()
    server.break_after = None
    assert one_file().read_bytes() == CONTENT


def test_killed_between_the_last_byte_and_its_place(one_file, server, tmp_path):
    server.break_after = 2**20
    with pytest.raises(UnsegError):
        one_file()
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    server.break_after = None
    assert one_file().read_bytes() == CONTENT


def test_a_full_disk_is_one_sentence(one_file, tmp_path):
    (tmp_path / "a.bin.part").symlink_to("/dev/full")
    with pytest.raises(UnsegError, match="No space left on device"):
        one_file()
    assert not (tmp_path / "a.bin").exists()


def test_server_errors_are_one_sentence(server, tmp_path):
    with pytest.raises(UnsegError, match="the server says 404 Not Found"):
        fetch(f"{server.address}/none", tmp_path / "none", None, tmp_path / CHECKSUMS)
    with pytest.raises(UnsegError, match=r"Could not download .*ConnectionError"):
        fetch("http://127.0.0.1:9/none", tmp_path / "none", None, tmp_path / CHECKSUMS)
    assert only(tmp_path)


def test_name_of_an_address():
    assert name_of("https://x.org/a/NWPU%20VHR-10.zip?download=1") == "NWPU VHR-10.zip"


# archives


def write_tar(path, members, mode="w:gz"):
    """members: (name, bytes) for a file, or a ready `TarInfo`."""
    with tarfile.open(path, mode) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return path


WRITERS = {"tar": write_tar, "zip": write_zip}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_is_unpacked_without_the_rest(kind, tmp_path):
    members = [("set/im/a.txt", b"a"), ("set/b.txt", b"b"), ("other/c.txt", b"c"), ("settings.txt", b"d")]
    archive = WRITERS[kind](tmp_path / "x", members)
    assert unpack(archive, tmp_path / "out", "set") == 2
    assert (tmp_path / "out/im/a.txt").read_bytes() == b"a" and only(tmp_path / "out", "im", "b.txt")


EVIL = ["../evil", "/evil", "a/../../evil", "..\\evil", "C:\\evil", "\\evil", "a/.."]


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("folder", ["", "set"])
def test_names_that_leave_the_folder_are_refused(kind, name, folder, tmp_path):
    (tmp_path / "in").mkdir()
    archive = WRITERS[kind](tmp_path / "x", [("set/a.txt", b"a"), (name, b"evil")])
    with pytest.raises(UnsegError, match="that leaves it; do not trust it"):
        unpack(archive, tmp_path / "in/out", folder)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != archive]


def link_in_tar(kind):
    info = tarfile.TarInfo("set/link")
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_tar_are_refused(kind, tmp_path):
    archive = write_tar(tmp_path / "x", [("set/a.txt", b"a"), link_in_tar(kind)])
    with pytest.raises(UnsegError, match="found a link or device 'set/link'"):
        unpack(archive, tmp_path / "out", "set")
    assert only(tmp_path / "out")


def test_links_in_zip_are_refused(tmp_path):
    info = zipfile.ZipInfo("set/link")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive = write_zip(tmp_path / "x", [("set/a.txt", b"a"), (info, b"/etc/passwd")])
    with pytest.raises(UnsegError, match="found a link or device 'set/link'"):
        unpack(archive, tmp_path / "out")
    assert only(tmp_path / "out")


def test_links_outside_the_wanted_folder_are_left_alone(tmp_path):
    archive = write_tar(tmp_path / "x", [link_in_tar(tarfile.SYMTYPE), ("good/a.txt", b"a")])
    assert unpack(archive, tmp_path / "out", "good") == 1 and only(tmp_path / "out", "a.txt")


@pytest.mark.parametrize("kind", WRITERS)
def test_absurd_sizes_are_refused_before_anything_is_written(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(unpack_module, "FREE_GROWTH", 2**20)
    archive = WRITERS[kind](tmp_path / "x", [("a.txt", b"a"), ("bomb", bytes(8 * 2**20))])
    with pytest.raises(UnsegError, match="grows to an absurd size"):
        unpack(archive, tmp_path / "out")
    assert only(tmp_path / "out")


def test_too_many_files_and_a_full_disk_are_refused(tmp_path, monkeypatch):
    archive = write_zip(tmp_path / "x", [(f"{i}.txt", b"a") for i in range(5)])
    monkeypatch.setattr(unpack_module, "MOST_FILES", 4)
    with pytest.raises(UnsegError, match="absurd size"):
        unpack(archive, tmp_path / "out")
    monkeypatch.setattr(unpack_module, "MOST_FILES", 5)
    monkeypatch.setattr(
        unpack_module.shutil, "disk_usage", lambda path: unpack_module.shutil._ntuple_diskusage(9, 5, 4)
    )
    with pytest.raises(UnsegError, match="the disk is full"):
        unpack(archive, tmp_path / "out")
    assert only(tmp_path / "out")


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_broken_archives_are_one_sentence(kind, keep, tmp_path):
    archive = WRITERS[kind](tmp_path / "x", [("a.txt", CONTENT[:200_000]), ("b.txt", CONTENT[:100_000])])
    content = archive.read_bytes()
    archive.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(UnsegError, match=r"Expected a (whole|tar or zip) archive"):
        unpack(archive, tmp_path / "out")


def test_a_changed_byte_in_a_zip_is_found(tmp_path):
    archive = write_zip(tmp_path / "x", [("a.txt", CONTENT[:1000])])
    content = bytearray(archive.read_bytes())
    content[200] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UnsegError, match="broken one"):
        unpack(archive, tmp_path / "out")


def test_an_archive_without_the_folder_is_refused(tmp_path):
    with pytest.raises(UnsegError, match="Expected files in 'set'"):
        unpack(write_zip(tmp_path / "x", [("a.txt", b"a")]), tmp_path / "out", "set")


def test_a_file_that_is_also_a_folder_is_refused(tmp_path):
    with pytest.raises(UnsegError, match="broken one"):
        unpack(write_tar(tmp_path / "x", [("a", b"1"), ("a/b", b"2")]), tmp_path / "out")


# whole sets


@pytest.fixture
def kvasir(server, monkeypatch, tmp_path):
    """The set `kvasir`, tiny, served here; a function that changes its record."""
    tiny_sets.kvasir(tmp_path / "original")
    files = [path for path in (tmp_path / "original").rglob("*") if path.is_file()]
    members = [(path.relative_to(tmp_path / "original").as_posix(), path.read_bytes()) for path in files]
    server.files["/kvasir.zip"] = write_zip(tmp_path / "kvasir.zip", members).read_bytes()

    def record(**changes):
        archive = Archive(f"{server.address}/kvasir.zip", sha256(server.files["/kvasir.zip"]), 1, "Kvasir-SEG")
        archive = replace(archive, place="Kvasir-SEG", **changes)
        monkeypatch.setitem(SOURCES, "kvasir", replace(SOURCES["kvasir"], archives=(archive,)))

    record()
    return record


def nothing_but_downloads(root) -> bool:
    return only(root, DOWNLOADS) and not [path for path in (root / DOWNLOADS).iterdir() if path.is_dir()]


def test_a_set_is_downloaded_and_read(kvasir, tmp_path, server, capsys):
    root = tmp_path / "data"
    assert get("kvasir", root) == root / "Kvasir-SEG"
    assert check("kvasir", root) == {"train": 8, "test": 2}
    assert not list((root / DOWNLOADS).glob("*.zip*"))
    get("kvasir", root)
    assert "is there" in capsys.readouterr().out and len(server.ranges) == 1


def test_a_broken_download_is_no_set_and_goes_on(kvasir, tmp_path, server, monkeypatch):
    monkeypatch.setattr("unseg_lib.datasets.archives.CHUNK", 512)
    root, server.break_after = tmp_path / "data", 2000
    with pytest.raises(UnsegError, match="goes on from there"):
        get("kvasir", root)
    assert nothing_but_downloads(root)
    with pytest.raises(UnsegError, match="unseg data get kvasir"):
        load_dataset("kvasir", root, "train")
    server.break_after = None
    get("kvasir", root)
    assert server.ranges[1].startswith("bytes=") and check("kvasir", root)


def test_a_wrong_checksum_is_no_set(kvasir, tmp_path):
    kvasir(checksum="md5:" + 32 * "0")
    with pytest.raises(UnsegError, match="found another file"):
        get("kvasir", tmp_path / "data")
    assert nothing_but_downloads(tmp_path / "data")


def test_a_hostile_archive_is_no_set(kvasir, tmp_path, server):
    members = [("Kvasir-SEG/images/a.jpg", b"a"), ("../../evil", b"b")]
    server.files["/kvasir.zip"] = write_zip(tmp_path / "evil.zip", members).read_bytes()
    kvasir()
    with pytest.raises(UnsegError, match="that leaves it"):
        get("kvasir", tmp_path / "data")
    assert nothing_but_downloads(tmp_path / "data") and not list(tmp_path.rglob("evil"))


def test_killed_while_unpacking_is_no_set(kvasir, tmp_path, monkeypatch):
    """What a kill leaves, half an unpacked folder, is neither taken for the set nor kept."""
    root = tmp_path / "data"
    half = root / DOWNLOADS / "kvasir.unpacked/Kvasir-SEG/masks"
    half.mkdir(parents=True)
    (half / "stranger.jpg").write_bytes(b"half")
    with pytest.raises(UnsegError, match="unseg data get kvasir"):
        load_dataset("kvasir", root, "train")
    get("kvasir", root)
    assert check("kvasir", root) == {"train": 8, "test": 2}


def test_interrupted_by_the_keyboard_is_no_set(kvasir, tmp_path, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("unseg_lib.datasets.download.os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        get("kvasir", tmp_path / "data")
    assert not (tmp_path / "data/Kvasir-SEG").exists()
    monkeypatch.undo()


def test_plain_files_beside_an_archive(server, monkeypatch, tmp_path):
    tiny_sets.nwpu(tmp_path / "original")
    folder = tmp_path / "original/NWPU_VHR-10"
    images = [(f"NWPU VHR-10 dataset/positive image set/{p.name}", p.read_bytes()) for p in folder.glob("images/*")]
    server.files["/images.zip"] = write_zip(tmp_path / "p.zip", images).read_bytes()
    archives = [replace(SOURCES["nwpu"].archives[0], url=f"{server.address}/images.zip", checksum=None)]
    for archive in SOURCES["nwpu"].archives[1:]:
        server.files[f"/{name_of(archive.url)}"] = (tmp_path / "original" / archive.place).read_bytes()
        archives.append(replace(archive, url=f"{server.address}/{name_of(archive.url)}"))
    monkeypatch.setitem(SOURCES, "nwpu", replace(SOURCES["nwpu"], archives=tuple(archives)))
    get("nwpu", tmp_path / "data")
    assert check("nwpu", tmp_path / "data") == {"train": 8, "val": 3}
    assert len(read_json(tmp_path / "data" / CHECKSUMS)) == 3


def sbd_archive(path):
    """SBD's layout: MATLAB files and lists; 2007_000001 has a mask of VOC's own."""
    from scipy.io import savemat

    members = []
    for name, value in {"2007_000001": 9, "2008_000002": 4, "2009_000003": 5}.items():
        content = io.BytesIO()
        savemat(content, {"GTcls": {"Segmentation": tiny_sets.label(value)}})
        members.append((f"benchmark_RELEASE/dataset/cls/{name}.mat", content.getvalue()))
    lists = {"train": "2008_000002\n", "val": "2009_000003\n2007_000001\n"}
    members += [(f"benchmark_RELEASE/dataset/{name}.txt", text.encode()) for name, text in lists.items()]
    return write_tar(path, members)


def test_sbd_is_merged_into_voc(server, monkeypatch, tmp_path):
    folder = tmp_path / "data/VOCdevkit/VOC2012"
    (folder / "ImageSets/Segmentation").mkdir(parents=True)
    (folder / "ImageSets/Segmentation/train.txt").write_text("2007_000001\n")
    (folder / "ImageSets/Segmentation/val.txt").write_text("2009_000003\n")
    for name, value in {"2007_000001": 1, "2009_000003": 2}.items():
        write_image(folder / f"SegmentationClass/{name}.png", tiny_sets.label(value)[..., None], gray=True)
    server.files["/benchmark.tgz"] = sbd_archive(tmp_path / "b").read_bytes()
    archive = replace(SOURCES["voc-aug"].archives[0], url=f"{server.address}/benchmark.tgz", checksum=None)
    monkeypatch.setitem(SOURCES, "voc-aug", replace(SOURCES["voc-aug"], archives=(archive,)))
    get("voc-aug", tmp_path / "data")
    assert load_dataset("voc", tmp_path / "data", "train").ids == ("2007_000001", "2008_000002")
    masks = {path.stem: read_label(path).max() for path in (folder / "SegmentationClassAug").iterdir()}
    assert masks == {"2007_000001": 1, "2008_000002": 4, "2009_000003": 2}


def test_panoptic_annotations_are_merged_into_coco(server, monkeypatch, tmp_path):
    tiny_sets.coco_panoptic(tmp_path / "original")
    notes = tmp_path / "original/coco/annotations"
    members = []
    for year in ("train2017", "val2017"):
        pngs = [(f"panoptic_{year}/{p.name}", p.read_bytes()) for p in sorted((notes / f"panoptic_{year}").iterdir())]
        inner = write_zip(tmp_path / f"{year}.zip", [*pngs, (f"__MACOSX/panoptic_{year}/._x.png", b"")])
        members.append((f"annotations/panoptic_{year}.zip", inner.read_bytes()))
        members.append((f"annotations/panoptic_{year}.json", (notes / f"panoptic_{year}.json").read_bytes()))
    server.files["/panoptic.zip"] = write_zip(tmp_path / "p.zip", members).read_bytes()
    archive = replace(SOURCES["coco-panoptic"].archives[0], url=f"{server.address}/panoptic.zip", checksum=None)
    monkeypatch.setitem(SOURCES, "coco-panoptic", replace(SOURCES["coco-panoptic"], archives=(archive,)))
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


def test_two_downloads_of_one_set_do_not_collide(kvasir, tmp_path):
    from unseg_lib.datasets.download import _alone

    with _alone(tmp_path / "data", "kvasir"), pytest.raises(UnsegError, match="found one running"):
        get("kvasir", tmp_path / "data")
    get("kvasir", tmp_path / "data")


def test_by_hand_sets_say_what_to_do(tmp_path):
    for name in ("lung", "cityscapes", "hqseg44k", "dis5k", "whu", "ssdd"):
        with pytest.raises(UnsegError, match="cannot be downloaded without a person: "):
            get(name, tmp_path)
    with pytest.raises(UnsegError, match="Unknown data set 'kvasr'; did you mean 'kvasir'"):
        get("kvasr", tmp_path)
    with pytest.raises(UnsegError, match="get voc first"):
        get("voc-aug", tmp_path)
    for name, needed in {"coco-panoptic": "coco", "ade20k-instances": "ade20k"}.items():
        with pytest.raises(UnsegError, match=f"get {needed} first"):
            get(name, tmp_path)
    with pytest.raises(UnsegError, match="has no reader"):
        check("voc-aug", tmp_path)
    with pytest.raises(UnsegError, match="Unknown data set 'nonsense'"):
        check("nonsense", tmp_path)
    assert only(tmp_path)


def test_a_root_that_cannot_be_written_is_one_sentence(kvasir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnsegError, match="Expected a data root that can be written"):
        get("kvasir", tmp_path / "file")


# the registry


def test_every_source_can_be_had_or_says_how():
    for name, source in SOURCES.items():
        assert isinstance(source, Source) and bool(source.archives) != bool(source.by_hand), name
        assert source.title and source.licence and source.paper and source.place and source.official
        for archive in source.archives:
            plain = ("host.robots.ox.ac.uk", "images.cocodataset.org", "sceneparsing.csail.mit.edu")
            assert archive.url.startswith(("https://", *(f"http://{host}" for host in plain)))
            assert archive.checksum is None or archive.checksum.partition(":")[0] in ("sha256", "md5")
            digits = {"sha256": 64, "md5": 32}
            assert (
                archive.checksum is None
                or len(archive.checksum.partition(":")[2]) == digits[archive.checksum.partition(":")[0]]
            )


def test_every_reader_has_a_source():
    assert set(DATASETS) - {"scenes", "folder"} <= set(SOURCES)


def test_list_names_every_set(tmp_path, capsys):
    tiny_sets.kvasir(tmp_path)
    list_sets(tmp_path)
    printed = capsys.readouterr().out
    assert all(name in printed for name in SOURCES) and re.search("^kvasir +here ", printed, re.MULTILINE)
    assert "unseg data get coift (size not published)" in printed and "COCO 2017 panoptic, needs coco;" in printed
