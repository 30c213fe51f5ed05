"""The players' loss and their augmentation, by hand."""

import math

import torch
from torch.nn import functional as F

from unseg_lib.method import losses
from unseg_lib.method.jitter import large_scale_jitter
from unseg_lib.seeds import torch_rng


def test_sampling_reads_pixel_centres():
    maps = torch.arange(4.0).reshape(1, 1, 2, 2)
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]])
    assert losses.sample_at(maps, points).tolist() == [[0.0, 1.0, 2.0, 1.5]]


def test_dice_by_hand():
    logits, target = torch.full((1, 2), 100.0), torch.tensor([[1.0, 0.0]])
    assert math.isclose(losses.dice_loss(logits, target).item(), 1 - (2 + 1) / (2 + 1 + 1), rel_tol=1e-6)


def test_constant_maps_give_the_closed_form():
    logits, target = torch.full((2, 1, 8, 8), 0.0), torch.ones(2, 1, 8, 8)
    expected = math.log(2) + 1 - (2 * 0.5 * 64 + 1) / (0.5 * 64 + 64 + 1)
    # interior points only: at the border the bilinear sampling mixes in the zero padding
    points = 0.25 + 0.5 * torch.rand(2, 64, 2, generator=torch_rng(0))
    guess, truth = losses.sample_at(logits, points), losses.sample_at(target, points)
    loss = F.binary_cross_entropy_with_logits(guess, truth) + losses.dice_loss(guess, truth)
    assert math.isclose(loss.item(), expected, rel_tol=1e-5)


def test_three_quarters_of_the_points_are_where_the_prediction_is_unsure():
    logits = torch.full((1, 1, 32, 32), 9.0)
    logits[..., 14:18] = 0.0  # one eighth of the picture is unsure
    points = losses.uncertain_points(logits, 400, torch_rng(0))
    unsure = (losses.sample_at(logits, points).abs() < 8.9).float().mean().item()
    assert unsure > 0.5


def test_a_better_mask_has_a_lower_loss():
    target = torch.zeros(1, 1, 32, 32)
    target[..., 8:24, 8:24] = 1
    good, bad = (target * 2 - 1) * 5, (target * 2 - 1) * -5
    assert losses.segmentation_loss(good, target, torch_rng(0)) < 0.5
    assert losses.segmentation_loss(bad, target, torch_rng(0)) > 2


def test_jitter_keeps_picture_and_mask_together():
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    image[:, 10:30, 20:50] = 255
    for seed in range(20):
        x, y = large_scale_jitter(image, image[0], 32, torch_rng(seed))
        assert x.shape == (3, 32, 32) and y.shape == (1, 32, 32)
        assert torch.allclose(x[:1], y)
        assert x.min() >= 0 and x.max() <= 1 + 1e-5


def test_jitter_pads_black_when_it_shrinks():
    image = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    x, _ = large_scale_jitter(image, image[0], 32, torch_rng(0), (0.5, 0.5))
    assert torch.allclose(x[:, :16, :16], torch.ones(3, 16, 16)) and x[:, 16:].sum() == 0 and x[:, :, 16:].sum() == 0
