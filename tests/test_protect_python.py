"""Protecting from Python: every kind of image comes back as it came, within budget; looking at what was changed."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import unseg_lib
from unseg_lib import inspection
from unseg_lib.errors import UnsegError
from unseg_lib.images import write_image
from unseg_lib.method import budget
from unseg_lib.poisons import POISONS, PoisonSettings, Sample
from unseg_lib.protection import NO_COLOURS, ONE_CHANNEL, Batch, Protector, protect, protect_batch


@pytest.fixture(scope="module")
def protector(weights):
    return Protector(weights, device="cpu")


PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
MASK = np.zeros((24, 32), bool)
MASK[5:18, 8:22] = True


def kinds(pixels):
    """One image as every kind that is taken, with the way back to uint8 (H,W,C)."""
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)
    back = lambda x: x.permute(1, 2, 0).numpy()  # noqa: E731
    return {
        "uint8": (pixels, lambda x: x),
        "float": (pixels.astype(np.float32) / 255, lambda x: np.rint(x * 255).astype(np.uint8)),
        "pil": (Image.fromarray(pixels), np.asarray),
        "tensor": (tensor, back),
        "float tensor": (tensor / 255, lambda x: back((x * 255).round().byte())),
    }


@pytest.mark.parametrize("kind", kinds(PIXELS))
def test_every_kind_comes_back_as_it_came_and_means_the_same(protector, kind):
    expected = protector(PIXELS, MASK)
    image, back = kinds(PIXELS)[kind]
    mask = torch.from_numpy(MASK) if "tensor" in kind else Image.fromarray(MASK) if kind == "pil" else MASK
    found = protector(image, mask)
    assert type(found.image) is (Image.Image if kind == "pil" else type(image))
    assert getattr(found.image, "dtype", None) == getattr(image, "dtype", None)
    assert np.array_equal(back(found.image), expected.image)
    assert np.array_equal(found.noise, expected.image.astype(int) - PIXELS)
    change = np.abs(found.noise).max(axis=2)
    assert 2 < change[MASK].max() <= 8 and change[~MASK].max() <= 2
    assert found.found_by == "mask" and found.measured == expected.measured


def test_in_quarters_an_image_gets_what_a_data_set_gets(weights, protector):
    pixels, mask = np.random.default_rng(0).integers(0, 256, (99, 70, 3), dtype=np.uint8), np.zeros((99, 70), bool)
    mask[5:60, 8:30] = True
    settings = PoisonSettings(generator=weights, device="cpu")
    expected = POISONS["unseg_quarters"].make(settings)(Sample("a", pixels, mask, mask.astype(np.uint8))).astype(int)
    found = Protector(weights, quarters=True, device="cpu")(pixels, mask)
    assert np.abs(found.image - expected).max() <= 1 and np.abs(found.image - protector(pixels, mask).image).max() > 1
    wide, left = np.full((64, 4200, 3), 128, np.uint8), np.indices((64, 4200))[1] < 1000
    left[40, 4001] = True  # alone in its quarter, and lost where the nearest pixels are taken
    assert np.abs(Protector(weights, quarters=True, device="cpu")(wide, left).noise[40, 4001]).max() > 2


@pytest.mark.parametrize("shape", [(24, 32), (24, 32, 1)])
def test_one_channel_stays_one_channel(protector, shape):
    gray = PIXELS[..., 0].reshape(shape)
    with pytest.warns(UserWarning, match="one channel keeps only the gray part"):
        found = protector(gray, MASK)
        assert found.image.shape == shape and found.remark == ONE_CHANNEL
        assert protector(torch.from_numpy(PIXELS[..., :1]).permute(2, 0, 1), MASK).image.shape == (1, 24, 32)
        assert protector(Image.fromarray(PIXELS[..., 0]), MASK).image.mode == "L"


def test_an_image_without_colours_is_remarked_for_the_generators_that_do_not_protect_it(recwarn):
    gray = np.repeat(PIXELS[..., :1], 3, axis=2)
    assert protect(PIXELS, MASK).remark == protect(gray, MASK, generator="colour").remark == "" and not recwarn
    with pytest.warns(UserWarning, match="generator colour is better"):
        assert protect(gray, MASK).remark == NO_COLOURS


def test_the_grating_needs_no_network_and_stays_in_the_region(tmp_path, recwarn):
    grating = Protector("grating", device="cpu")
    pixels, region = np.full((150, 192, 3), 128, np.uint8), np.zeros((150, 192), bool)
    region[30:110, 40:170] = True
    found, again, other = (grating(x, region).noise for x in (pixels, pixels, pixels + np.uint8(1)))
    assert np.array_equal(found, again) and not np.array_equal(found, other)  # each image starts elsewhere
    assert set(np.unique(found[region])) == {-8, 8} and not found[~region].any()
    assert np.array_equal(found[..., 0], found[..., 1])  # brightness, of which a gray file keeps nearly all
    assert np.count_nonzero(np.diff(found[70, 40:170, 0])) == pytest.approx(130 / (192 / 96 * 3.5 / 2), abs=1)
    gray = grating(pixels[..., 0], region)
    assert np.abs(gray.noise[region]).min() == 8 and gray.remark == "" and not recwarn
    large = grating(np.full((3000, 200, 3), 128, np.uint8), np.ones((3000, 200), bool)).noise  # drawn on a grid
    assert np.abs(large).max() == 8 and (np.abs(large) == 8).mean() > 0.8
    wide = np.full((700, 1400, 3), 128, np.uint8)
    middle = np.pad(np.ones((301, 501), bool), ((199, 200), (449, 450)))
    found = grating(wide, middle)  # on a grid coarser than the image, and nothing seeps out of the region
    assert found.measured["linf_outside"] == 0 and found.measured["linf_inside"] == 8
    for wrong in ({"reference": True}, {"quarters": True}):
        with pytest.raises(UnsegError, match="the generator grating has not"):
            Protector("grating", **wrong)
    with pytest.raises(UnsegError, match="Expected the prompt mask beside quarters, found box"):
        Protector(quarters=True, prompt="box")


def test_prompts_say_what_is_protected(protector):
    box = protector(PIXELS, box=(8, 5, 21, 17))
    assert box.found_by in ("box", "whole box") and box.region.any() and not box.region[~MASK].any()
    assert np.array_equal(box.image, protector(PIXELS, box.region).image)
    point = protector(PIXELS, points=[(9, 6)])
    assert point.found_by == "points" and point.region[6, 9]
    flat = protector(np.full_like(PIXELS, 7))
    assert flat.found_by == "whole image" and flat.region.all()


@pytest.mark.parametrize(
    "image, options, sentence",
    [
        (PIXELS, {"mask": MASK[:20]}, "a mask of 32x24 pixels, found 32x20"),
        (PIXELS, {"mask": MASK, "box": (0, 0, 1, 1)}, "one of mask, box and points, found mask and box"),
        (PIXELS, {"box": (5, 5, 1, 1)}, "a box x0,y0,x1,y1"),
        (PIXELS, {"box": (40, 5, 50, 9)}, "meets the image"),
        (PIXELS, {"points": [(32, 5)]}, "points inside the image of 32x24"),
        (PIXELS, {"points": []}, "Expected points as x,y"),
        (PIXELS, {"mask": np.ones((1, 24, 32))}, r"\(H,W\), found float64 of the shape \(1, 24, 32\)"),
        (PIXELS, {"mask": np.full((24, 32), "x")}, "a mask of numbers"),
        (PIXELS, {"mask": np.where(MASK, 1, np.nan)}, "a mask of numbers, found NaN"),
        (PIXELS, {"labels": [1]}, "points beside labels, found none"),
        ((PIXELS / 255).tolist(), {"mask": MASK}, "one image, .* found list; for several"),
        (torch.zeros(3, 24, 32).to_sparse(), {}, "a tensor that numpy can read"),
        (PIXELS.astype(np.float32), {}, "floats from 0 to 1"),
        (PIXELS.astype(np.int32), {}, "Expected uint8"),
        (np.full_like(PIXELS, np.nan, np.float32), {}, "floats from 0 to 1"),
        (np.zeros((0, 9, 3), np.float32), {}, "at least 16 pixels"),
        (torch.zeros(3, 24, 32, dtype=torch.bfloat16), {}, "found bfloat16"),
        (PIXELS[None], {}, "for several use protect_batch"),
        (PIXELS[:10], {}, "at least 16 pixels"),
        (Image.fromarray(PIXELS).convert("CMYK"), {}, "mode RGB or L, found CMYK; convert it"),
        (Image.fromarray(PIXELS[..., 0] * np.uint16(257)), {}, "mode RGB or L, found I;16; scale it to 8 bits"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(protector, image, options, sentence):
    with pytest.raises(UnsegError, match=sentence) as caught:
        protector(image, **options)
    assert "\n" not in str(caught.value)


def test_an_empty_mask_is_told(protector):
    with pytest.warns(UserWarning, match="the region is empty"):
        assert np.array_equal(protector(PIXELS, np.zeros(PIXELS.shape[:2])).image, PIXELS)


def test_settings_that_make_no_sense_are_one_sentence():
    for options, sentence in (
        ({"eps": "8"}, "Expected eps from 0 to 255 .*found '8'"),
        ({"eps": True}, "found True"),
        ({"eps": 8 / 255}, "Expected eps in steps of 255, say 8 and not 8/255"),
        ({"eps_bg": 2 / 255}, "Expected eps_bg in steps of 255, say 2 and not 2/255"),
        ({"segmenter": None}, "Expected a text for segmenter, as on the command line, found NoneType"),
        ({"prompt": None}, "Expected a text for prompt"),
        ({"prompt": "pionts"}, "Unknown prompt 'pionts'"),
        ({"device": torch.device("meta")}, "Expected a device of this machine"),
    ):
        with pytest.raises(UnsegError, match=sentence):
            protect(PIXELS, MASK, **options)


def test_masks_of_any_number_and_prompts_and_devices_of_torch_will_do(protector):
    expected = protector(PIXELS, MASK).image
    for mask in (-MASK.astype(int), (255 * MASK.astype(int)).astype(np.int8), np.where(MASK, np.inf, 0)):
        assert np.array_equal(protector(PIXELS, mask).image, expected)
    box = torch.tensor([8.0, 5, 21, 17], requires_grad=True)
    assert np.array_equal(protector(PIXELS, box=box).image, protector(PIXELS, box=(8, 5, 21, 17)).image)
    assert protect(PIXELS, MASK, device=torch.device("cpu")).measured["linf_inside"] <= 8


def test_the_same_call_gives_the_same_image_and_leaves_randomness_alone(weights):
    before = torch.get_rng_state()
    one, two = (protect(PIXELS, MASK, generator=weights, device="cpu") for _ in range(2))
    assert np.array_equal(one.image, two.image) and torch.equal(before, torch.get_rng_state())
    assert unseg_lib.protect is protect


def test_the_generator_can_be_shown_the_region_in_each_of_the_papers_ways(weights):
    """Another prompt, or other points, is other noise; the budget follows the region all the same."""

    def done(prompt, seed=0):
        return protect(PIXELS, MASK, generator=weights, device="cpu", prompt=prompt, seed=seed)

    assert np.array_equal(done("mask").image, done("mask", seed=1).image), "nothing is drawn for a mask"
    assert np.array_equal(done("points", seed=1).image, done("points", seed=1).image)
    ways = [done("mask"), done("box"), done("points"), done("points", 1), done("mask+box+points")]
    assert len({one.image.tobytes() for one in ways[:4]}) == 4
    for one in ways:
        change = np.abs(one.noise).max(axis=2)
        assert change[MASK].max() <= 8 and change[~MASK].max() <= 2 and np.array_equal(one.region, MASK)


def test_a_batch_is_its_images_one_by_one(weights):
    stack = torch.from_numpy(np.stack([PIXELS, PIXELS[::-1]])).permute(0, 3, 1, 2)
    found = protect_batch(stack, [MASK, None], generator=weights, device="cpu", eps=4)
    assert found[0].found_by == "mask" and len(found) == 2
    assert all(one.measured["linf_inside"] <= 4 for one in found)
    with pytest.raises(UnsegError, match="a mask for each of 2 images, found 1"):
        protect_batch(stack, [MASK], generator=weights)
    with pytest.raises(UnsegError, match=r"Expected a list of images or a tensor \(N,3,H,W\), found the shape"):
        protect_batch(stack[0])
    for one in (Image.fromarray(PIXELS), Path("a.png"), None):
        with pytest.raises(UnsegError, match=f"Expected a list of images .*found {type(one).__name__}; for one image"):
            protect_batch(one)


def test_options_of_another_kind_are_one_sentence(tmp_path):
    write_image(tmp_path / "a.png", PIXELS)
    for options, found in (
        ({"boxes": [5, 5, 9, 9]}, "a text for boxes, .*found list"),
        ({"masks": MASK}, "a text for masks, .*found ndarray"),
        ({"masks": "m", "classes": [3]}, "a text for classes, .*found list"),
        ({"quality": "95"}, "a whole number for quality, .*found str"),
        ({"jobs": None}, "a whole number for jobs, .*found NoneType"),
        ({"jobs": 1.5}, "a whole number for jobs, .*found float"),
        ({"format": None}, "a text for format, .*found NoneType"),
        ({"out": ""}, "a folder for the output, found ''"),
        ({"out": None}, "a folder for the output, found None"),
    ):
        with pytest.raises(UnsegError, match=f"^Expected {found}") as caught:
            Batch(**{"inputs": [tmp_path / "a.png"], "out": tmp_path / "out"} | options)
        assert "\n" not in str(caught.value)
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\na.png,1,1,9,9\n")
    assert Batch([tmp_path / "a.png"], tmp_path / "out", boxes=tmp_path / "boxes.csv", masks=None, shard=None).files


def loaded(weights, numbers):
    """A batch that is protected as it is loaded, by a protector of each worker's own."""
    protector = Protector(weights, device="cpu")
    rolled = [(torch.from_numpy(np.roll(PIXELS, i, 1)).permute(2, 0, 1), np.roll(MASK, i, 1)) for i in numbers]
    done = [protector(image, mask) for image, mask in rolled]
    return torch.stack([one.image for one in done]), torch.from_numpy(np.stack([one.region for one in done]))


def test_it_works_in_a_data_loader(weights, protector):
    loader = torch.utils.data.DataLoader(range(4), 2, num_workers=2, collate_fn=partial(loaded, weights))
    images, regions = (torch.cat(parts) for parts in zip(*loader))
    assert images.shape == (4, 3, 24, 32) and regions.sum(dim=(1, 2)).tolist() == [MASK.sum()] * 4
    expected = protector(np.roll(PIXELS, 3, axis=1), np.roll(MASK, 3, axis=1)).image
    assert np.array_equal(images[3].permute(1, 2, 0), expected)


def test_working_in_strips_changes_at_most_a_step_and_no_measure(protector, monkeypatch):
    whole = protector(PIXELS, MASK)
    monkeypatch.setattr(budget, "STRIP", 32 * 5)
    monkeypatch.setattr(budget, "WINDOWS", 32 * 3)
    strips = protector(PIXELS, MASK)
    assert np.abs(strips.noise - whole.noise).max() <= 1 and (strips.noise != whole.noise).mean() < 0.01
    assert strips.measured["ssim"] == pytest.approx(whole.measured["ssim"], abs=1e-3)
    assert budget.measure(PIXELS, whole.image, MASK) == pytest.approx(whole.measured, abs=1e-6)


def test_inspect_counts_the_changes(tmp_path):
    changed = PIXELS // 2
    changed[0, 0, 1] += 3
    for name, pixels in (("a.png", PIXELS // 2), ("b.png", changed), ("c.png", changed[:20])):
        write_image(tmp_path / name, pixels)
    found = inspection.inspect(tmp_path / "a.png", tmp_path / "b.png")
    assert found["largest"] == [0, 3, 0] and found["changed"] == 1 / (24 * 32)
    assert found["counts"][3] == 1 / PIXELS.size and sum(found["counts"]) == pytest.approx(1)
    assert "red 0, green 3, blue 0" in inspection.described(found)
    inspection.write_difference(tmp_path / "a.png", tmp_path / "b.png", tmp_path / "d.png")
    assert np.asarray(Image.open(tmp_path / "d.png"))[0, 0].tolist() == [127, 157, 127]
    before = (tmp_path / "a.png").read_bytes()
    for name, sentence in (("a.png", "found a file there"), ("d.foo", r"ends in \.png"), ("a.png/d.png", "Could not")):
        with pytest.raises(UnsegError, match=sentence):
            inspection.write_difference(tmp_path / "a.png", tmp_path / "b.png", tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == before
    for compare in (inspection.inspect, lambda *pair: inspection.write_difference(*pair, tmp_path / "e.png")):
        with pytest.raises(UnsegError, match="two images of one size, found 32x24 and 32x20"):
            compare(tmp_path / "a.png", tmp_path / "c.png")
