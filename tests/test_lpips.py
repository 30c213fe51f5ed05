"""LPIPS against its formula, with AlexNet's shapes and weights that this test draws."""

import inspect as source
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import lpips
from unseg_lib.files import sha256_of
from unseg_lib.images import write_image
from unseg_lib.pretrained import WEIGHTS

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
NOISE = np.random.default_rng(1).integers(-1, 2, PIXELS.shape)


def noisy(steps: int) -> np.ndarray:
    return np.clip(PIXELS + steps * NOISE, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def alexnet():
    from torchvision.models import alexnet

    torch.manual_seed(0)
    return alexnet().features.eval()


@pytest.fixture
def weights(alexnet, tmp_path, monkeypatch) -> Path:
    path = tmp_path / "alexnet.pth"
    torch.save({f"features.{key}": value for key, value in alexnet.state_dict().items()}, path)
    mine = replace(WEIGHTS["alexnet"], size=path.stat().st_size, checksum=f"sha256:{sha256_of(path)[:8]}")
    monkeypatch.setitem(WEIGHTS, "alexnet", mine)
    return path


def by_hand(alexnet, one: np.ndarray, other: np.ndarray) -> float:
    """Equation 1 of Zhang et al.: unit features after each ReLU, squared difference, weighted by channel, averaged."""
    from torchmetrics.functional.image import lpips as theirs

    linear = torch.load(Path(source.getfile(theirs)).parent / "lpips_models/alex.pth", "cpu", weights_only=True)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    pair = torch.from_numpy(np.stack([one, other])).permute(0, 3, 1, 2).float()
    features = ((pair / 127.5 - 1) - shift) / scale
    total, depth = 0.0, 0
    for layer in alexnet[:-1]:  # its last pooling comes after the fifth ReLU
        features = layer(features.clone())
        if isinstance(layer, torch.nn.ReLU):
            unit = features / features.norm(dim=1, keepdim=True)
            squared = (unit[0] - unit[1]).nan_to_num() ** 2
            total += float((linear[f"lin{depth}.model.1.weight"][0] * squared).sum(0).mean())
            depth += 1
    assert depth == 5
    return total


def test_it_is_the_published_formula(alexnet, weights):
    for other in (noisy(8), PIXELS[::-1].copy()):
        with torch.no_grad():
            assert lpips(PIXELS, other, weights) == pytest.approx(by_hand(alexnet, PIXELS, other), rel=1e-3)


def test_equal_images_are_at_zero_and_more_noise_is_farther(weights):
    state = torch.random.get_rng_state()
    distances = [lpips(PIXELS, noisy(steps), weights) for steps in (0, 2, 8, 32)]
    assert distances[0] == 0 and distances == sorted(distances) and distances[1] > 0
    assert torch.equal(state, torch.random.get_rng_state()), "it leaves the random numbers alone"


def test_what_it_cannot_measure_is_one_sentence(weights, tmp_path, monkeypatch):
    for one, other in ((PIXELS, PIXELS[:36]), (PIXELS[:31], PIXELS[:31])):
        with pytest.raises(UnsegError, match="Expected two images of one size for LPIPS, 32 pixels"):
            lpips(one, other, weights)
    with pytest.raises(UnsegError, match="found no such file"):
        lpips(PIXELS, PIXELS, tmp_path / "none.pth")
    monkeypatch.setitem(WEIGHTS, "alexnet", replace(WEIGHTS["alexnet"], checksum="sha256:7be5be79"))
    with pytest.raises(UnsegError, match=r"Expected torchvision's AlexNet in .* another file \(sha256 .*weights get"):
        lpips(PIXELS, PIXELS, weights)


def test_inspect_shows_it_where_it_is_asked_for(weights, tmp_path, unseg):
    for name, pixels in (("a.png", PIXELS), ("b.png", noisy(8))):
        write_image(tmp_path / name, pixels)
    pair = "inspect", tmp_path / "a.png", tmp_path / "b.png"
    assert "LPIPS" not in unseg(*pair)[1]
    assert f"LPIPS             {lpips(PIXELS, noisy(8), weights):.4f}" in unseg(*pair, "--lpips", weights)[1]
