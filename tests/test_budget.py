"""The budget is a guarantee: hand-computed cases, then any image, noise, mask and budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unseg_lib.errors import UnsegError
from unseg_lib.method import add_noise, budget, budget_map, measure

HALF, EVERYWHERE = np.array([[True, True], [False, False]]), np.ones((2, 2), bool)


def full(value, shape=(2, 2, 3), dtype=np.uint8):
    return np.full(shape, value, dtype)


def test_budget_map_divides_once():
    assert torch.allclose(budget_map(torch.tensor([[True, False]]), 8, 2), torch.tensor([[8 / 255, 2 / 255]]))


def test_add_noise_by_hand():
    plain = [(100, 1.0, 8, 2, 108, 102), (100, -0.5, 8, 2, 96, 99)]
    clipped, fractional = [(252, 1.0, 8, 8, 255, 255), (3, -1.0, 8, 8, 0, 0)], [(100, 1.0, 2.7, 0.25, 102, 100)]
    for before, noise, eps, eps_bg, inside, outside in plain + clipped + fractional:
        result = add_noise(full(before), full(noise, dtype=np.float32), HALF, eps, eps_bg)
        assert (result[HALF] == inside).all() and (result[~HALF] == outside).all()


def test_gray_noise_keeps_channels_equal_and_is_the_mean():
    noise = full([1.0, 0.5, 0.0], dtype=np.float32)
    assert (add_noise(full(100), noise, EVERYWHERE, 8, 2, gray=True) == 104).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_noise_that_is_not_finite_is_refused_and_never_a_black_pixel(value):
    noise = full(0.5, dtype=np.float32)
    noise[0, 1, 2] = value
    for gray in (False, True):
        with pytest.raises(UnsegError, match="found 1 of 12 values that are not"):
            add_noise(full(100), noise, EVERYWHERE, 8, 2, gray=gray)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0, 40), st.floats(0, 1), st.booleans(), st.floats(0, 1))
def test_no_pixel_leaves_its_budget(seed, eps, ratio, gray, share):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
    noise, mask = rng.uniform(-1, 1, (9, 7, 3)).astype(np.float32), rng.random((9, 7)) < share
    change = np.abs(add_noise(image, noise, mask, eps, eps * ratio, gray=gray).astype(int) - image)
    assert (change[mask] <= eps).all() and (change[~mask] <= eps * ratio).all()


def test_measure_by_hand():
    original, poisoned, mask = full(100, (8, 8, 3)), full(99, (8, 8, 3)), np.zeros((8, 8), bool)
    mask[:4], poisoned[:4] = True, 104
    found = measure(original, poisoned, mask)
    assert (found["linf_inside"], found["linf_outside"]) == (4, 1)
    assert found["rms"] == pytest.approx(np.sqrt((16 + 1) / 2))
    assert found["psnr"] == pytest.approx(20 * np.log10(255 / found["rms"]))
    assert 0 < found["ssim"] < 1
    same = measure(original, original, mask)
    assert same == {"linf_inside": 0, "linf_outside": 0, "rms": 0.0, "psnr": float("inf"), "ssim": 1.0}
    flat = measure(full(7, (2, 9, 3)), full(9, (2, 9, 3)), np.ones((2, 9), bool))  # too small for SSIM
    assert flat["linf_inside"] == 2 and np.isnan(flat["ssim"])


@pytest.mark.parametrize("windows", [1 << 17, 400])
def test_ssim_is_that_of_scikit_image_in_double_precision(monkeypatch, windows):
    from skimage.metrics import structural_similarity

    monkeypatch.setattr(budget, "WINDOWS", windows)
    rng = np.random.default_rng(0)
    for original in (rng.integers(0, 256, (60, 90, 3), dtype=np.uint8), full(250, (60, 90, 3)), full(3, (9, 5, 3))):
        changed = np.clip(original.astype(int) + rng.integers(-8, 9, original.shape), 0, 255).astype(np.uint8)
        window = min(7, *original.shape[:2])
        expected = structural_similarity(original, changed, channel_axis=2, data_range=255, win_size=window)
        found = measure(original, changed, np.ones(original.shape[:2], bool))["ssim"]
        assert found == pytest.approx(expected, abs=1e-5)
