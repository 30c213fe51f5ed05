"""Prompts drawn from masks: by hand, and for masks that are too small for the recipe."""

import torch

from unseg_lib.method import all_prompts, boxes_of, one_kind, points_of, prompts, subset
from unseg_lib.seeds import torch_rng

RECTANGLE = torch.zeros(1, 1, 32, 32)
RECTANGLE[..., 8:20, 4:30] = 1
EMPTY = torch.zeros(1, 1, 16, 16)


def pixels(*places):
    return torch.tensor([[[(y, x) in places for x in range(16)] for y in range(16)]])


def test_box_is_tight_with_inclusive_corners():
    assert boxes_of(RECTANGLE[:, 0] > 0.5).tolist() == [[4, 8, 29, 19]]
    assert boxes_of(torch.cat([pixels((3, 5)), pixels()])).tolist() == [[5, 3, 5, 3], [0, 0, 0, 0]]


def test_points_lie_inside_and_differ_when_there_is_room_else_repeat():
    points = points_of(RECTANGLE[:, 0] > 0.5, torch_rng(0))[0].long()
    assert points.shape == (10, 2) and RECTANGLE[0, 0, points[:, 1], points[:, 0]].all()
    assert len({tuple(xy) for xy in points.tolist()}) == 10
    few = points_of(pixels((3, 5), (3, 6)), torch_rng(0))[0]
    assert few.shape == (10, 2) and {tuple(xy) for xy in few.tolist()} <= {(5, 3), (6, 3)}


def test_boundary_noise_stays_at_the_boundary():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :, 32:] = 1
    noisy = prompts.noisy_mask(mask, torch_rng(0))
    assert set(noisy.unique().tolist()) == {0.0, 255.0}
    changed = (noisy / 255 != mask)[0, 0].any(dim=0)
    assert changed.any() and not changed[:24].any() and not changed[40:].any()


def test_generator_is_shown_one_to_three_kinds_and_the_surrogate_one():
    everything = all_prompts(RECTANGLE.repeat(300, 1, 1, 1), 32, torch_rng(0))
    shown = subset(everything, torch_rng(1)).use.sum(dim=1)
    assert all(60 < (shown == k).sum() < 140 for k in (1, 2, 3))  # uniform in the number of kinds
    asked = one_kind(everything, torch_rng(2)).use
    assert (asked.sum(dim=1) == 1).all() and all(60 < n < 140 for n in asked.sum(dim=0).tolist())


def test_an_empty_mask_keeps_only_its_mask_prompt():
    everything = all_prompts(EMPTY, 16, torch_rng(0))
    for drawn in (everything, subset(everything, torch_rng(1)), one_kind(everything, torch_rng(2))):
        assert drawn.use.tolist() == [[False, False, True]]


def test_by_kind_covers_every_image_once():
    drawn, rows = subset(all_prompts(RECTANGLE.repeat(40, 1, 1, 1), 32, torch_rng(0)), torch_rng(3)), []
    for index, kinds in drawn.by_kind():
        assert [kinds[kind] is not None for kind in ("boxes", "points", "masks")] == drawn.use[index[0]].tolist()
        rows += index.tolist()
    assert sorted(rows) == list(range(40))


def test_the_same_stream_gives_the_same_prompts():
    one, two = (all_prompts(RECTANGLE, 32, torch_rng("a")) for _ in range(2))
    assert torch.equal(one.points, two.points) and torch.equal(one.masks, two.masks)
