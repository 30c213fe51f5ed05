"""Protecting a folder: budgets hold, originals stay, every refusal is a sentence and the rest goes on."""

import errno
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, sha256_of
from unseg_lib.pictures import is_gray_file, read_picture
from unseg_lib.protect import COLUMNS, REPORT, protect_folder


@pytest.fixture
def room(tmp_path):
    """A folder with pictures `a.jpg`, `b.png` and their masks, and a place for the output."""
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    add(tmp_path, "a.jpg")
    add(tmp_path, "b.png")
    return tmp_path


def pixels_of(channels=3, seed=0, size=(24, 32)):
    return np.random.default_rng(seed).integers(0, 256, (*size, channels), dtype=np.uint8).squeeze()


def disc(size=(24, 32)):
    mask = np.zeros(size, np.uint8)
    mask[5:18, 8:22] = 255
    return mask


def add(room, name, pixels=None, mask=None):
    pixels, mask = pixels_of() if pixels is None else pixels, disc() if mask is None else mask
    Image.fromarray(pixels).save(room / "images" / name)
    Image.fromarray(mask).save(room / "masks" / f"{name.rpartition('.')[0]}.png")


def run(room, weights, **options):
    return protect_folder(room / "images", room / "masks", room / "out", generator=weights, device="cpu", **options)


def hashes(*folders):
    return {path: sha256_of(path) for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()}


def test_pictures_are_protected_within_budget_and_originals_untouched(room, weights):
    before = hashes(room / "images", room / "masks")
    rows = run(room, weights)
    assert hashes(room / "images", room / "masks") == before
    assert [row["written"] for row in rows] == ["a.png", "b.png"]
    assert {path.name for path in (room / "out").iterdir()} == {"a.png", "b.png", REPORT}
    for row in rows:
        original, written = read_picture(room / "images" / row["picture"]), read_picture(room / "out" / row["written"])
        change = np.abs(written.astype(int) - original).max(axis=2)
        assert row["linf_inside"] == change[disc() > 0].max() and 2 < row["linf_inside"] <= 8
        assert row["linf_outside"] == change[disc() == 0].max() <= 2
        assert row["sha256"] == sha256_of(room / "out" / row["written"])
        assert (row["eps"], row["eps_bg"], row["problem"]) == (8, 2, "")
    lines = read_csv(room / "out" / REPORT)
    assert list(lines[0]) == COLUMNS
    assert lines == [{name: str(row[name]) for name in COLUMNS} for row in rows]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0, 16), st.floats(0, 16), st.integers(0, 1000), st.sampled_from([1, 2, 3, 4]))
def test_any_budget_holds_in_the_written_file(room, weights, eps, eps_bg, seed, channels):
    add(room, "b.png", pixels_of(channels, seed), 255 * (pixels_of(1, seed) > 128).astype(np.uint8))
    run(room, weights, eps=eps, eps_bg=eps_bg)
    mask = pixels_of(1, seed) > 128
    change = np.abs(read_picture(room / "out" / "b.png").astype(int) - read_picture(room / "images" / "b.png")).max(
        axis=2
    )
    assert change[mask].max() <= math.floor(eps) and change[~mask].max() <= math.floor(eps_bg)


def test_again_gives_the_same_files(room, weights):
    rows = run(room, weights)
    before = hashes(room / "out")
    assert run(room, weights) == rows
    assert hashes(room / "out") == before


def test_gray_stays_gray(room, weights):
    add(room, "b.png", pixels_of(1))
    run(room, weights)
    assert is_gray_file(room / "out" / "b.png") and Image.open(room / "out" / "b.png").mode == "L"
    assert Image.open(room / "out" / "a.png").mode == "RGB"


@pytest.mark.parametrize("channels, mode", [(2, "LA"), (4, "RGBA")])
def test_transparency_is_kept(room, weights, channels, mode):
    add(room, "b.png", pixels_of(channels))
    run(room, weights)
    written = Image.open(room / "out" / "b.png")
    assert written.mode == mode
    assert np.array_equal(np.asarray(written)[..., -1], pixels_of(channels)[..., -1])


def test_transparency_of_a_palette_is_kept(room, weights):
    indexed = Image.fromarray(pixels_of(1) % 4).convert("P")
    indexed.putpalette([0, 0, 0, 90, 80, 70, 200, 10, 20, 250, 250, 250])
    indexed.save(room / "images" / "b.png", transparency=2)
    run(room, weights)
    written = Image.open(room / "out" / "b.png")
    assert written.mode == "RGBA"
    assert np.array_equal(np.asarray(written)[..., 3] == 0, pixels_of(1) % 4 == 2)


@pytest.mark.parametrize("size", [(3, 40), (40, 3)])
def test_narrow_pictures(room, weights, size):
    add(room, "b.png", pixels_of(3, 1, size), np.full(size, 255, np.uint8))
    run(room, weights)
    assert read_picture(room / "out" / "b.png").shape == (*size, 3)


def test_an_empty_mask_leaves_the_picture_and_says_so(room, weights):
    add(room, "b.png", mask=np.zeros((24, 32), np.uint8))
    row = run(room, weights)[1]
    assert row["protected"] == row["rms"] == 0
    assert np.array_equal(read_picture(room / "out" / "b.png"), pixels_of())


@pytest.mark.parametrize("kind", ["ones", "palette", "colour", "one bit", "jpeg"])
def test_masks_of_any_kind_mean_the_same(room, weights, kind):
    run(room, weights)
    expected = hashes(room / "out")
    (room / "masks" / "b.png").unlink()
    masks = {
        "ones": Image.fromarray(disc() // 255),
        "palette": Image.fromarray(disc() // 17).convert("P"),
        "colour": Image.fromarray(np.stack([0 * disc(), disc(), 0 * disc()], axis=2)),
        "one bit": Image.fromarray(disc()).convert("1"),
        "jpeg": Image.fromarray(disc()),
    }
    masks[kind].save(room / "masks" / ("b.jpg" if kind == "jpeg" else "b.png"))
    run(room, weights)
    assert hashes(room / "out") == expected


def spoil(room, how):
    """Break picture b in one way."""
    images, masks = room / "images", room / "masks"
    if how == "no mask":
        (masks / "b.png").unlink()
    elif how == "two masks":
        Image.fromarray(disc()).save(masks / "b.bmp")
    elif how == "mask of another size":
        Image.fromarray(disc()[:20]).save(masks / "b.png")
    elif how == "corrupt mask":
        (masks / "b.png").write_bytes((masks / "b.png").read_bytes()[:50])
    elif how == "transparent mask":
        Image.fromarray(pixels_of(4)).save(masks / "b.png")
    elif how == "corrupt picture":
        (images / "b.png").write_bytes((images / "b.png").read_bytes()[:300])
    elif how == "no picture":
        (images / "b.png").write_text("this is text")
    elif how == "16 bits":
        Image.fromarray(np.zeros((24, 32), np.uint16)).save(images / "b.png")
    elif how == "several frames":
        frames = [Image.fromarray(pixels_of(3, seed)) for seed in range(2)]
        frames[0].save(images / "b.png", save_all=True, append_images=frames[1:])
    elif how == "unknown format":
        (images / "b.png").rename(images / "b.heic")
    elif how == "one name twice":
        Image.fromarray(pixels_of()).save(images / "b.bmp")
    elif how == "one name in two cases":
        Image.fromarray(pixels_of()).save(images / "B.bmp")
    elif how == "foreign file in the output":
        (room / "out").mkdir()
        (room / "out" / "b.png").write_text("mine")


@pytest.mark.parametrize(
    "how, sentence",
    [
        ("no mask", "Expected one mask called b .*found none"),
        ("two masks", r"found several \(b.bmp, b.png\)"),
        ("mask of another size", "Expected a mask of 32x24 pixels .*found 32x20"),
        ("corrupt mask", "found a corrupt one"),
        ("transparent mask", "without transparency"),
        ("corrupt picture", "found a corrupt one"),
        ("no picture", "found a corrupt one"),
        ("16 bits", "Expected 8 bits"),
        ("several frames", "Expected one picture in .*found 2"),
        ("unknown format", "b.heic; convert it"),
        ("one name twice", "several pictures that would become .*b.png"),
        ("one name in two cases", "several pictures that would become"),
        ("foreign file in the output", "not from here"),
    ],
)
def test_what_cannot_be_protected_is_named_and_the_rest_goes_on(room, weights, how, sentence):
    spoil(room, how)
    before = hashes(room / "images", room / "masks")
    with pytest.raises(UnsegError, match=rf"Protected 1 of [23] pictures; [12] left out.*{sentence}") as caught:
        run(room, weights)
    assert "\n" not in str(caught.value)
    assert hashes(room / "images", room / "masks") == before
    lines = {line["picture"]: line for line in read_csv(room / "out" / REPORT)}
    assert lines.pop("a.jpg")["problem"] == "" and (room / "out" / "a.png").exists()
    assert lines and all(line["problem"] and not line["written"] for line in lines.values())
    if how == "foreign file in the output":
        assert (room / "out" / "b.png").read_text() == "mine"
    else:
        assert {path.name for path in (room / "out").iterdir()} == {"a.png", REPORT}


def test_hidden_files_notes_and_sub_folders_are_left_alone(room, weights):
    (room / "images" / ".thumbs.png").write_text("x")
    (room / "images" / "notes.txt").write_text("x")
    (room / "images" / "sub.png").mkdir()
    assert len(run(room, weights)) == 2


def test_upper_case_suffixes_are_pictures(room, weights):
    (room / "images" / "b.png").rename(room / "images" / "b.PNG")
    assert [row["picture"] for row in run(room, weights)] == ["a.jpg", "b.PNG"]


@pytest.mark.parametrize("out", ["images", "images/safe", "masks", "masks/../images"])
def test_output_inside_input_is_refused(room, weights, out):
    before = hashes(room)
    with pytest.raises(UnsegError, match="output folder outside"):
        protect_folder(room / "images", room / "masks", room / out, generator=weights, device="cpu")
    assert hashes(room) == before


def test_folders_that_make_no_sense_are_refused(room, weights, tmp_path):
    (room / "empty").mkdir()
    (room / "file").write_text("x")
    images, masks, out = room / "images", room / "masks", room / "out"
    for folders, sentence in (
        ((room / "none", masks, out), "folder of pictures"),
        ((images, room / "none", out), "folder of masks"),
        ((images, images, out), "two folders"),
        ((images, masks, room / "file"), "a file at"),
        ((room / "empty", masks, out), "found none"),
    ):
        with pytest.raises(UnsegError, match=sentence):
            protect_folder(*folders, generator=weights, device="cpu")
    assert not out.exists()
    with pytest.raises(UnsegError, match="from 0 to 255"):
        run(room, weights, eps=300)


def test_a_second_batch_keeps_the_lines_of_the_first(room, weights):
    run(room, weights)
    for name in ("a.jpg", "b.png"):
        (room / "images" / name).unlink()
    add(room, "c.png")
    run(room, weights)
    assert [line["written"] for line in read_csv(room / "out" / REPORT)] == ["a.png", "b.png", "c.png"]


def test_a_full_disk_stops_at_once_and_the_next_run_goes_on(room, weights, monkeypatch):
    real = Image.Image.save

    def full(image, path, **options):
        if path.name.endswith("b.png"):
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(image, path, **options)

    with monkeypatch.context() as context:
        context.setattr(Image.Image, "save", full)
        with pytest.raises(UnsegError, match=r"^Could not write .*disk is full"):
            run(room, weights)
    assert {path.name for path in (room / "out").iterdir()} == {"a.png", REPORT}
    assert len(run(room, weights)) == 2


def test_a_file_changed_since_is_not_replaced(room, weights):
    run(room, weights)
    (room / "out" / "b.png").write_bytes(b"edited by hand")
    with pytest.raises(UnsegError, match="not from here"):
        run(room, weights)
    assert (room / "out" / "b.png").read_bytes() == b"edited by hand"
