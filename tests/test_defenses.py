"""Defences: names and options, what each does to images, and how they enter a training."""

import multiprocessing
import signal
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from toys import HOW, VICTIM, boxes, run_of, train_and_die

from unseg_lib import UnsegError
from unseg_lib.datasets import SegmentationSet, load_dataset, write_scenes
from unseg_lib.defenses import DEFENSES, Defense, Maker, defended, defenses_of, seen
from unseg_lib.defenses.batches import OPERATIONS, low_frequencies, operate, plasma, sharpen
from unseg_lib.defenses.fitted import sample, separating, shared_tile, tiles_of
from unseg_lib.images import MEAN, STD
from unseg_lib.poisons import POISONS, PoisonSettings, Sample
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import normalise, tensors, train_victim
from unseg_lib.victims.defended_training import DividedModel, attack, cross_entropy_sum, divided_loss, flipped, segpgd
from unseg_lib.victims.smp import build

IMAGES = ["gaussian_blur", "gaussian_noise", "median", "jpeg", "grayscale", "bit_depth", "down_up", "coin"]
IMAGES += ["wiener", "median_cut", "elastic"]
FITTED = ["orthogonal_projection tile=8", "universal_component"]
MILDEST = ["gaussian_blur sigma=0", "gaussian_noise sigma=0", "median size=1", "bit_depth bits=8", "down_up factor=1"]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> SegmentationSet:
    """Twelve generated scenes of 96x96 pixels, object against background."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 96, {"train": 12, "test": 2})
    return load_dataset("scenes", root, "train", task="object")


def apply(text: str, pixels: np.ndarray, id: str = "a", seed: int = 0) -> np.ndarray:
    return defenses_of(text, seed)[0].image(pixels, id)


def energy(a: SegmentationSet, b: SegmentationSet) -> float:
    """Mean squared difference of the images of two sets."""
    return np.mean([((a.image(id).astype(float) - b.image(id)) ** 2).mean() for id in a.ids])


# names and options


REFUSED = {
    "jpg": r"Unknown defence 'jpg'; did you mean 'jpeg'\?",
    "jpeg qualty=5": r"Unknown option 'qualty' of the defence jpeg; did you mean 'quality'\?",
    "jpeg quality=x": "a whole number for quality .* found 'x'",
    "jpeg quality=5 quality=6": "once .* twice",
    "jpeg subsampling=411": "420, 422, 444",
    "grayscale bits=2": "no options of the defence grayscale",
    "median size=4": "odd size",
    "pgd_at+ddc_at": "at most one defence that trains",
    "purify": "one of module=.* found none",
    "purify module=a.py function=b:c": "found both",
    "purify module=nowhere.py": "nowhere.py, found no such file",
    "purify function=scipy": "package.module:name",
    "purify function=no_such_package:f": "Could not import no_such_package",
    "purify function=math:purify": "a function purify",
}
REFUSED |= dict.fromkeys(("", "jpeg+"), "Unknown defence ''")
REFUSED |= dict.fromkeys(("jpeg quality", "jpeg quality=5.5"), "a whole number for quality")
REFUSED |= {"gaussian_blur sigma=nan": "a number for sigma", "gaussian_blur sigma=-1": "sigma from 0"}
REFUSED |= {"jpeg quality=0": "quality from 1 to 100", "gaussian_noise sigma=300": "sigma from 0 to 255"}
REFUSED |= {"bit_depth bits=9": "bits from 1 to 8", "coin alpha=-1": "alpha from 0", "elastic sigma=0": "sigma from"}
REFUSED |= {"median_cut colours=1": "colours from 2", "wiener size=4": "odd size", "ddc_at steps=0": "steps from 1"}
REFUSED |= {"orthogonal_projection tile=1": "tile from 2", "universal_component period=1": "period from 2"}
REFUSED |= {"down_up factor=0": "factor above 0", "sharpen_frequency keep=0": "keep from"}
REFUSED |= {"pgd_at eps=-1": "eps from 0"}


@pytest.mark.parametrize("text", REFUSED)
def test_names_and_options_are_strict(text):
    with pytest.raises(UnsegError, match=REFUSED[text]):
        defenses_of(text)


def test_several_defences_keep_their_order(tiny_image):
    two = defenses_of("gaussian_blur sigma=2 + bit_depth bits=3")
    assert len(two) == 2
    both = two[1].image(two[0].image(tiny_image, "a"), "a")
    assert np.array_equal(both, apply("bit_depth bits=3", apply("gaussian_blur sigma=2", tiny_image)))
    assert defenses_of("none") == (Defense(),)


@pytest.mark.parametrize("name", DEFENSES)
def test_every_defence_has_words_and_is_found_by_its_defaults(name):
    assert DEFENSES[name].words and (name == "purify" or len(defenses_of(name)) == 1)


# images


@pytest.mark.parametrize("text", [*MILDEST, "coin alpha=0", "elastic alpha=0"])
def test_the_mildest_setting_changes_nothing(text, tiny_image):
    assert np.array_equal(apply(text, tiny_image), tiny_image)


@pytest.mark.parametrize(
    "text", ["gaussian_blur sigma=3", "median size=5", "down_up factor=0.3", "coin", "grayscale", "wiener", "elastic"]
)
def test_a_flat_gray_image_stays(text):
    flat = np.full((20, 30, 3), 77, np.uint8)
    assert np.array_equal(apply(text, flat), flat)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_keeps_its_size_and_changes(name, scenes):
    id, other = scenes.ids[0], defended(scenes, defenses_of(name))
    before, after = scenes.image(id), other.image(id)
    assert after.shape == before.shape and after.dtype == np.uint8
    assert 0 < np.abs(after.astype(float) - before).mean() < 60
    assert np.array_equal(other.label(id), scenes.label(id))


@pytest.mark.parametrize("name", ["gaussian_noise", "coin", "elastic"])
def test_random_ones_depend_on_seed_and_image_alone(name, tiny_image):
    first, same, *others = (apply(name, tiny_image, *how) for how in ((), (), ("b",), ("a", 1)))
    assert np.array_equal(first, same) and not any(np.array_equal(first, other) for other in others)


def test_grayscale_has_equal_channels_of_luma(tiny_image):
    gray = apply("grayscale", tiny_image)
    assert (gray == gray[..., :1]).all()
    assert np.abs(gray[..., 0] - tiny_image @ np.array([0.299, 0.587, 0.114])).max() <= 1


def test_jpeg_gets_closer_with_its_quality(scenes):
    options = "100 subsampling=444", "75 subsampling=444", "75 subsampling=420", "50", "10"
    errors = [energy(scenes, defended(scenes, defenses_of(f"jpeg quality={some}"))) for some in options]
    assert errors == sorted(set(errors)) and errors[0] < 1.5


def test_bit_depth_leaves_so_many_values_and_noise_has_its_strength(tiny_image):
    assert sorted(np.unique(apply("bit_depth bits=2", tiny_image))) == [0, 64, 128, 192]
    noise = apply("gaussian_noise sigma=8", np.full((64, 64, 3), 128, np.uint8)).astype(float) - 128
    assert noise.std() == pytest.approx(8, rel=0.03) and abs(noise.mean()) < 0.3


def test_coin_and_elastic_fetch_from_nearby_and_elastic_moves_neighbours_together():
    ramp = np.repeat(np.arange(0, 240, 4, dtype=np.uint8)[None, :, None], 40, axis=0).repeat(3, axis=2)
    moved = {name: (apply(f"{name} alpha=1.5", ramp).astype(float) - ramp)[:, 3:-3] for name in ("coin", "elastic")}
    assert all(2 < np.abs(one).max() <= 4 * 1.5 for one in moved.values())
    rough = {name: np.abs(np.diff(one, axis=0)).mean() for name, one in moved.items()}
    assert rough["elastic"] < 0.5 < 1.5 < rough["coin"]


def test_median_cut_leaves_so_many_colours_and_wiener_takes_noise_from_flat_places(tiny_image):
    assert len(np.unique(apply("median_cut colours=8", tiny_image).reshape(-1, 3), axis=0)) <= 8
    step = np.where(np.arange(32) < 16, 60, 190)[None, :, None] + np.random.default_rng(0).normal(0, 6, (32, 32, 3))
    smooth = apply("wiener", step.round().astype(np.uint8)).astype(float)
    assert smooth[:, :10].std() < 3 and smooth[:, 20:].mean() - smooth[:, :10].mean() > 125  # and keeps the edge


def test_purify_by_file_and_by_package(tmp_path, tiny_image, sets):
    (tmp_path / "mine.py").write_text("def purify(x):\n    return 255 - x\n")
    assert np.array_equal(apply(f"purify module={tmp_path / 'mine.py'}", tiny_image), 255 - tiny_image)
    assert np.array_equal(apply("purify function=numpy:invert", tiny_image), 255 - tiny_image)
    assert apply("purify function=unseg_lib.defenses.images:total_variation", tiny_image).std() < 0.9 * tiny_image.std()
    (tmp_path / "half.py").write_text("def purify(x):\n    return x[::2]\n")
    with pytest.raises(UnsegError, match=r"uint8 \(32, 48, 3\) for train0, found uint8 \(16, 48, 3\)"):
        defended(sets[0], defenses_of(f"purify module={tmp_path / 'half.py'}")).image("train0")
    (tmp_path / "broken.py").write_text("import no_such_package\n")
    with pytest.raises(UnsegError, match=r"Could not load .*broken.py .*no_such_package"):
        defenses_of(f"purify module={tmp_path / 'broken.py'}")


# fitted to the set


def test_tiles_are_whole_row_by_row_and_can_be_written_to(tiny_image):
    tiles, image = tiles_of(tiny_image[:-1], 8), tiny_image.copy()
    assert np.array_equal(tiles.reshape(18, 8, 8, 3)[7], tiny_image[8:16, 8:16])
    tiles_of(image, 8)[:] = 0
    assert not image.any()


def test_projection_takes_out_noise_that_is_linear_in_the_class(scenes):
    tiles = np.random.default_rng(0).choice([-8.0, 8.0], (2, 8, 8, 3))

    def change(pixels, id):
        rows, columns = (np.arange(length) % 8 for length in pixels.shape[:2])
        return (pixels + tiles[scenes.label(id).clip(max=1), rows[:, None], columns]).clip(0, 255).astype(np.uint8)

    noisy = defended(scenes, (Defense(change),))
    x, y = sample(noisy, 8, 0)
    directions, between = separating(x - x.mean(axis=0), y, ridge=0.1), (tiles[1] - tiles[0]).ravel()
    assert directions.shape == (192, 1) and np.allclose(directions.T @ directions, 1, atol=1e-4)
    assert ((between @ directions) ** 2).sum() / (between @ between) > 0.6
    left, _ = sample(defended(noisy, defenses_of("orthogonal_projection tile=8")), 8, 0)
    guesses = [((data - data.mean(axis=0)) @ between > 0) == (y == 1) for data in (x, left)]
    assert guesses[0].mean() > 0.9 and guesses[1].mean() < 0.8


def test_the_shared_part_of_a_fixed_tile_is_subtracted(scenes, tmp_path):
    """Also in images of 200x130 pixels, where a cell of the tile is about two pixels, not a whole number."""
    for plain, side, number in ((scenes, "tile", 8), (boxes(tmp_path, "train", 8, shape=(130, 200)), "grid", 96)):
        tile, label = POISONS["fixed_tile"].make(PoisonSettings(eps=8, eps_bg=2)), plain.label
        put = lambda pixels, id, tile=tile, label=label: tile(Sample(id, pixels, label(id) == 1, label(id)))  # noqa: E731
        tiled = defended(plain, (Defense(put),))
        cleaned, found = defended(tiled, defenses_of("universal_component")), shared_tile(tiled)
        assert energy(plain, cleaned) < 0.2 * energy(plain, tiled)
        assert number == (found.grid if side == "grid" else found.tile.shape[1])


@pytest.mark.parametrize("text", FITTED)
def test_clean_images_are_nearly_unharmed(text, scenes):
    assert 10 * np.log10(255**2 / energy(scenes, defended(scenes, defenses_of(text)))) > 33
    one = replace(scenes, read_label=lambda id: np.zeros((96, 96), np.uint8))
    if text.startswith("orthogonal"):  # without two classes it does nothing
        assert energy(one, defended(one, defenses_of(text))) == 0


@pytest.mark.parametrize("text", FITTED)
def test_fitted_ones_take_small_and_ignored_images(text, tmp_path):
    tiny = boxes(tmp_path, "train", 2, shape=(6, 5))
    for source in (tiny, replace(tiny, read_label=lambda id: np.full((6, 5), 255, np.uint8))):
        assert defended(source, defenses_of(text)).image("train0").shape == (6, 5, 3)


# drawn anew in every step


@pytest.mark.parametrize("name", ["sharpen_frequency", "ueraser"])
def test_batch_defences_are_seeded_and_in_range(name, scenes):
    x = tensors(scenes, (48, 64), "training")[0][:4].float() / 255
    change = defenses_of(name)[0].batch
    one, two, other = (change(x, torch_rng(seed)) for seed in (1, 1, 2))
    assert one.shape == x.shape and one.min() >= 0 and one.max() <= 1
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_seen_is_what_a_training_reads(scenes):
    images = tensors(defended(scenes, defenses_of("jpeg")), (48, 64), "training")[0].permute(0, 2, 3, 1).numpy()
    shown = [seen(scenes, defenses_of(text), (48, 64)) for text in ("jpeg", "jpeg+ueraser")]
    assert [np.array_equal(some, images) for some in shown] == [True, False]


def test_low_frequencies_are_those_of_the_dct():
    from scipy.fft import dctn, idctn

    x = torch.rand(2, 3, 20, 30, generator=torch_rng("x")) * 0.2 + 0.4
    spectrum = dctn(x.numpy(), axes=(2, 3), norm="ortho")
    spectrum[:, :, 6:], spectrum[:, :, :, 9:] = 0, 0
    expected = np.clip(idctn(spectrum, axes=(2, 3), norm="ortho"), 0, 1)
    assert np.allclose(low_frequencies(x, 0.3), expected, atol=1e-5)
    assert torch.allclose(low_frequencies(x, 1.0), x, atol=1e-5)


def test_sharpening_raises_edges_and_about_keeps_what_is_flat():
    x = torch.full((64, 3, 16, 16), 0.4)
    x[..., 8:] = 0.6
    y = sharpen(x, 2.5, torch_rng("x")).mean(dim=0)
    assert y[:, 4, 2].mean() == pytest.approx(0.4, abs=0.05)  # the weights sum to 1 on average
    assert y[:, 4, 8].mean() - y[:, 4, 7].mean() > 0.3  # the step was 0.2


def test_plasma_and_operations_stay_in_range():
    x = torch.rand(3, 20, 30, generator=torch_rng("x"))
    cloud = plasma(x, 0.5, torch_rng("cloud"))
    assert cloud.shape == (1, 20, 30) and cloud.min() == 0 and cloud.max() == 1
    for y in (operate(x, name, strength) for name in OPERATIONS for strength in (-1, 0, 1)):
        assert y.shape == x.shape and y.min() >= 0 and y.max() <= 1
    assert torch.allclose(operate(x, "brightness", 0), x, atol=0.003)


# another training


@pytest.fixture(scope="module")
def plain(sets) -> tuple:
    """A run, its model, and one batch: images normalised `(4,3,32,32)`, labels `(4,32,32)`."""
    x, y = tensors(sets[0], (32, 32), "training")
    model = build(VICTIM, 2, (32, 32), "random", 0)
    return run_of(f"smp:{VICTIM}", sets, size=(32, 32)), model, normalise(x[:4]), y[:4].long()


@pytest.fixture(scope="module")
def divided(plain) -> DividedModel:
    return defenses_of("ddc_at")[0].prepare(*plain[:2])


def pixels_of(x: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    return x * std + mean


@pytest.mark.parametrize("objective", [cross_entropy_sum, segpgd])
def test_the_attack_keeps_its_budget_and_hurts(plain, objective):
    run, model, x, y = plain
    model.eval()
    attacked = attack(run, model, x, y, 7.65, 3, objective)
    change, pixels = (pixels_of(attacked) - pixels_of(x)).abs() * 255, pixels_of(attacked)
    assert change.max() <= 7.65 + 0.003 and change.mean() > 0.3 * 7.65
    assert pixels.min() > -1e-5 and pixels.max() < 1 + 1e-5
    with torch.inference_mode():
        before, after = (cross_entropy_sum(model(some), y, 1, 1) for some in (x, attacked))
    assert after > before
    assert torch.allclose(attack(run, model, x, y, 0, 3, objective), x, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_segpgd_weighs_right_and_wrong_pixels():
    logits = torch.tensor([[2.0, 2.0], [0.0, 0.0]]).view(1, 2, 1, 2)  # class 0 at both pixels
    y = torch.tensor([0, 1]).view(1, 1, 2)
    right, wrong = np.log1p(np.exp(-2)), np.log1p(np.exp(2))
    assert segpgd(logits, y, 1, 4).item() == pytest.approx(right, rel=1e-5)
    assert segpgd(logits, y, 3, 4).item() == pytest.approx(0.75 * right + 0.25 * wrong, rel=1e-5)


def test_without_an_attack_no_pixel_is_fragile(plain, divided):
    run, _, x, y = plain
    divided.eval()
    attacked = (attack(run, divided, x, y, eps, 3, cross_entropy_sum) for eps in (0, 60))
    nothing, fragile = (flipped(run, divided, x, one) for one in attacked)
    assert not nothing.any()
    assert set(fragile.unique().tolist()) <= {0, 1} and fragile.shape == y.shape and fragile.any()


def test_the_divided_loss_teaches_every_head(plain, divided):
    run, _, x, y = plain
    divided_loss(run, divided, x, y, 7.65, 3).backward()
    for part in ("cls1", "router", "aux", "encoder", "decoder"):
        gradients = [p.grad for p in getattr(divided, part).parameters() if p.grad is not None]
        assert sum(float(g.abs().sum()) for g in gradients) > 0, part
    divided.zero_grad()
    assert divided.training and divided(x).shape == (4, 2, 32, 32)


def test_the_router_sends_pixels_to_the_second_head(plain, divided):
    _, _, x, _ = plain
    divided.eval()
    last, before = divided.router[-1], divided.router[-1].bias.detach().clone()
    with torch.no_grad():
        last.bias[1] += 1e4
        routed = divided.parts(x)[0]
        second = divided._at(x, divided.cls2(divided.decoder(divided.encoder(x))))
        last.bias.copy_(before)
    assert torch.allclose(routed, second, atol=1e-5)


def test_a_batch_without_labels_has_a_finite_loss(plain, divided):
    run, _, x, y = plain
    nothing = torch.full_like(y, 255)
    assert torch.isfinite(divided_loss(run, divided, x, nothing, 7.65, 3))
    assert torch.isfinite(defenses_of("pgd_at")[0].loss(run, divided, x, nothing))


# through train_victim


@pytest.mark.parametrize("victim", [VICTIM, "deeplabv1:wideresnet38-tiny", "deeplabv3:tiny colour=True"])
@pytest.mark.parametrize("defense", ["pgd_at", "ddc_at steps=1", "frozen_encoder+grayscale", "universal_component"])
def test_a_defended_victim_is_trained(sets, tmp_path, victim, defense):
    train = partial(train_victim, victim, *sets, tmp_path, **(HOW | {"epochs": 1}))
    assert 0 < train(defense=defense)["epochs"][0]["loss"] < 10
    with pytest.raises(UnsegError, match=r"defense .* there, jpeg asked"):
        train(defense="jpeg")


RANDOM = "gaussian_noise+ueraser+ddc_at steps=1"


def test_killed_with_a_random_defence_it_ends_with_the_same_numbers(sets, tmp_path):
    child = multiprocessing.get_context("fork").Process(target=train_and_die, args=(sets, tmp_path / "killed", RANDOM))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL and not (tmp_path / "killed" / "result.json").exists()
    killed, whole = (train_victim(VICTIM, *sets, tmp_path / at, **HOW, defense=RANDOM) for at in ("killed", "whole"))
    assert killed["epochs"] == whole["epochs"]


def test_a_defence_from_outside_works_everywhere(sets, tmp_path, monkeypatch):
    asked = []

    def darker(seed: int, *, by: int = 10) -> Defense:
        return Defense(image=lambda pixels, id: (asked.append((id, seed, by)), (pixels // 2).clip(by))[1])

    monkeypatch.setitem(DEFENSES, "darker", Maker(darker, "half as bright"))
    train_victim(VICTIM, *sets, tmp_path, **(HOW | {"epochs": 1}), defense="darker by=3")
    assert asked == [(id, 0, 3) for id in sets[0].ids]  # the training images, once; never the test
    assert seen(sets[0], defenses_of("darker+jpeg"), (32, 32)).max() < 140
    for text, words in (("darker to=3", "Unknown option 'to' .*Known: by"), ("drker", "did you mean 'darker'")):
        with pytest.raises(UnsegError, match=words):
            defenses_of(text)
