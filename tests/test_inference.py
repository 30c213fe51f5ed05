"""The fast way through the generator against the reference: same numbers to rounding, same written pixels to a step."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from unseg_lib import method
from unseg_lib.errors import UnsegError
from unseg_lib.method import LAYOUTS, Generator, Inference, encode, encode_fused, encode_learning, load_generator
from unseg_lib.runtime import has_bf16
from unseg_lib.seeds import torch_rng

TINY = LAYOUTS["tiny"]


def lively(module):
    """Biases and positions start at zero, where a mistake in them would not show."""
    rng = torch_rng(0)
    for name, parameter in module.named_parameters():
        if name.endswith(("bias", "pos_embed", "rel_pos_h", "rel_pos_w")):
            torch.nn.init.normal_(parameter, std=0.3, generator=rng)
    return module


def lively_generator():
    torch.manual_seed(0)
    return lively(Generator(TINY)).eval()


def encoder(**changes):
    torch.manual_seed(0)
    return lively(method.build_image_encoder(replace(TINY, **changes))).eval()


# windows that divide the 8 x 8 tokens, that need a rim, and none at all
@pytest.mark.parametrize("changes", [{}, {"window": 5}, {"window": 3, "heads": 4}, {"global_blocks": (0, 1)}])
@pytest.mark.parametrize("gradients", [True, False])
def test_the_fused_encoder_is_the_encoder_however_it_is_sliced(changes, gradients, monkeypatch):
    model, x = encoder(**changes), torch.rand(3, 3, 32, 32, generator=torch_rng(1))
    with torch.set_grad_enabled(gradients):
        expected = encode(model, x)
        for limit in (1 << 24, 1 << 13, 1):
            monkeypatch.setitem(method.sam.SLICE_BYTES, "cpu", limit)
            assert all(torch.allclose(*both, atol=2e-5) for both in zip(encode_fused(model, x), expected))


@torch.no_grad()
def test_attention_in_bf16_rounds_no_more_than_its_inputs_and_outputs_do():
    rng = torch_rng(0)
    q, k, v = torch.randn(3, 2, 3, 14, 14, 64, generator=rng).bfloat16().unbind(0)
    down, across = (0.1 * torch.randn(2, 14, 14, 64, generator=rng)).bfloat16().unbind(0)
    given = 4 * q, k, v, down, across  # steep scores, as of trained weights
    exact = method.attend(*(part.float() for part in given))
    error = method.attend(*given).float() - exact
    assert error.square().mean().sqrt() < 0.01 * exact.square().mean().sqrt()  # 0.016 with bias and softmax in bf16


FAST = [encode_fused, encode_learning, partial(encode_learning, checkpointed=True)]


@pytest.mark.parametrize("fast", FAST, ids=("fused", "learning", "checkpointed"))
def test_its_gradients_are_those_of_the_encoder(fast):
    model, x = encoder(window=5), torch.rand(2, 3, 32, 32, generator=torch_rng(1))
    gradients = []
    for run in (encode, fast):
        model.zero_grad()
        embedding, early = run(model, x)
        (embedding.square().mean() + early.square().mean()).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, expected in gradients[0].items():
        assert torch.allclose(gradients[1][name], expected, atol=1e-6 + 1e-4 * expected.abs().max()), name


def test_a_frozen_encoder_leaves_no_gradient_behind():
    model, x = encoder().requires_grad_(False), torch.rand(1, 3, 32, 32)
    embedding, _ = encode_learning(model, x)
    with torch.no_grad():
        assert not embedding.requires_grad and torch.equal(embedding, encode_fused(model, x)[0])


def images():
    """Upright, lying and square, smaller and larger than the generator's input, each with a mask."""
    rng = np.random.default_rng(0)
    for height, width in ((96, 200), (180, 60), (128, 128), (300, 250)):
        small = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        pixels = np.kron(small, np.ones((9, 9, 1), np.uint8))[:height, :width]
        mask = np.zeros((height, width), bool)
        mask[height // 4 : -height // 3, width // 3 : -width // 4] = True
        yield np.ascontiguousarray(pixels), mask


def written(pixels, mask, raw):
    return method.add_noise(pixels, method.place_noise(raw, *mask.shape), mask, 8, 2).astype(int)


@pytest.mark.parametrize("name", list(method.shipped()))
def test_written_pixels_differ_by_at_most_one_step_and_rarely(name):
    reference, fast = Inference(load_generator(name), reference=True), Inference(load_generator(name))
    together = fast([fast.prepare(pixels, mask=mask) for pixels, mask in images()])
    for (pixels, mask), batched in zip(images(), together):
        expected = written(pixels, mask, reference.noise(pixels, mask=mask))
        for raw in (fast.noise(pixels, mask=mask), batched):
            change = abs(written(pixels, mask, raw) - expected)
            assert change.max() <= 1 and (change > 0).mean() < 1e-3


def test_the_reference_is_the_generators_own_noise_bit_for_bit():
    generator, (pixels, mask) = lively_generator(), next(images())
    expected = generator.noise(pixels, mask=mask)
    found = Inference(generator, reference=True)
    assert torch.equal(found.noise(pixels, mask=mask), expected)
    assert torch.equal(found([found.prepare(pixels, mask=mask)] * 2), torch.stack([expected] * 2))


def test_boxes_and_points_reach_the_model():
    reference, fast = Inference(lively_generator(), reference=True), Inference(lively_generator())
    pixels, mask = next(images())
    box = {"box": (3, 4, 90, 60)}
    prompts = [box, {"points": [(10, 20), (60, 50)]}, {"mask": mask} | box]
    noises = [fast.noise(pixels, **prompt) for prompt in prompts]
    for noise, prompt in zip(noises, prompts):
        assert torch.allclose(noise, reference.noise(pixels, **prompt), atol=1e-4)
    assert not torch.allclose(noises[0], noises[1]) and not torch.allclose(noises[0], noises[2])
    with pytest.raises(UnsegError, match="same number of points"):
        fast([fast.prepare(pixels, **prompt) for prompt in prompts])


def test_preparing_bytes_is_the_square_of_the_image():
    for shape in ((30, 50), (50, 30), (32, 32), (20, 20)):
        pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
        assert torch.allclose(method.square_of_bytes(pixels, 32), method.square(x, 32), atol=1e-6)


def test_bf16_only_where_asked_or_where_large_layouts_meet_hardware():
    small, large = Generator(TINY), Generator(replace(TINY, embed_dim=768, heads=12))
    assert not Inference(small).half and Inference(small, precision="bf16").half
    assert Inference(large).half == has_bf16("cpu") and not Inference(large, precision="32").half
    for wrong in (dict(precision="fp8"), dict(reference=True, compiled=True), dict(reference=True, precision="bf16")):
        with pytest.raises(UnsegError):
            Inference(small, **wrong)
