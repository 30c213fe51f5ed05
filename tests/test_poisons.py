"""Poisons: the written file obeys the budget, noise depends on seed and image alone, the cache changes nothing."""

import hashlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unseg_lib.errors import UnsegError
from unseg_lib.images import cell_of, read_image, write_image
from unseg_lib.method import Generator, find_region, place_noise, quarters
from unseg_lib.poisons import POISONS, PoisonSettings, Sample, open_generator
from unseg_lib.poisons.unseg import boxes_around_parts, cached_noise, match_amplitude, on_grid, random_twin, raw_noise

GENERATED = [name for name, poison in POISONS.items() if poison.needs_generator]
OWN_REGION = [name for name in GENERATED if not POISONS[name].bounded]
UNFITTED = [name for name, poison in POISONS.items() if not poison.fit]
BOUNDED = [name for name in UNFITTED if POISONS[name].bounded]
FROZEN_RANDOM = [6, 3, 7, 4, 0, -4, -3, 0, -7, 3, 5, 4]
FROZEN_TILE = "49939d99bd4abaf1"


@pytest.fixture
def plain(weights):
    return PoisonSettings(seed=3, generator=weights, device="cpu")


def image_of(height=24, width=36, *, seed=0, gray=False, id="a"):
    pixels = np.random.default_rng(seed).integers(30, 220, (height, width, 1 if gray else 3), dtype=np.uint8)
    label = np.zeros((height, width), np.uint8)
    label[4:16, 6:20], label[0:3] = 1, 255
    return Sample(id, pixels.repeat(3 // pixels.shape[2], axis=2), label == 1, label, gray)


def flat(height, width, id="a"):
    """Mid-gray, all of it to be protected."""
    one = np.ones((height, width), np.uint8)
    return Sample(id, np.full((height, width, 3), 128, np.uint8), one.astype(bool), one)


def poisoned(name, image, settings):
    return POISONS[name].make(settings)(image)


def change(name, image, settings):
    return poisoned(name, image, settings).astype(int) - image.pixels


@st.composite
def cases(draw):
    """An image with any colours, any mask, any label, and any budget."""
    height, width = draw(st.integers(3, 20)), draw(st.integers(3, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    gray, share = draw(st.booleans()), draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]))
    low, high = draw(st.sampled_from([(0, 256), (0, 6), (250, 256)]))
    pixels = rng.integers(low, high, (height, width, 1 if gray else 3), dtype=np.uint8)
    pixels = pixels.repeat(3 // pixels.shape[2], axis=2)
    label = np.where(rng.random((height, width)) < share, 1, rng.choice([0, 255], (height, width))).astype(np.uint8)
    eps = draw(st.floats(0, 20)), draw(st.floats(0, 20))
    return Sample("a", pixels, label == 1, label, gray), eps


@pytest.mark.parametrize("name", BOUNDED)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_written_file_obeys_budget(name, case, weights, tmp_path):
    image, (eps, eps_bg) = case
    copy = poisoned(name, image, PoisonSettings(eps, eps_bg, 1, weights, device="cpu"))
    write_image(tmp_path / "p.png", copy, gray=image.gray)
    reread = read_image(tmp_path / "p.png").astype(int)
    assert np.array_equal(reread, copy)  # for gray: the channels are equal
    size = np.abs(reread - image.pixels).max(axis=2)
    assert size[image.mask].max(initial=0) <= math.floor(eps)
    assert size[~image.mask].max(initial=0) <= math.floor(eps_bg)


@pytest.mark.parametrize("name", OWN_REGION)
def test_a_region_of_its_own_gets_the_full_budget_and_the_rest_the_small_one(name, plain):
    image = image_of(60, 80)
    image.pixels[4:16, 6:20] = (250, 10, 10)
    kinds = {"unseg_box": {"box": (6, 4, 19, 15)}, "unseg_salient": {}}
    size = np.abs(change(name, image, plain)).max(axis=2)
    if name in kinds:
        region = find_region(image.pixels, **kinds[name]).mask
        assert 2 < size[region].max() <= 8 and size[~region].max() <= 2
    if name != "unseg_salient":  # what stands out of noise is anybody's guess
        assert 2 < size[image.mask].max() <= 8 and np.median(size) <= 2  # the object is in it, most of the rest is not


def test_every_part_that_counts_gets_a_box_of_its_own():
    mask = np.zeros((20, 40), bool)
    mask[2:12, 3:9], mask[5:15, 20:31], mask[18, 39] = True, True, True
    assert boxes_around_parts(mask) == [[3, 2, 8, 11], [20, 5, 30, 14]]
    assert len(boxes_around_parts(np.tile([[True, False], [False, False]], (10, 10)))) == 100  # none has a twentieth


@pytest.mark.parametrize("name", UNFITTED)
def test_bytes_follow_from_seed_and_image_alone(name, plain):
    """In any order, and whatever the global randomness, which is neither read nor moved."""
    images = [image_of(seed=i, id=str(i)) for i in range(3)]
    forward, backward = POISONS[name].make(plain), POISONS[name].make(plain)
    drawn = []
    for work in (lambda: [forward(one).tobytes() for one in images], lambda: None):
        np.random.seed(0)
        torch.manual_seed(0)
        drawn.append((work(), np.random.rand(), torch.rand(1).item()))
    assert drawn[0][1:] == drawn[1][1:]
    assert drawn[0][0] == [backward(one).tobytes() for one in reversed(images)][::-1]


@pytest.mark.parametrize("name", sorted(set(UNFITTED) - {"clean"}))
def test_nothing_to_protect_leaves_the_image_and_only_unseg_touches_ignored_pixels(name, plain):
    empty = replace(image_of(), mask=np.zeros((24, 36), bool))
    found = change(name, image_of(), plain)
    assert not change(name, empty, plain).any() and found.any()
    assert found[0:3].any() == (name in GENERATED)


def test_random_is_uniform_and_differs_by_image_and_seed(plain):
    big = flat(100, 100)
    found = change("random", big, plain)
    assert found.min() == -8 and found.max() == 8
    assert abs(found.mean()) < 0.1
    assert np.sqrt((found**2).mean()) == pytest.approx(8 / math.sqrt(3), rel=0.02)
    assert not np.array_equal(found, change("random", replace(big, id="b"), plain))
    assert not np.array_equal(found, change("random", big, replace(plain, seed=4)))


def test_frozen_random_noise():
    """The first numbers of one stream: a change here makes every published row irreproducible."""
    assert change("random", flat(1, 4), PoisonSettings()).ravel().tolist() == FROZEN_RANDOM
    tile = change("fixed_tile", flat(96, 96), PoisonSettings())
    assert hashlib.sha256(tile.astype(np.int8).tobytes()).hexdigest()[:16] == FROZEN_TILE


def test_offsets_and_gratings_by_hand(plain):
    columns = np.clip(1.5 * np.sin(2 * np.pi * 12 * np.arange(36) / 36), -1, 1)
    signs = np.array([1, -1, 1])
    for name, inside, outside in (
        ("colour_offset", signs, signs),
        ("gray_offset", abs(signs), abs(signs)),
        ("colour_grating", columns[7] * signs, columns[30] * signs),
    ):
        found = change(name, image_of(), plain)
        assert np.array_equal(found[5, 7], np.rint(8 * inside)) and np.array_equal(found[20, 30], np.rint(2 * outside))
    # the gray component of (+,-,+) is a third: 8/3 rounds to 3, 2/3 to 1
    gray = change("colour_offset", image_of(gray=True), plain)
    assert gray[5, 7].tolist() == [3, 3, 3] and gray[20, 30].tolist() == [1, 1, 1]


def test_gratings_of_brightness_by_hand(plain):
    """Five and nine cells a period; at 96 pixels a cell is a pixel. Nothing outside, another start in every image."""
    square = replace(flat(96, 96), mask=np.arange(96)[:, None].repeat(96, 1) < 90)
    found = change("composite_grating", square, plain)
    assert not found[90:].any() and set(np.unique(found[:90])) == {-8, 8}
    red, green, blue = np.moveaxis(found[:90], 2, 0)
    assert np.array_equal(red, green) and (red == red[0]).all() and (blue.T[0] == blue.T).all()
    for row, period in ((red[0], 5), (blue[:, 0], 9)):
        assert np.array_equal(row[period:], row[:-period]) and 0 < (row[:period] > 0).sum() < period
    assert not np.array_equal(found, change("composite_grating", replace(square, id="other"), plain))
    assert np.array_equal(change("brightness_grating", square, plain), np.repeat(found[..., :1], 3, axis=2))


def test_tile_repeats_is_the_same_in_all_images_and_survives_shrinking(plain):
    small = change("fixed_tile", flat(96, 96), plain)
    assert np.array_equal(small, change("fixed_tile", flat(96, 96, "b"), plain))
    assert np.array_equal(small[:8, :8], small[8:16, 40:48]) and set(np.unique(small)) == {-8, 8}
    large = change("fixed_tile", flat(384, 384, "c"), plain)
    assert np.array_equal(large.reshape(96, 4, 96, 4, 3).mean(axis=(1, 3)), small)
    cells = {(4, 4, 4): [0, 1, 2, 3], (8, 8, 4): [0, 0, 1, 1, 2, 2, 3, 3], (3, 8, 4): [0, 0, 1]}
    cells[4, 4, 96] = [0, 1, 2, 3]  # never finer than a pixel
    assert all(cell_of(*given).tolist() == wanted for given, wanted in cells.items())


def test_untrained_has_the_amplitude_of_the_trained_and_another_pattern(plain):
    image = image_of()
    a, b = (change(name, image, plain)[image.mask].ravel().astype(float) for name in ("unseg", "untrained"))
    assert np.sqrt((b**2).mean()) == pytest.approx(np.sqrt((a**2).mean()), rel=0.1)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.9
    assert not np.array_equal(change("untrained", image, plain), change("untrained", image, replace(plain, seed=9)))


@given(height=st.integers(1, 70), width=st.integers(1, 70), grid=st.integers(1, 40), seed=st.integers(0, 99))
def test_quarters_are_squares_that_hold_every_pixel_once(height, width, grid, seed):
    rng = np.random.default_rng(seed)
    pixels, mask = rng.integers(0, 256, (height, width, 3), dtype=np.uint8), rng.random((height, width)) < 0.02
    parts = quarters(pixels, mask, grid)
    if max(height, width) < 2 * grid:  # its noise would be finer than its pixels
        assert len(parts) == 1 and parts[0][0] is pixels and parts[0][1] is mask
        return
    side = -(-max(height, width) // 2)
    squares = [part or (np.zeros((side, side, 3), np.uint8), np.zeros((side, side), bool)) for part in parts]
    assert all(one.shape == (side, side) and colours.shape == (side, side, 3) for colours, one in squares)
    whole = np.zeros((2 * side, 2 * side), bool)
    whole[:height, :width] = mask
    assert np.array_equal(np.block([[squares[0][1], squares[1][1]], [squares[2][1], squares[3][1]]]), whole)
    for (colours, one), part, (y, x) in zip(squares, parts, ((0, 0), (0, side), (side, 0), (side, side))):
        assert (part is None) == (not one.any())
        own = pixels[y : y + side, x : x + side]
        assert part is None or np.array_equal(colours[: own.shape[0], : own.shape[1]], own)


def test_in_quarters_each_is_an_image_of_its_own_and_an_empty_one_stays(plain):
    image = image_of(80, 70)
    image.mask[50:60, 10:30] = True  # in the upper left quarter, and in the lower left one
    found, half = change("unseg_quarters", image, plain), 40
    part = Sample("a", *(one[:half, :half] for one in (image.pixels, image.mask, image.label)))
    alone = change("unseg", part, plain)
    assert np.array_equal(found[: half - 2, : half - 2], alone[: half - 2, : half - 2]) and alone.any()
    assert found[half:, :half].any() and not found[:half, half + 2 :].any() and not found[half:, half + 2 :].any()
    assert np.array_equal(*(change(name, image_of(), plain) for name in ("unseg_quarters", "unseg")))  # too small


def test_by_class_each_pixel_has_the_noise_of_its_own_class(plain):
    image = image_of()
    whole = change("unseg", image, plain)
    assert np.array_equal(change("unseg_by_class", image, plain), whole)  # one class
    label = image.label.copy()
    label[image.mask & (np.arange(label.shape[1]) > 12)] = 2
    found = change("unseg_by_class", replace(image, label=label), plain)
    for one in (1, 2):
        alone = change("unseg", replace(image, label=label, mask=label == one), plain)
        assert np.array_equal(found[label == one], alone[label == one])
    assert np.array_equal(found[~image.mask], whole[~image.mask]) and not np.array_equal(found, whole)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.01, 0.6), st.integers(4, 32), st.integers(4, 32))
def test_match_amplitude(seed, wanted, height, width):
    noise = torch.tanh(torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 0.02)
    mask = np.random.default_rng(seed).random((height, width)) < 0.7
    mask[0, 0] = True
    matched = match_amplitude(noise, torch.full((3, 8, 8), wanted), mask)
    placed = place_noise(matched, height, width)[mask]
    strongest = np.sqrt(np.square(place_noise(noise.sign(), height, width)[mask]).mean())
    found = np.sqrt(np.square(placed).mean())
    assert found == pytest.approx(wanted, rel=1e-3) or (
        strongest < wanted and found == pytest.approx(strongest, rel=1e-3)
    )
    assert torch.equal(matched.sign(), noise.sign())


def test_region_on_grid():
    mask = np.zeros((40, 20), bool)
    mask[:20] = True
    assert on_grid(mask, 4).tolist() == [[True, True, False, False]] * 2 + [[False] * 4] * 2
    mask[:] = False
    mask[1, 1] = True  # between the samples of the grid: nothing is left of it
    assert on_grid(mask, 4).all()


@pytest.mark.parametrize("name", GENERATED)
def test_cache_changes_no_byte_and_spares_the_generator(name, plain, tmp_path, monkeypatch):
    image, kept = image_of(), replace(plain, cache=tmp_path / "noise")
    without = poisoned(name, image, plain)
    assert np.array_equal(poisoned(name, image, kept), without)
    assert list((tmp_path / "noise").rglob("*.npy"))

    monkeypatch.setattr(Generator, "noise", None)  # whoever calls it now fails
    assert np.array_equal(poisoned(name, image, kept), without)
    assert not np.array_equal(poisoned(name, image, replace(kept, eps=4, eps_bg=1)), without)
    with pytest.raises(TypeError):
        poisoned(name, image_of(seed=1), kept)


def test_cache_is_int8_and_a_damaged_file_is_made_again(tmp_path):
    noise, key = torch.rand(3, 4, 4) * 2 - 1, (tmp_path, "ab" * 32, "cd" * 32)
    first = cached_noise(*key, lambda: noise)
    assert torch.equal(first * 127, (noise * 127).round())
    (file,) = tmp_path.rglob("*.npy")
    assert np.load(file).dtype == np.int8
    for damage in (b"", b"not numpy", file.read_bytes()[:-5]):
        file.write_bytes(damage)
        assert torch.equal(cached_noise(*key, lambda: noise), first)
    assert not list(tmp_path.rglob(".partial*"))


@pytest.mark.parametrize("kept", [False, True])
def test_noise_that_is_not_finite_is_refused_and_never_kept_as_none(tmp_path, kept):
    noise = torch.zeros(3, 4, 4).index_fill(1, torch.tensor([1]), float("nan"))
    with pytest.raises(UnsegError, match="found 12 of 48 values that are not"):
        cached_noise(tmp_path if kept else None, "ab" * 32, "cd" * 32, lambda: noise)
    assert not list(tmp_path.rglob("*.npy"))


def test_each_prompt_asks_the_generator_differently(plain):
    generator, name = open_generator(plain)
    kinds = ("mask", "box", "points", "box+points", "mask+box+points", "points")
    *noises, again = (raw_noise(generator, name, image_of(), replace(plain, prompt=kind)) for kind in kinds)
    assert all(not torch.equal(a, b) for i, a in enumerate(noises) for b in noises[:i])
    assert torch.equal(again, noises[2]) and len(name) == 64


def test_twin_keeps_the_options(plain):
    generator, _ = open_generator(plain)
    twin = random_twin(generator, 0)
    assert twin.layout == generator.layout and twin.logit_scale == 3 and not twin.training
    assert not torch.equal(twin.noise_tokens.weight, generator.noise_tokens.weight)


WRONG = [({"eps": -1}, "Expected eps"), ({"eps": float("nan")}, "Expected eps"), ({"eps_bg": 256}, "Expected eps_bg")]
WRONG += [({"prompt": wrong}, "Unknown prompt") for wrong in ("msak", "")] + [({"device": "tpu"}, "device")]
WRONG += [({"generator": "none.safetensors", "device": "cpu"}, "generator")]


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_wrong_settings_are_refused(wrong, words):
    with pytest.raises(UnsegError, match=words):
        POISONS["unseg"].make(PoisonSettings(**wrong))
