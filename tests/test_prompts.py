"""Prompts drawn from masks: by hand, and for masks that are too small for the recipe."""

import torch

from unseg_lib.method import prompts as p
from unseg_lib.seeds import torch_rng


def mask_with(*pixels, size=16):
    mask = torch.zeros(1, 1, size, size)
    for y, x in pixels:
        mask[0, 0, y, x] = 1
    return mask


def rectangle(size=32):
    mask = torch.zeros(1, 1, size, size)
    mask[..., 8:20, 4:30] = 1
    return mask


def test_box_is_tight_with_inclusive_corners():
    assert p.boxes_of(rectangle()[:, 0] > 0.5).tolist() == [[4, 8, 29, 19]]
    assert p.boxes_of(mask_with((3, 5))[:, 0] > 0.5).tolist() == [[5, 3, 5, 3]]
    assert p.boxes_of(torch.zeros(1, 4, 4, dtype=torch.bool)).tolist() == [[0, 0, 0, 0]]


def test_points_lie_inside_and_differ_when_there_is_room():
    mask = rectangle()[:, 0] > 0.5
    points = p.points_of(mask, torch_rng(0))[0].long()
    assert points.shape == (10, 2) and mask[0, points[:, 1], points[:, 0]].all()
    assert len({tuple(xy) for xy in points.tolist()}) == 10


def test_few_pixels_repeat_points_instead_of_crashing():
    points = p.points_of(mask_with((3, 5), (3, 6))[:, 0] > 0.5, torch_rng(0))[0]
    assert points.shape == (10, 2) and {tuple(xy) for xy in points.tolist()} <= {(5, 3), (6, 3)}


def test_boundary_noise_stays_at_the_boundary():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :, 32:] = 1
    noisy = p.noisy_mask(mask, torch_rng(0))
    assert set(noisy.unique().tolist()) == {0.0, 255.0}
    changed = (noisy / 255 != mask)[0, 0].any(dim=0)
    assert changed.any() and not changed[:24].any() and not changed[40:].any()


def test_generator_is_shown_one_to_three_kinds_and_the_surrogate_one():
    everything = p.all_prompts(rectangle().repeat(300, 1, 1, 1), 32, torch_rng(0))
    shown = p.subset(everything, torch_rng(1)).use.sum(dim=1)
    assert all(60 < (shown == k).sum() < 140 for k in (1, 2, 3))  # uniform in the number of kinds
    asked = p.one_kind(everything, torch_rng(2)).use
    assert (asked.sum(dim=1) == 1).all() and all(60 < n < 140 for n in asked.sum(dim=0).tolist())


def test_an_empty_mask_keeps_only_its_mask_prompt():
    everything = p.all_prompts(torch.zeros(1, 1, 16, 16), 16, torch_rng(0))
    for drawn in (everything, p.subset(everything, torch_rng(1)), p.one_kind(everything, torch_rng(2))):
        assert drawn.use.tolist() == [[False, False, True]]


def test_by_kind_covers_every_image_once():
    drawn = p.subset(p.all_prompts(rectangle().repeat(40, 1, 1, 1), 32, torch_rng(0)), torch_rng(3))
    rows = []
    for index, points, boxes, masks in drawn.by_kind():
        assert [boxes is not None, points is not None, masks is not None] == drawn.use[index[0]].tolist()
        rows += index.tolist()
    assert sorted(rows) == list(range(40))


def test_the_same_stream_gives_the_same_prompts():
    one, two = (p.all_prompts(rectangle(), 32, torch_rng("a")) for _ in range(2))
    assert torch.equal(one.points, two.points) and torch.equal(one.masks, two.masks)
