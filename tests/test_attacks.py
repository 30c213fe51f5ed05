"""What the noise may be trained to outlast: each attack by hand, and the parts of the game that make it so."""

import numpy as np
import pytest
import torch

from unseg_lib import method
from unseg_lib.errors import UnsegError
from unseg_lib.method import ATTACKS, LAYOUTS, BilevelConfig, Generator, Inference, attacked, attacks_of
from unseg_lib.seeds import torch_rng

X = 0.1 + 0.8 * torch.rand(4, 3, 24, 40, generator=torch_rng("images"))
STRIPES = 0.5 + 0.1 * (torch.arange(40) % 2 * 2.0 - 1).expand(4, 3, 24, 40)


def stripes_left(name, x=STRIPES):
    return (ATTACKS[name](x, torch_rng(0)).diff(dim=3).abs().mean() / x.diff(dim=3).abs().mean()).item()


@pytest.mark.parametrize("name", list(ATTACKS))
def test_an_attack_keeps_size_and_range_draws_by_its_seed_and_lets_gradients_through(name):
    x = X.clone().requires_grad_()
    found = ATTACKS[name](x, torch_rng(1))
    assert found.shape == x.shape and found.min() >= -1e-6 and found.max() <= 1 + 1e-6
    assert torch.equal(found, ATTACKS[name](X, torch_rng(1))) and not torch.allclose(found, X, atol=1e-3)
    found.square().sum().backward()
    assert x.grad.abs().mean() > 0.1  # a rounding alone would have none


def test_attacks_do_what_they_are_named_after():
    gray = ATTACKS["luma"](X, torch_rng(0))
    assert torch.allclose(gray[:, 0], 0.299 * X[:, 0] + 0.587 * X[:, 1] + 0.114 * X[:, 2], atol=1e-3)
    assert torch.equal(gray[:, 0], gray[:, 2])
    # the finest stripes die of blur and of shrinking, and outlast the rest in part
    assert max(stripes_left(name) for name in ("blur", "halved")) < 0.5 < stripes_left("bits")
    # 2 to 4 bits are at most 16 values
    assert len(ATTACKS["bits"](X, torch_rng(0)).unique()) <= 16


def test_each_image_meets_each_attack_with_its_chance():
    many = X.repeat(100, 1, 1, 1)
    met = (attacked(many, {"luma": 0.3}, torch_rng(0)) != many).flatten(1).any(dim=1).float().mean()
    assert 0.2 < met < 0.4
    assert torch.equal(attacked(X, {}, torch_rng(0)), X)
    assert attacks_of("luma=0.5 jpeg=0.25") == {"luma": 0.5, "jpeg": 0.25} and attacks_of("") == {}
    for wrong in ("luma", "luma=2", "moon=0.5", "jpeg=-1", "blur=x"):
        with pytest.raises(UnsegError, match=f"of tinted, .*, found '{wrong}'"):
            BilevelConfig(attacks=f"bits=0.5 {wrong}")


def test_shifted_noise_is_the_same_noise_from_a_place_that_the_image_decides(tmp_path):
    torch.manual_seed(0)
    plain, shifted = Generator(LAYOUTS["tiny"]), Generator(LAYOUTS["tiny"], shifted=True)
    shifted.load_state_dict(plain.state_dict())
    images = np.random.default_rng(0).integers(0, 256, (8, 20, 30, 3), dtype=np.uint8)
    starts = [shifted.start_of(image) for image in images]
    assert len(set(starts)) > 4 and {plain.start_of(image) for image in images} == {(0, 0)}
    mask = np.ones((20, 30), bool)
    method.save_generator(shifted, tmp_path / "g.safetensors")
    again = method.load_generator(tmp_path / "g.safetensors")
    for image, start in zip(images, starts):
        wanted = plain.noise(image, mask=mask).roll(start, dims=(1, 2))
        assert torch.allclose(again.noise(image, mask=mask), wanted, atol=1e-5)
        assert torch.allclose(Inference(again).noise(image, mask=mask), wanted, atol=1e-4)


def test_a_population_shares_the_batch_among_its_members():
    torch.manual_seed(0)
    both = method.build_surrogate("unet+lite0", LAYOUTS["tiny"], 32).eval()
    x = torch.rand(4, 3, 32, 32, generator=torch_rng(0))
    first, second = both.members
    with torch.no_grad():
        assert torch.equal(both(x), torch.cat([first(x[:2]), second(x[2:])]))
    with pytest.raises(UnsegError, match="surrogate"):
        method.build_surrogate("unet+sam", LAYOUTS["tiny"], 32)
