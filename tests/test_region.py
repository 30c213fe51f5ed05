"""The region by box, clicks and nothing: what the segmenter is shown, how it learns, what it finds; SAM instead."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from unseg_lib import datasets, method
from unseg_lib.errors import UnsegError
from unseg_lib.files import sha256_of
from unseg_lib.images import INNER, OUTER, outlined, read_image
from unseg_lib.method import SEGMENTER, SegmenterConfig, around, box_of, find_region, scenes_of, train_segmenter
from unseg_lib.method.weights import read_own, read_sam, save_own
from unseg_lib.protection import Batch, Protector, protect_files
from unseg_lib.seeds import numpy_rng


def disc(height=240, width=320, at=(110, 130), radius=60) -> tuple[np.ndarray, np.ndarray]:
    """A shaded orange ball on a dull ground with some grain, and its mask."""
    y, x = np.mgrid[:height, :width]
    distance = np.hypot(x - at[0], y - at[1])
    light = (1 - 0.5 * (np.hypot(x - at[0] + 20, y - at[1] + 20) / radius).clip(0, 1))[..., None]
    pixels = np.where((distance < radius)[..., None], np.array([240, 140, 40]) * light, [120, 125, 110])
    pixels = pixels + np.random.default_rng(0).normal(0, 6, pixels.shape)
    return pixels.clip(0, 255).astype(np.uint8), distance < radius


PIXELS, BALL = disc()
PROMPTS = {"box": {"box": (46, 68, 172, 192)}, "points": {"points": [(110, 130)]}, "salient objects": {}}


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("how", PROMPTS)
@pytest.mark.parametrize("factor", [1, 6])
def test_the_ball_is_found_by_box_by_a_click_and_by_nothing_at_any_size(how, factor):
    pixels, ball = PIXELS.repeat(factor, 0).repeat(factor, 1), BALL.repeat(factor, 0).repeat(factor, 1)
    prompt = {kind: factor * np.array(places) for kind, places in PROMPTS[how].items()}
    mask, found_by = find_region(pixels, **prompt)
    assert found_by == how and mask.shape == ball.shape and mask.dtype == bool
    assert iou(mask, ball) > 0.85
    assert np.array_equal(find_region(pixels, **prompt).mask, mask)


def test_of_two_balls_clicks_say_which_and_boxes_find_both():
    pixels, left = disc(at=(80, 120), radius=50)
    right = disc(at=(240, 120), radius=50)
    pixels[:, 160:], right = right[0][:, 160:], right[1]
    one = find_region(pixels, points=[(80, 120), (240, 120)], labels=[1, 0]).mask
    assert iou(one, left) > 0.7 and not one[120, 240]
    both = find_region(pixels, box=[(28, 68, 132, 172), (188, 68, 292, 172)]).mask
    assert iou(both, left | right) > 0.85
    assert not both[:, 140:180].any()  # what is found is cut at its box


def test_a_box_with_nothing_in_it_is_taken_whole_and_a_click_always_counts():
    flat = np.full((80, 100, 3), 128, np.uint8)
    mask, found_by = find_region(flat, box=(10, 20, 39, 49))
    assert mask[20:50, 10:40].any() and not mask[:20].any() and (found_by == "box" or mask.sum() == 900)
    assert find_region(flat, points=[(50, 40)]).mask[40, 50]
    assert all(find_region(np.full((20, 20, 3), 9, np.uint8), points=[(x, 2.5)]).mask[2, int(x)] for x in (4.5, 17.9))


def test_a_prompt_becomes_maps_in_the_window():
    window = around((20, 10, 60, 30), 0.5, (100, 200))
    assert window == (0, 0, 80, 40) and around((0, 0, 1, 1), 0.5, (100, 200)) == (0, 0, 9, 9)
    maps = method.maps_of(window, (20, 10, 60, 30), np.array([(39.5, 19.5), (0, 0)]), np.array([1, 0]), 80)
    assert maps[0, 20:60, 20:60].all() and maps[0].sum() == 1600
    assert maps[1].argmax() == 39 * 80 + 39 or maps[1, 39:41, 39:41].max() == maps[1].max()
    assert maps[2, 0, 0] == maps[2].max() > 0.9 and maps[2, 40, 40] < 1e-9 and maps.max() <= 1
    mask = np.zeros((100, 200), bool)
    mask[10:30, 20:60] = True
    assert box_of(mask) == (20, 10, 60, 30)
    assert np.abs(np.subtract(method.rough_box(mask, numpy_rng(0)), (20, 10, 60, 30))).max() <= 4


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"points": [(1, 1)], "labels": [0]}, "one of them 1, found"),
        ({"points": [(1, 1)], "labels": [1, 1]}, r"found \[1, 1\] for 1 points"),
        ({"segmenter": "smal"}, "Expected small, sam:FILE or a segmenter's file, found smal"),
        ({"segmenter": "sam:none.pth"}, r"none\.pth"),
        ({"segmenter": str(SEGMENTER.parents[1] / "small.safetensors")}, "a segmenter's file"),
    ],
)
def test_what_makes_no_sense_is_one_sentence(given, sentence):
    with pytest.raises(UnsegError, match=sentence) as caught:
        find_region(PIXELS, **given)
    assert "\n" not in str(caught.value)


def test_a_killed_training_ends_with_the_same_bytes(tmp_path, monkeypatch):
    datasets.write_scenes(tmp_path, 64, {"train": 6, "test": 1})
    scenes = scenes_of(datasets.load_dataset("scenes", tmp_path, "train"))
    config, seen = SegmenterConfig(steps=4, batch_size=3, side=64), []
    assert all(one.any() and one.shape == scene.pixels.shape[:2] for scene in scenes for one in scene.objects)
    whole = train_segmenter(config, scenes, tmp_path / "whole", checkpoint_every=10)
    plain = torch.optim.AdamW.step

    def dies(*given, **how):
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return plain(*given, **how)

    monkeypatch.setattr(torch.optim.AdamW, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_segmenter(config, scenes, tmp_path / "killed", checkpoint_every=2)
    resumed = train_segmenter(config, scenes, tmp_path / "killed", checkpoint_every=2)
    assert len(seen) == 6 and sha256_of(resumed) == sha256_of(whole)  # two of the steps again
    heads = [method.load_segmenter(path).net.segmentation_head[0].weight for path in (whole, SEGMENTER)]
    assert heads[0].shape == heads[1].shape and not torch.equal(*heads)
    # neither another training nor other images of the same number are taken for it
    for other, images in ((replace(config, steps=5), scenes), (config, scenes[::-1])):
        with pytest.raises(UnsegError, match="another one"):
            train_segmenter(other, images, tmp_path / "whole")


def test_a_segmenters_file_without_some_weights_is_refused(tmp_path):
    about, state = read_own(SEGMENTER, "unseg_segmenter", "a segmenter")
    less = {key: value for key, value in state.items() if "segmentation_head" not in key}
    save_own(tmp_path / "less.safetensors", less, "unseg_segmenter", about)
    with pytest.raises(UnsegError, match=r"2 parameters missing \(first: net\.segmentation_head"):
        find_region(PIXELS, segmenter=str(tmp_path / "less.safetensors"))


def test_what_ships_is_small_and_says_where_it_is_from():
    from safetensors import safe_open

    assert SEGMENTER.stat().st_size < 12e6
    with safe_open(SEGMENTER, "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.float16}  # noqa: SIM118
        assert '"data": "voc,folder:interactive/davis+interactive/ccp"' in file.metadata()["unseg_segmenter"]
    assert sha256_of(SEGMENTER) in (SEGMENTER.parents[4] / "docs/protect.md").read_text()


def test_sam_takes_its_place(sam_file, tmp_path):
    from segment_anything import SamPredictor

    name, predictor = f"sam:{sam_file}", SamPredictor(read_sam(sam_file))
    predictor.set_image(PIXELS)
    points, labels = np.array([(110, 130), (20, 20)]), np.array([1, 0])
    expected = predictor.predict(points, labels, multimask_output=False)[0][0]
    mask, found_by = find_region(PIXELS, points=points, labels=labels, segmenter=name)
    assert found_by == "points (sam)" and mask[130, 110] and (mask ^ expected).mean() < 0.01
    box = (46, 68, 172, 192)
    expected = predictor.predict(box=np.array([46, 68, 173, 193]), multimask_output=False)[0][0]
    mask, found_by = find_region(PIXELS, box=box, segmenter=name)
    inside = expected[68:193, 46:173]
    assert np.array_equal(mask[68:193, 46:173], inside) if inside.mean() >= 0.02 else found_by == "whole box (sam)"
    mask, found_by = find_region(PIXELS, segmenter=name)
    assert mask.any() and found_by in ("salient objects (sam)", "whole image")
    # several threads ask at once
    find, moved = partial(find_region, box=box, segmenter=name), [np.roll(PIXELS, 9 * i, 1) for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        for alone, beside in zip(map(find, moved), pool.map(find, moved), strict=True):
            assert np.array_equal(alone.mask, beside.mask)
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 3, 3, 5)}, tmp_path / "other.pth")
    with pytest.raises(UnsegError, match="a checkpoint of SAM"):
        find_region(PIXELS, segmenter=f"sam:{tmp_path / 'other.pth'}")
    assert Protector(segmenter=name, device="cpu")(PIXELS, box=box).found_by in ("box (sam)", "whole box (sam)")


def test_a_preview_shows_the_outline_of_the_region_in_the_report(tmp_path, weights):
    Image.fromarray(PIXELS).save(tmp_path / "ball.png")
    how = {"boxes": "46,68,172,192", "generator": weights, "device": "cpu"}
    (row,) = protect_files([tmp_path / "ball.png"], tmp_path / "out", preview=True, **how)
    mask = find_region(PIXELS, box=(46, 68, 172, 192)).mask
    assert (row["found_by"], row["protected"]) == ("box", round(mask.mean(), 6))
    drawn, seen = outlined(PIXELS, mask), read_image(tmp_path / "out/preview/ball.png.jpg").astype(int)
    assert np.abs(seen - drawn).mean() < 6 and (drawn != PIXELS).any(axis=2).mean() < 0.1
    assert mask[(drawn == INNER).all(axis=2)].all() and not mask[(drawn == OUTER).all(axis=2)].any()
    change = np.abs(read_image(tmp_path / "out/ball.png").astype(int) - PIXELS).max(axis=2)
    assert change[mask].max() <= 8 and change[~mask].max() <= 2
    assert not Batch([tmp_path / "ball.png"], tmp_path / "out").preview
