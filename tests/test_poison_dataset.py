"""Poisoned data sets: whole, resumable after a kill, sharded, same bytes however they were made."""

import errno
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin
from toy_project import wait

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.files import append_line, read_csv, read_json, sha256_of, write_json
from unseg_lib.images import open_image, read_image, write_image
from unseg_lib.masks import read_label
from unseg_lib.poisons import COLUMNS, POISONS, PoisonSettings, poison_dataset, protected_classes, read_rows

PLAIN = PoisonSettings(seed=5)


def toy_at(root) -> SegmentationSet:
    """The toy set or a copy of it: images in pic/, label maps in lab/, a list of ids."""
    ids = tuple((root / "train.txt").read_text().split())
    notes = Path("train.txt"), *(Path("lab", f"{id}.png") for id in ids)
    images, classes = {id: Path("pic", id) for id in ids}, ("background", "disc", "bar")
    return SegmentationSet(
        "toy", root, "train", classes, ids, images, lambda id: read_label(root / "lab" / f"{id}.png"), notes
    )


def write_toy(root, n=5, gray=False, size=(20, 30)):
    """Images 0..n-1; the last one has nothing to protect."""
    (root / "pic").mkdir(parents=True)
    (root / "lab").mkdir()
    for i in range(n):
        pixels = np.random.default_rng(i).integers(0, 256, (*size, 1 if gray else 3), dtype=np.uint8)
        label = np.zeros(size, np.uint8)
        if i < n - 1:
            label[2:9, 3:12], label[12:18, 15:25], label[0] = 1, 2, 255
        Image.fromarray(pixels.squeeze()).save(root / "pic" / f"p{i}.bmp")
        Image.fromarray(label).save(root / "lab" / f"p{i}.png")
    (root / "train.txt").write_text("\n".join(f"p{i}" for i in range(n)))
    return toy_at(root)


@pytest.fixture
def toy(tmp_path):
    return write_toy(tmp_path / "toy")


def change_of(toy, out, id="p0"):
    """The largest change of every pixel, and which are protected."""
    change = np.abs(toy_at(out).image(id).astype(int) - toy.image(id)).max(axis=2)
    return change, np.isin(toy.label(id), [1, 2])


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_same_layout_and_true_manifest(toy, tmp_path):
    before, out = contents(toy.root), tmp_path / "out"
    rows = poison_dataset(toy, "random", out, PLAIN)
    assert contents(toy.root) == before
    copy = toy_at(out)
    assert copy.ids == toy.ids
    for id, row in zip(toy.ids, rows):
        change, mask = change_of(toy, out, id)
        assert np.array_equal(copy.label(id), toy.label(id))
        assert row["id"] == id and row["seed"] == 5
        assert row["linf_inside"] == change[mask].max(initial=0) <= 8
        assert row["linf_outside"] == change[~mask].max() <= 2
        assert row["sha256"] == sha256_of(copy.image_path(id))
        assert row["protected"] == pytest.approx(mask.mean(), abs=1e-6)
        assert not change[toy.label(id) == 255].any()
    # an empty mask leaves the image
    assert [rows[-1][name] for name in ("protected", "rms", "psnr", "ssim")] == [0, 0, float("inf"), 1]
    assert np.array_equal(copy.image("p4"), toy.image("p4"))
    # the file holds the returned rows
    lines = read_csv(out / "manifest.csv")
    assert list(lines[0]) == COLUMNS and [{name: str(row[name]) for name in row} for row in rows] == lines
    assert list(read_rows(out).values()) == [[row] for row in rows]
    assert {path.name for path in out.iterdir()} == {"pic", "lab", "train.txt", "manifest.csv", "poison.json"}


def test_protected_classes_by_hand(toy, tmp_path):
    assert protected_classes(toy, "all") == [1, 2]
    assert protected_classes(replace(toy, background=None), "all") == [0, 1, 2]
    assert protected_classes(toy, "bar, disc") == [2, 1]
    with pytest.raises(UnsegError, match="did you mean 'disc'"):
        protected_classes(toy, "dics")
    poison_dataset(toy, "gray_offset", tmp_path / "out", PLAIN, protect="disc")
    change, label = change_of(toy, tmp_path / "out")[0], toy.label("p0")
    assert change[label == 1].max() == 8 and change[label == 2].max() == 2


@pytest.mark.parametrize("jobs, shards", [(3, 1), (1, 2), (2, 7)])
def test_jobs_and_shards_change_no_byte(toy, tmp_path, jobs, shards):
    poison_dataset(toy, "random", tmp_path / "one", PLAIN)
    for k in reversed(range(shards)):
        rows = poison_dataset(toy, "random", tmp_path / "many", PLAIN, jobs=jobs, shard=(k, shards))
        assert [row["id"] for row in rows] == list(toy.ids[k::shards])
        assert (tmp_path / "many" / "manifest.csv").exists() == (k == 0)
        part = tmp_path / "many" / f"manifest-{k}-of-{shards}.csv"
        assert not k or [row["id"] for row in read_csv(part)] == list(toy.ids[k::shards])
        if k == 1:  # a line comes before its file has its name: nothing is merged yet
            file = tmp_path / "many" / toy.relative_image(rows[-1]["id"]).with_suffix(".png")
            late = file.rename(tmp_path / "late")
            poison_dataset(toy, "random", tmp_path / "many", PLAIN, shard=(0, shards))
            assert not (tmp_path / "many" / "manifest.csv").exists() and late.rename(file)
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def count_calls(monkeypatch):
    """Poison "random" with a list of the images that it was asked for."""
    asked, real = [], POISONS["random"]

    def counting(settings):
        poison = real.make(settings)
        return lambda image: (asked.append(image.id), poison(image))[1]

    monkeypatch.setitem(POISONS, "random", replace(real, make=counting))
    return asked


def test_nothing_is_done_twice_and_what_was_damaged_or_changed_is_redone(toy, tmp_path, monkeypatch):
    out = tmp_path / "out"
    asked = count_calls(monkeypatch)
    rows = poison_dataset(toy, "random", out, PLAIN)
    whole = contents(out)
    assert asked == list(toy.ids)
    asked.clear()
    assert poison_dataset(toy, "random", out, PLAIN) == rows
    assert asked == []

    (out / "pic" / "p2.png").write_bytes(b"damaged")
    (out / "pic" / "p3.png").unlink()
    # another number of shards may finish what one began
    (out / "manifest.csv").rename(out / "manifest-0-of-4.csv")
    assert poison_dataset(toy, "random", out, PLAIN) == rows
    assert asked == ["p2", "p3"] and contents(out) == whole

    asked.clear()
    Image.fromarray(255 - toy.image("p1")).save(toy.root / "pic" / "p1.bmp")
    (out / "manifest.csv").rename(out / "manifest-0-of-1.csv")
    poison_dataset(toy, "random", out, PLAIN)
    assert asked == ["p1"], "a changed original is poisoned anew"


def test_torn_lines_are_redone(toy, tmp_path):
    out = tmp_path / "out"
    poison_dataset(toy, "random", out, PLAIN)
    whole = contents(out)
    text = (out / "manifest.csv").read_text()
    for cut in (1, 30, 100, 260):  # inside the checksum, at its comma, in the line before, in the header
        (out / "manifest.csv").unlink()
        (out / "manifest-0-of-1.csv").write_text(text[:-cut])
        poison_dataset(toy, "random", out, PLAIN)
        assert contents(out) == whole


def poison_slowly(toy, out):
    """For a process of its own: whoever kills it meets an image half way."""
    real = Path.write_bytes

    def slow(path, content):
        real(path, content[: len(content) // 2])
        time.sleep(0.05)
        real(path, content)

    Path.write_bytes = slow
    poison_dataset(toy, "random", out, PLAIN)


def test_killed_and_resumed_is_bit_identical(tmp_path):
    toy, out = write_toy(tmp_path / "toy", n=150), tmp_path / "out"
    poison_dataset(toy, "random", tmp_path / "whole", PLAIN)
    process = multiprocessing.get_context("fork").Process(target=poison_slowly, args=(toy, out))
    process.start()
    wait(lambda: len(list(out.glob("pic/p*.png"))) >= 5, 60)
    process.kill()
    process.join()
    assert 5 <= len(read_rows(out)) < 150 and not (out / "manifest.csv").exists()
    poison_dataset(toy, "random", out, PLAIN, jobs=2)
    assert contents(out) == contents(tmp_path / "whole")


def test_other_settings_are_refused(toy, tmp_path):
    out = tmp_path / "out"
    poison_dataset(toy, "random", out, PLAIN)
    whole = contents(out)
    for poison, options in (("random", {"eps": 4}), ("fixed_tile", {}), ("random", {"seed": 6})):
        with pytest.raises(UnsegError, match=r"found another one in .*out \((eps|poison|seed) .* asked\)"):
            poison_dataset(toy, poison, out, replace(PLAIN, **options))
    with pytest.raises(UnsegError, match="protect all there, disc asked"):
        poison_dataset(toy, "random", out, PLAIN, protect="disc")
    poison_dataset(toy, "random", out, replace(PLAIN, generator="none", device="cuda", cache=tmp_path))
    assert contents(out) == whole and read_json(out / "poison.json")["eps_bg"] == 2
    assert str(tmp_path) not in (out / "poison.json").read_text()
    note = read_json(out / "poison.json")
    write_json(out / "poison.json", {"pictures": note.pop("images"), **note})
    poison_dataset(toy, "random", out, PLAIN)
    assert contents(out) == whole, "what an older version has made is known"

    Image.fromarray(toy.label("p0") + np.uint8(1)).save(toy.root / "lab" / "p0.png")
    with pytest.raises(UnsegError, match="annotations "):
        poison_dataset(toy, "random", out, PLAIN)


def test_what_a_poison_has_learnt_is_of_the_very_images_it_saw(toy, tmp_path, monkeypatch):
    learner = replace(POISONS["random"], fit=lambda images, settings: {"mean": np.mean([one.pixels for one in images])})
    monkeypatch.setitem(POISONS, "learner", learner)
    out, path = tmp_path / "out", toy.image_path("p0")
    poison_dataset(toy, "learner", out, PLAIN)
    write_image(path, 255 - read_image(path))
    with pytest.raises(UnsegError, match="sources "):
        poison_dataset(toy, "learner", out, PLAIN)
    # one that learns nothing makes the changed image anew, and knows nothing of the others
    poison_dataset(toy, "random", tmp_path / "plain", PLAIN)
    write_image(path, 255 - read_image(path))
    poison_dataset(toy, "random", tmp_path / "plain", PLAIN)
    assert read_json(out / "poison.json").keys() - read_json(tmp_path / "plain/poison.json").keys() == {"sources"}


def test_folders_that_hold_something_else_are_refused(toy, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    cases = {tmp_path / "out": "new or empty folder", tmp_path / "out" / "mine.txt": "new or empty"}
    for out, words in (cases | {toy.root / "pic" / "..": "other than the data set's own"}).items():
        with pytest.raises(UnsegError, match=words):
            poison_dataset(toy, "random", out, PLAIN)


WRONG = {"shard": {"shard": (2, 2)}, "job": {"jobs": 0}, "found colours": {"gray": True}}
WRONG |= {"did you mean 'jpg'": {"file_format": "jpgg"}, "did you mean 'random'": {"poison": "randm"}}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_arguments_are_refused(toy, tmp_path, words):
    with pytest.raises(UnsegError, match=words):
        poison_dataset(**{"source": toy, "poison": "random", "out": tmp_path / "out", "settings": PLAIN} | WRONG[words])


def test_a_corrupt_image_stops_with_a_sentence_and_keeps_the_rest(toy, tmp_path, monkeypatch):
    asked = count_calls(monkeypatch)
    good = (toy.root / "pic" / "p3.bmp").read_bytes()
    (toy.root / "pic" / "p3.bmp").write_bytes(good[:100])
    with pytest.raises(UnsegError, match="corrupt"):
        poison_dataset(toy, "random", tmp_path / "out", PLAIN)
    assert not (tmp_path / "out" / "manifest.csv").exists()
    (toy.root / "pic" / "p3.bmp").write_bytes(good)
    poison_dataset(toy, "random", tmp_path / "out", PLAIN)
    assert asked == ["p0", "p1", "p2", "p3", "p4"]


@pytest.mark.parametrize("where", ["pathlib.Path.write_bytes", "unseg_lib.poisons.manifest.append_line"])
def test_full_disk_is_one_sentence_and_loses_nothing(toy, tmp_path, monkeypatch, where):
    out, full = tmp_path / "out", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    poison_dataset(toy, "random", out, PLAIN, shard=(1, 2))
    with monkeypatch.context() as context, pytest.raises(UnsegError, match="disk is full"):
        context.setattr(where, full)
        poison_dataset(toy, "random", out, PLAIN)
    assert not (out / "manifest.csv").exists() and not list(out.rglob(".partial*"))
    poison_dataset(toy, "random", out, PLAIN)
    poison_dataset(toy, "random", tmp_path / "whole", PLAIN)
    assert contents(out) == contents(tmp_path / "whole")


def test_gray_files_hold_gray_noise_within_budget(tmp_path):
    toy, out = write_toy(tmp_path / "toy", gray=True), tmp_path / "out"
    rows = poison_dataset(toy, "random", out, PLAIN, gray=True)
    assert all(open_image(toy_at(out).image_path(id)).mode == "L" for id in toy.ids)
    assert 0 < rows[0]["linf_inside"] <= 8 and rows[0]["linf_outside"] <= 2
    poison_dataset(toy, "random", tmp_path / "colour", PLAIN)
    assert open_image(toy_at(tmp_path / "colour").image_path("p0")).mode == "RGB"


def test_jpeg_is_measured_as_written(toy, tmp_path):
    rows = poison_dataset(toy, "random", tmp_path / "out", PLAIN, file_format="jpg")
    change, mask = change_of(toy, tmp_path / "out")
    assert toy_at(tmp_path / "out").image_path("p0").suffix == ".jpg"
    assert rows[0]["linf_inside"] == change[mask].max() > 8  # JPEG breaks the budget, and the manifest says so


def test_jpeg_files_are_those_of_the_released_code(toy, tmp_path):
    """cv2.imwrite("x.jpg"): quality 95, and chroma of half the height and width (4:2:0)."""
    import cv2

    poison_dataset(toy, "clean", tmp_path / "out", PLAIN, file_format="jpg")
    standard = [16, 11, 10, 16, 24, 40, 51, 61]  # first row of the standard's table for brightness, Annex K
    by_hand = [max(1, (value * (200 - 2 * 95) + 50) // 100) for value in standard]
    cv2.imwrite(str(tmp_path / "theirs.jpg"), np.ascontiguousarray(toy.image("p0")[..., ::-1]))
    pixels = []
    for path in (toy_at(tmp_path / "out").image_path("p0"), tmp_path / "theirs.jpg"):
        with Image.open(path) as file:
            assert file.format == "JPEG" and JpegImagePlugin.get_sampling(file) == 2  # 0: 4:4:4, 1: 4:2:2, 2: 4:2:0
            assert list(file.quantization[0][:8]) == by_hand
            pixels.append((file.quantization, np.asarray(file).astype(int)))
    assert pixels[0][0] == pixels[1][0] and np.array_equal(pixels[0][1], pixels[1][1])


def test_two_images_of_one_name_are_refused(toy, tmp_path):
    Image.fromarray(toy.image("p0")).save(toy.root / "pic" / "same.bmp")
    twins = replace(toy, images=dict.fromkeys(toy.ids, Path("pic/same")))
    with pytest.raises(UnsegError, match="share a file"):
        poison_dataset(twins, "random", tmp_path / "out", PLAIN)


def test_a_line_is_appended_whole_and_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    append_line(tmp_path / "m.csv", ["a,b", 1, float("inf")])
    append_line(tmp_path / "m.csv", ["c", 2, 0.5])
    assert (tmp_path / "m.csv").read_text() == '"a,b",1,inf\nc,2,0.5\n'
    with pytest.raises(UnsegError, match="disk is full"):
        append_line("/dev/full", ["d"])
