"""The rival poisons: each has the property that its paper builds on, and goes through `poison_dataset`."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_notebooks import run
from test_poison_dataset import contents, toy_at, write_toy
from test_poisons import flat

from unseg_lib import datasets
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.poisons import POISONS, Poison, PoisonSettings, Sample, error_min, poison_dataset, with_fit
from unseg_lib.poisons.ar_search import RESPONSE, neighbourhoods, response, search
from unseg_lib.poisons.autoregressive import RMS, TILES, ar_noise, ar_tiles_noise, coefficients, process, recursion
from unseg_lib.poisons.by_class import SYNPER_RMS, class_vector, cluster, filtered, kernel_of, regions, synper_noise
from unseg_lib.reporting import spectrum

PLAIN = PoisonSettings(seed=3, device="cpu")
BY_CLASS = [name for name, poison in POISONS.items() if poison.by_class]
FITTED = [name for name, poison in POISONS.items() if poison.fit]
SIMPLE = (*BY_CLASS, "random_class")
BY_RMS = {"synper": (synper_noise, SYNPER_RMS), "ar": (ar_noise, RMS), "ar_tiles": (ar_tiles_noise, RMS)}


@pytest.fixture(autouse=True)
def _short_game(monkeypatch):
    """Error-minimising noise in a second: fewer steps, and cells."""
    for name, number in {"MODEL_STEPS": 5, "ROUNDS": 2, "STEPS": 4, "SIDE": 32}.items():
        monkeypatch.setattr(error_min, name, number)


def image_of(height=64, width=80, *, gray=False, id="a", background=0):
    """Mid-gray clutter that does not clip; class 1 left, class 2 right, background, an ignored row."""
    pixels = np.random.default_rng(height).integers(90, 160, (height, width, 1 if gray else 3), dtype=np.uint8)
    label = np.zeros((height, width), np.uint8)
    label[10:40, 5:30], label[20:60, 40:75], label[0] = 1, 2, 255
    return Sample(id, pixels.repeat(3 // pixels.shape[2], axis=2), np.isin(label, (1, 2)), label, gray, background)


def change(name, image, settings=PLAIN):
    return POISONS[name].make(settings)(image).astype(int) - image.pixels


def rms(values):
    return float(np.sqrt(np.square(values, dtype=np.float64).mean()))


@pytest.mark.parametrize("name", SIMPLE)
def test_every_class_is_treated_and_images_alike_or_each_in_its_own_way(name):
    image = image_of()
    first = change(name, image)
    sample_wise = name in BY_RMS  # cuda and random_class have one pattern per class for the whole set
    assert np.array_equal(first, change(name, image_of(id="b"))) != sample_wise
    assert not np.array_equal(first, change(name, image, replace(PLAIN, seed=4)))
    assert all(first[image.label == index].any() for index in (0, 1, 2))
    gray = change(name, image_of(gray=True))
    assert gray.any() and (gray == gray[..., :1]).all()


@pytest.mark.parametrize("name", BY_CLASS)
def test_background_is_a_class_only_on_request_and_other_classes_never(name):
    image = image_of()
    left = change(name, image, replace(PLAIN, include_background=False))
    assert not left[image.label == 0].any() and left[image.label == 1].any()
    assert not change(name, replace(image, background=None))[image.label == 0].any()
    only = replace(image, mask=image.label == 2)
    assert not change(name, only)[image.label == 1].any()
    assert {index for index, _ in regions(only, PLAIN)} == {0, 2}


@pytest.mark.parametrize("name", BY_RMS)
@pytest.mark.parametrize("gray", [False, True])
def test_rms_over_every_class_is_what_the_paper_asks_for(name, gray):
    (noise_of, wanted), image = BY_RMS[name], image_of(gray=gray)
    noise = noise_of(image, PLAIN)
    assert all(rms(noise[image.label == index]) == pytest.approx(wanted, abs=1e-3) for index in (0, 1, 2))
    assert rms(change(name, image)[image.label != 255]) == pytest.approx(wanted, rel=0.02)  # rounded


def test_synper_classes_are_separated_by_their_nearest_centres():
    classes, images = 21, 20
    centres = np.stack([cluster(0, index)[1] for index in range(classes)])
    samples = np.stack([[class_vector(0, index, str(n)) for n in range(images)] for index in range(classes)])
    distance = np.linalg.norm(samples[:, :, None] - centres, axis=3)
    assert (distance.argmin(axis=2) == np.arange(classes)[:, None]).all()
    assert samples.std(axis=1).mean() == pytest.approx(4, abs=0.3)  # sqrt(48/3), section 3.1 of the recipe


def test_synper_is_a_tile_of_32_made_of_cells_of_8():
    noise = synper_noise(flat(64, 64), PLAIN)
    assert np.array_equal(noise[:32, :32], noise[32:, 32:])
    assert (noise[8:16, 24:32] == noise[8, 24]).all() and len(np.unique(noise[..., 0])) == 16


# less than a tile, whole and cut ones
@pytest.mark.parametrize("shape", [(3, 3), (5, 40), (40, 5), (20, 20), (38, 51)])
def test_ar_by_tiles_equals_pixel_by_pixel(shape):
    windows, start = coefficients(0), np.random.default_rng(0).standard_normal((3, *shape))
    naive = start.copy()
    for k in range(3):
        for i in range(2, shape[0]):
            for j in range(2, shape[1]):
                naive[k, i, j] = (windows[k] * naive[k, i - 2 : i + 1, j - 2 : j + 1]).sum()
    assert np.allclose(recursion(windows, start), naive, rtol=0, atol=1e-12)


def test_ar_filter_is_silent_on_its_own_class_and_loud_on_others():
    for channel in range(3):
        windows = [coefficients(index)[channel] for index in range(12)]
        views = [neighbourhoods(process(b[None], 48, 48, np.random.default_rng(1))[0]) for b in windows]
        found = np.array([[response(b, view) for view in views] for b in windows])
        assert found.diagonal().max() < 1e-9
        assert found[~np.eye(12, dtype=bool)].min() > 0.8 * RESPONSE


def test_ar_filter_is_silent_inside_the_region_of_its_class():
    noise = ar_noise(image_of(), PLAIN)[20:60, 40:75].astype(float)  # the box of class 2
    own, other = (max(response(coefficients(n)[k], neighbourhoods(noise[..., k])) for k in range(3)) for n in (2, 1))
    assert own < 1e-5 < RESPONSE / 2 < other


@pytest.mark.parametrize("side", [256, 512])
def test_ar_is_as_strong_at_the_end_of_a_image_as_at_its_start(side):
    for index in (0, 7, 57, 99):
        field = process(coefficients(index), side, side, np.random.default_rng(index))
        top, bottom = (np.square(part).mean() for part in np.array_split(field, 2, axis=1))
        assert np.isfinite(field).all() and 0.25 <= top / bottom <= 4


def test_ar_repeats_beyond_512_and_knows_how_many_classes_it_has():
    noise = ar_noise(flat(8, 600), PLAIN)
    assert np.array_equal(noise[:, 512:], noise[:, :88])
    with pytest.raises(UnsegError, match=r"below 150, .*ar_search 151`"):
        coefficients(150)


def test_ar_coefficients_are_those_of_our_search():
    assert search(classes=2) == [[b.ravel()[:8].tolist() for b in coefficients(index)] for index in range(2)]
    assert all(coefficients(index).sum(axis=(1, 2)) == pytest.approx(1) for index in range(150))


def test_ar_tiles_keep_the_published_criterion():
    """Sandoval-Segura et al., section 3.2 and their search: a filter is silent on its own class and answers another's
    noise, 32 pixels of L2 norm 1, with 10 among ten classes, with 3 among a hundred.
    """
    table = [coefficients(index, TILES) for index in range(150)]
    some = table[:10] + table[10::20]
    # by hand: correlate with the filter whose last entry is -1, add up the channels, and what is above 0
    rng, found = np.random.default_rng(0), np.zeros((len(some), len(some)))
    for j, windows in enumerate(some):
        noise = process(windows, 32, 32, rng)  # from another start than the search's
        noise = noise / np.sqrt(np.square(noise).sum())
        for i, filters in enumerate(some):
            filters = filters.copy()
            filters[:, 2, 2] = -1
            left = sum(noise[c, a : a + 30, b : b + 30] * filters[c, a, b] for c, a, b in np.ndindex(3, 3, 3))
            found[i, j] = np.maximum(left, 0).sum()
    others = ~np.eye(len(some), dtype=bool)
    assert found.diagonal().max() < 1e-9
    # the criterion was met by the starts of the search; other starts of the same processes differ a little
    assert found[:10, :10][others[:10, :10]].min() > 7.5 and found[others].min() > 1
    assert (found[:10, :10][others[:10, :10]] >= 10).mean() > 0.7 and (found[others] >= 3).mean() > 0.95
    assert all(np.allclose(windows.sum(axis=(1, 2)), 1) for windows in table)


def test_ar_tiles_are_of_32_pixels_and_silent_inside():
    noise, windows = ar_tiles_noise(flat(70, 80), PLAIN), coefficients(1, TILES)
    assert rms(noise) == pytest.approx(RMS, rel=1e-4)
    tiles = [noise[a : a + 32, b : b + 32] for a in (0, 32) for b in (0, 32)]
    assert max(response(windows[c], neighbourhoods(one[..., c])) for one in tiles for c in range(3)) < 1e-4
    assert not np.array_equal(tiles[0], tiles[1])  # each has a start of its own
    assert max(response(windows[c], neighbourhoods(noise[:32, 16:48, c])) for c in range(3)) > 0.05


def test_cuda_by_hand():
    delta, shift = np.zeros((3, 3)), np.zeros((3, 3))
    delta[1, 1] = shift[1, 2] = 1
    pixels = image_of().pixels
    assert all(np.array_equal(filtered(pixels, kernel, stretched=False), pixels) for kernel in (delta, 3 * delta))
    assert np.array_equal(filtered(pixels, shift, stretched=False)[:, :-1], pixels[:, 1:])
    assert [filtered(some, delta, stretched=True).max() for some in (pixels, 0 * pixels)] == [255, 0]


def test_cuda_filters_have_one_one_and_little_blur():
    kernels = [kernel_of(0, index) for index in range(20)]
    assert all((kernel == 1).sum() == 1 and np.sort(kernel.ravel())[-2] <= 0.3 for kernel in kernels)
    assert np.array_equal(kernels[3], kernel_of(0, 3)) and not np.array_equal(kernels[3], kernel_of(1, 3))
    assert len({int(kernel.argmax()) for kernel in kernels}) > 3  # not always the centre


def test_random_class_gives_every_class_its_tile_within_the_budget():
    image = image_of()
    found = change("random_class", image)
    assert abs(found[image.mask]).max() == 8 and abs(found[~image.mask]).max() == 2
    assert np.array_equal(found[16:24, 8:16], found[24:32, 16:24])  # of class 1, a cell is a pixel here
    assert not np.array_equal(found[24:32, 16:24], found[24:32, 48:56])  # class 2


@pytest.mark.parametrize("name", FITTED)
def test_error_min_lowers_the_loss_keeps_the_budget_and_is_reproducible(name, tmp_path):
    images = [image_of(40 + 8 * i, id=str(i)) for i in range(2)]
    settings = with_fit(name, iter(images), PLAIN, tmp_path / "fit.npz")
    losses = np.load(tmp_path / "fit.npz")["losses"]
    assert losses.shape == (2, 2) and (losses[:, 1] < losses[:, 0]).all()
    for image in images:
        found = abs(change(name, image, settings))
        assert 3 < found[image.mask].max() <= 8 and 1 <= found[~image.mask].max() <= 2
        assert not found[image.label == 255].any()
    with_fit(name, images, PLAIN, tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (tmp_path / "fit.npz").read_bytes()


def test_error_min_of_gray_images_of_images_without_objects_and_of_what_it_has_not_seen(tmp_path):
    image, empty = image_of(gray=True), image_of(48, gray=True, id="empty")
    empty = replace(empty, mask=np.zeros_like(empty.mask), label=np.full_like(empty.label, 255))
    settings = with_fit("error_min", [image, empty], PLAIN, tmp_path / "fit.npz")
    found = change("error_min", image, settings)
    assert (found == found[..., :1]).all() and abs(found).max() > 2
    assert not change("error_min", empty, settings).any()
    with pytest.raises(UnsegError, match="found z"):
        change("error_min", image_of(id="z"), settings)


def test_error_min_class_knows_the_classes_that_it_has_learnt(tmp_path):
    with pytest.raises(UnsegError, match="whole set"):
        POISONS["error_min_class"].make(PLAIN)
    image = image_of()
    settings = with_fit("error_min_class", [image], PLAIN, tmp_path / "class.npz")
    assert change("error_min_class", image, settings).any()  # 255 is no class
    image.label[0, 0] = 3
    with pytest.raises(UnsegError, match=r"Expected classes 0 to 2 or 255.*found class 3 in a"):
        change("error_min_class", image, settings)


def test_error_min_loss_by_hand(monkeypatch):
    """A net that says 0 everywhere has log(classes) of loss; what is ignored counts nowhere."""
    monkeypatch.setattr(error_min, "SIDE", 64)  # the ignored row is one of them
    game = error_min.Fitting([image_of()], PLAIN)
    torch.nn.init.zeros_(game.net.head.weight)
    torch.nn.init.zeros_(game.net.head.bias)
    loss, error = game.score(lambda chosen: torch.zeros(1, 3, 64, 64))
    labelled = game.labels[game.labels != 255]
    assert loss == pytest.approx(np.log(3), abs=1e-5)
    assert error == pytest.approx((labelled != 0).float().mean().item(), abs=1e-6)
    assert game.budgets[0, 0, 0].unique().tolist() == [0] and game.classes == 3


@pytest.fixture
def toy(tmp_path):
    return write_toy(tmp_path / "toy", size=(24, 32))


@pytest.mark.parametrize("name", FITTED)
def test_a_set_is_poisoned_and_resumed(toy, tmp_path, name):
    out = tmp_path / "out"
    rows = poison_dataset(toy, name, out, PLAIN)
    whole = contents(out)
    assert [row["rms"] > 0 for row in rows] == [True] * 4 + [False]  # nothing to protect
    (out / "pic" / "p1.png").unlink()
    (out / "manifest.csv").rename(out / "manifest-0-of-2.csv")
    assert poison_dataset(toy, name, out, PLAIN) == rows and contents(out) == whole


def test_shards_learn_from_the_whole_set_once(toy, tmp_path):
    for k, n, out in ((0, 1, "one"), (1, 2, "two"), (0, 2, "two")):
        poison_dataset(toy, "error_min", tmp_path / out, PLAIN, shard=(k, n))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_background_is_part_of_what_a_set_is(toy, tmp_path):
    other = replace(PLAIN, include_background=False)
    for poison, noted in (("synper", True), ("random", None)):
        poison_dataset(toy, poison, tmp_path / poison, PLAIN)
        assert read_json(tmp_path / poison / "poison.json")["include_background"] is noted
    with pytest.raises(UnsegError, match="include_background True there"):
        poison_dataset(toy, "synper", tmp_path / "synper", other)
    poison_dataset(toy, "random", tmp_path / "random", other)  # the same to it


@pytest.mark.parametrize("fitted", [False, True])
def test_a_poison_from_outside_goes_through(toy, tmp_path, monkeypatch, fitted):
    def mine(settings):
        level = np.load(settings.fitted)["level"] if fitted else len(toy.ids)
        return lambda image: np.where(image.mask[..., None], level, image.pixels).astype(np.uint8)

    def fit(images, settings):
        return {"level": len(list(images))}

    monkeypatch.setitem(POISONS, "mine", Poison(mine, "a constant", fit if fitted else None, bounded=False))
    rows = poison_dataset(toy, "mine", tmp_path / "out", PLAIN)
    assert (toy_at(tmp_path / "out").image("p0")[toy.label("p0") == 1] == len(toy.ids)).all()
    assert poison_dataset(toy, "mine", tmp_path / "out", PLAIN) == rows
    assert (tmp_path / "out" / ".learnt.npz").exists() == fitted
    with pytest.raises(UnsegError, match="did you mean 'mine'"):
        poison_dataset(toy, "mien", tmp_path / "other", PLAIN)


@pytest.mark.real
@pytest.mark.parametrize("name", ["voc", "lung", "camvid", "nwpu"])
@pytest.mark.parametrize("poison", [*SIMPLE, *FITTED])
def test_real_images(data_root, tmp_path, name, poison):
    source = datasets.load_dataset(name, data_root, "train", limit=2)
    rows = poison_dataset(source, poison, tmp_path / "out", PLAIN)
    assert all(row["rms"] > 0 and row["psnr"] > 10 for row in rows if row["protected"])


def test_spectrum_shows_frequencies_in_their_place():
    wave = np.cos(2 * np.pi * np.arange(64) / 4)[None].repeat(64, axis=0)  # a quarter cycle per pixel, along a row
    shown = spectrum(np.repeat(wave[..., None], 3, axis=2))
    assert shown.shape == (64, 64, 3) and shown.dtype == np.float32 and shown.min() >= -1 and shown.max() == 1
    assert sorted(map(tuple, np.argwhere(shown[..., 0] == 1))) == [(32, 16), (32, 48)]
    assert (spectrum(np.zeros((8, 8, 3))) == -1).all()


@pytest.mark.notebook
def test_07_shows_all_poisons_side_by_side(tmp_path, weights):
    from unseg_lib.datasets import write_scenes

    write_scenes(tmp_path / "data", 48, {"train": 4, "test": 2})
    _, metrics = run(tmp_path, "07", "poisons", generator=weights, learn_from=2)
    assert set(metrics["poisons"]) == set(POISONS) - {"clean"}
    assert metrics["poisons"]["unseg"]["linf_inside"] <= 8 < metrics["poisons"]["synper"]["linf_inside"]
