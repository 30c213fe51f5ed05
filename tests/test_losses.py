"""The players' loss and their augmentation, by hand."""

import math

import pytest
import torch

from unseg_lib.method import large_scale_jitter, sample_at, segmentation_loss, surrogate
from unseg_lib.seeds import torch_rng


def test_sampling_reads_pixel_centres():
    points = torch.tensor([[[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]])
    assert sample_at(torch.arange(4.0).reshape(1, 1, 2, 2), points).tolist() == [[0.0, 1.0, 2.0, 1.5]]


def test_dice_and_constant_maps_give_the_closed_form():
    logits, target = torch.full((1, 2), 100.0), torch.tensor([[1.0, 0.0]])
    assert surrogate.dice_loss(logits, target).item() == pytest.approx(1 - (2 + 1) / (2 + 1 + 1))
    # zero at the border, too: log 2 of cross entropy, 1 - 1 / (P/2 + 1) of Dice
    zeros = torch.zeros(2, 1, 8, 8)
    loss = segmentation_loss(zeros, zeros, torch_rng(0), 64)
    assert loss.item() == pytest.approx(math.log(2) + 1 - 1 / (64 / 2 + 1))


@pytest.mark.parametrize("bf16", [False, True])
def test_the_loss_is_cross_entropy_plus_dice_on_the_sampled_points(bf16):
    logits = torch.randn(2, 1, 8, 8, generator=torch_rng(1)).to(torch.bfloat16 if bf16 else torch.float32)
    target = torch.rand(2, 1, 16, 16, generator=torch_rng(2))
    points = surrogate.uncertain_points(logits.float(), 64, torch_rng(0))
    guess, t = (sample_at(maps.float(), points).double() for maps in (logits, target))
    p = 1 / (1 + (-guess).exp())
    entropy = -(t * p.log() + (1 - t) * (1 - p).log()).mean().item()
    dice = float(sum(1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1) for a, b in zip(p, t))) / 2
    loss = segmentation_loss(logits, target, torch_rng(0), 64)
    assert min(entropy, dice) > 0.3  # each of them would be missed
    assert loss.item() == pytest.approx(entropy + dice, rel=1e-5)


def test_three_quarters_of_the_points_are_where_the_prediction_is_unsure_and_the_rest_anywhere():
    logits = torch.full((20, 1, 32, 32), 9.0)
    logits[..., 16:] = 0.0  # half is unsure: of 1200 candidates far more than the 300 that are taken for it
    unsure = surrogate.uncertain_points(logits, 400, torch_rng(0))[..., 0] > 0.5
    assert unsure.shape == (20, 400) and unsure[:, :300].all()
    assert unsure[:, 300:].float().mean().item() == pytest.approx(0.5, abs=0.05)  # of 2000: 4 standard deviations


def test_a_better_mask_has_a_lower_loss():
    target = torch.zeros(1, 1, 32, 32)
    target[..., 8:24, 8:24] = 1
    good, bad = (segmentation_loss((target * 2 - 1) * sign, target, torch_rng(0)) for sign in (5, -5))
    assert good < 0.5 and bad > 2


def test_jitter_keeps_image_and_mask_together():
    """The first channel is what the mask is not, the second is white: mask and first add up to it, padding included."""
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    mask[10:30, 20:50] = 255
    image = torch.stack([~mask, mask | 255, mask // 3])
    for seed in range(20):
        x, y = large_scale_jitter(image, mask, 32, torch_rng(seed))
        assert x.shape == (3, 32, 32) and y.shape == (1, 32, 32) and x.min() >= 0 and x.max() <= 1 + 1e-5
        assert torch.allclose(x[:1] + y, x[1:2], atol=1e-5) and y.any()


def test_jitter_pads_black_when_it_shrinks():
    image = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    x, _ = large_scale_jitter(image, image[0], 32, torch_rng(0), (0.5, 0.5))
    assert torch.allclose(x[:, :16, :16], torch.ones(3, 16, 16)) and x[:, 16:].sum() == 0 and x[:, :, 16:].sum() == 0
