"""What could be compared with the authors' modules, against the papers' formulas written once more in plain numpy, and
against numbers that those formulas gave once, which are stored here: the two cannot drift together.

Weights and inputs are sines of their place, so that nothing rests on a library's random numbers.
"""

import math
import zlib

import numpy as np
import pytest
import torch

from unseg_lib import method
from unseg_lib.method import LAYOUTS, Generator, build_surrogate, surrogate
from unseg_lib.seeds import torch_rng
from unseg_lib.victims.deeplabv1 import WideResNet38
from unseg_lib.victims.sam_hq import SamHQ

TINY = LAYOUTS["tiny"]  # 32 pixels in patches of 4: 8 x 8 tokens, two blocks, the second of global attention


def waves(name: str, shape: tuple[int, ...], size: float = 1.0) -> np.ndarray:
    """Values that follow from a name alone, in [-size, size]."""
    start = zlib.crc32(name.encode()) % 1000
    return size * np.sin(1.7 * np.arange(start, start + math.prod(shape))).reshape(shape)


def filled(module: torch.nn.Module) -> dict[str, np.ndarray]:
    """The module's parameters and buffers, set to waves in place, in numpy."""
    state = {}
    for name, value in module.state_dict().items():
        if value.is_floating_point():
            size = 1.8 / math.sqrt(max(1, math.prod(value.shape[1:]))) if value.ndim > 1 else 0.2
            wave = waves(name, tuple(value.shape), size)
            state[name] = wave + 1 if "running_var" in name or ("norm" in name and name.endswith("weight")) else wave
            value.copy_(torch.from_numpy(state[name]))
    return {name: value.astype(np.float64) for name, value in state.items()}


class Part:
    """The numbers below a name, as a formula needs them."""

    def __init__(self, state: dict[str, np.ndarray], name: str = ""):
        self.state, self.name = state, name

    def __getitem__(self, name: str) -> "Part":
        return Part(self.state, f"{self.name}{name}.")

    @property
    def w(self) -> np.ndarray:
        return self.state[f"{self.name}weight"]

    @property
    def b(self) -> np.ndarray:
        return self.state[f"{self.name}bias"]


# formulas of layers; images are (C,H,W), tokens (L,C)


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def relu(x):
    return np.maximum(x, 0)


def linear(x, part):
    return x @ part.w.T + part.b


def layer_norm(x, part, axis=-1, eps=1e-5):
    mean, var = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    shape = [-1 if i == axis % x.ndim else 1 for i in range(x.ndim)]
    return (x - mean) / np.sqrt(var + eps) * part.w.reshape(shape) + part.b.reshape(shape)


def conv(x, weight, bias=None, stride=1, padding=0, dilation=1):
    """y[o,i,j] = sum over c, a, b of w[o,c,a,b] x[c, s i + d a - p, s j + d b - p]."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding)))
    k = weight.shape[2]
    rows, columns = ((side - dilation * (k - 1) - 1) // stride + 1 for side in x.shape[1:])
    y = np.zeros((len(weight), rows, columns))
    for a in range(k):
        for b in range(k):
            seen = x[:, dilation * a :: stride, dilation * b :: stride][:, :rows, :columns]
            y += np.einsum("oc,cij->oij", weight[:, :, a, b], seen)
    return y if bias is None else y + bias[:, None, None]


def transposed(x, part):
    """A 2x2 transposed convolution of stride 2: every pixel becomes four."""
    y = np.zeros((part.w.shape[1], 2 * x.shape[1], 2 * x.shape[2]))
    for a in range(2):
        for b in range(2):
            y[:, a::2, b::2] = np.einsum("co,cij->oij", part.w[:, :, a, b], x)
    return y + part.b[:, None, None]


def mlp(x, part, layers=3):
    for i in range(layers):
        x = linear(x, part[f"layers.{i}"])
        x = relu(x) if i < layers - 1 else x
    return x


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


# SAM (Kirillov et al., ICCV 2023, appendix A): a ViT with windows and relative positions, and a two-way decoder


def vit_block(x, part, heads, window):
    """x (t,t,C); window: side of what sees itself, 0 = the whole image."""
    shortcut, t = x, len(x)
    x = layer_norm(x, part["norm1"], eps=1e-6)
    side = window or t
    padded = -(-t // side) * side
    x = np.pad(x, ((0, padded - t), (0, padded - t), (0, 0)))
    y = np.zeros_like(x)
    for r in range(0, padded, side):
        for c in range(0, padded, side):
            y[r : r + side, c : c + side] = window_attention(x[r : r + side, c : c + side], part["attn"], heads)
    x = shortcut + y[:t, :t]
    return x + linear(gelu(linear(layer_norm(x, part["norm2"], eps=1e-6), part["mlp.lin1"])), part["mlp.lin2"])


def window_attention(x, part, heads):
    """softmax(q k / sqrt(d) + q r_rows + q r_columns) v, with tables of relative positions -(s-1) to s-1."""
    s, _, width = x.shape
    q, k, v = linear(x.reshape(s * s, width), part["qkv"]).reshape(s * s, 3, heads, -1).transpose(1, 2, 0, 3)
    rows, columns = np.divmod(np.arange(s * s), s)
    of_rows, of_columns = (part.state[f"{part.name}rel_pos_{axis}"] for axis in "hw")
    found = []
    for one in range(heads):
        score = q[one] @ k[one].T / math.sqrt(q.shape[-1])
        score += np.einsum("qd,qkd->qk", q[one], of_rows[rows[:, None] - rows + s - 1])
        score += np.einsum("qd,qkd->qk", q[one], of_columns[columns[:, None] - columns + s - 1])
        found.append(softmax(score) @ v[one])
    return linear(np.concatenate(found, axis=1), part["proj"]).reshape(s, s, width)


def encoded(x, state, layout):
    """Image (3,S,S) in [0,1] -> embedding (C,t,t), and what the first global block gives (D,t,t)."""
    part = Part(state, "image_encoder.")
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    x = conv((x - mean) / std, part["patch_embed.proj"].w, part["patch_embed.proj"].b, stride=layout.patch_size)
    x, early = x.transpose(1, 2, 0) + state["image_encoder.pos_embed"][0], None
    for i in range(layout.depth):
        whole = i in layout.global_blocks
        x = vit_block(x, part[f"blocks.{i}"], layout.heads, 0 if whole else layout.window)
        early = x.transpose(2, 0, 1) if whole and early is None else early
    x = layer_norm(conv(x.transpose(2, 0, 1), part["neck.0"].w), part["neck.1"], axis=0, eps=1e-6)
    return layer_norm(conv(x, part["neck.2"].w, padding=1), part["neck.3"], axis=0, eps=1e-6), early


def fourier(xy, state):
    """Random Fourier features of places (...,2) in [0,1]."""
    angle = 2 * math.pi * (2 * xy - 1) @ state["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)


def attention(q, k, v, part, heads):
    q, k, v = (linear(x, part[f"{name}_proj"]) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    cut = [slice(i * q.shape[1] // heads, (i + 1) * q.shape[1] // heads) for i in range(heads)]
    found = [softmax(q[:, c] @ k[:, c].T / math.sqrt(q.shape[1] / heads)) @ v[:, c] for c in cut]
    return linear(np.concatenate(found, axis=1), part["out_proj"])


def decoded(embedding, tokens, box, state, layout):
    """The two-way transformer for a box, xyxy in pixels: output tokens (k,C) and the upscaled feature (C/8,4t,4t)."""
    prompt, decoder, t = Part(state, "prompt_encoder."), Part(state, "mask_decoder."), embedding.shape[1]
    corners = fourier((np.array(box).reshape(2, 2) + 0.5) / layout.image_size, state)
    sparse = corners + np.stack([prompt["point_embeddings.2"].w[0], prompt["point_embeddings.3"].w[0]])
    image = (embedding + prompt["no_mask_embed"].w[0][:, None, None]).reshape(len(embedding), -1).T
    centres = (np.arange(t) + 0.5) / t
    place = fourier(np.stack(np.meshgrid(centres, centres), axis=-1), state).reshape(t * t, -1)
    first = queries = np.concatenate([tokens, sparse])
    heads = layout.decoder_heads
    for i in range(2):
        part = decoder[f"transformer.layers.{i}"]
        asking = queries if i == 0 else queries + first  # the first layer has no places and no shortcut
        seen = attention(asking, asking, queries, part["self_attn"], heads)
        queries = layer_norm(seen if i == 0 else queries + seen, part["norm1"])
        seen = attention(queries + first, image + place, image, part["cross_attn_token_to_image"], heads)
        queries = layer_norm(queries + seen, part["norm2"])
        thought = linear(relu(linear(queries, part["mlp.lin1"])), part["mlp.lin2"])
        queries = layer_norm(queries + thought, part["norm3"])
        seen = attention(image + place, queries + first, queries, part["cross_attn_image_to_token"], heads)
        image = layer_norm(image + seen, part["norm4"])
    part = decoder["transformer"]
    seen = attention(queries + first, image + place, image, part["final_attn_token_to_image"], heads)
    queries = layer_norm(queries + seen, part["norm_final_attn"])
    up = decoder["output_upscaling"]
    feature = gelu(layer_norm(transposed(image.T.reshape(-1, t, t), up["0"]), up["1"], axis=0, eps=1e-6))
    return queries[: len(tokens)], gelu(transposed(feature, up["3"]))


def branch(x, part):
    """Convolution, norm, GELU, and two transposed convolutions."""
    x = gelu(layer_norm(conv(x, part["0"].w, part["0"].b, padding=1), part["1"], axis=0, eps=1e-6))
    return two_up(x, part, 3)


def two_up(x, part, first):
    x = gelu(layer_norm(transposed(x, part[f"{first}"]), part[f"{first + 1}"], axis=0, eps=1e-6))
    return transposed(x, part[f"{first + 3}"])


def two_convs(x, part):
    x = gelu(layer_norm(conv(x, part["0"].w, part["0"].b, padding=1), part["1"], axis=0, eps=1e-6))
    return conv(x, part["3"].w, part["3"].b, padding=1)


# the models


BOX = (4.0, 6.0, 27.0, 21.0)


def image(size: int = 32) -> np.ndarray:
    return (waves("image", (3, size, size)) + 1) / 2


def boxed(size: float = 1.0) -> method.Prompts:
    """The box as a prompt of one image."""
    box = torch.tensor([BOX]) * size
    use = torch.tensor([[True, False, False]])
    return method.Prompts(box, torch.zeros(1, 1, 2), torch.zeros(1, 1, TINY.grid, TINY.grid), use)


def compare(found: torch.Tensor, expected: np.ndarray, stored: list[float]) -> None:
    """The module against the formula everywhere, and the formula against what it once gave at some places."""
    assert found.shape == expected.shape
    assert np.abs(found.detach().double().numpy() - expected).max() < 5e-6 * max(1, np.abs(expected).max())
    some = expected.ravel()[np.linspace(0, expected.size - 1, len(stored)).astype(int)]
    assert some == pytest.approx(stored, rel=1e-6, abs=1e-9), some.tolist()
    assert expected.std() > 1e-3  # a constant would say nothing


GENERATED = {
    "corrected": [0.7132837977, 0.6621283675, -0.1463057591, -0.0822710373, 0.026821786, 0.1073649116],
    "released": [0.711709666, 0.6607427614, -0.0412801708, 0.0048856999, -0.1200849816, 0.0197656852],
}


@pytest.mark.parametrize("tokens", GENERATED)
def test_generator(tokens):
    """Eq. 1: tanh(F * T), F of three branches, T from tokens 5 to 7 of [iou, mask 0-3, noise 0-2], released 4 to 6."""
    generator = Generator(TINY, tokens=tokens).eval()
    state, x = filled(generator), image()
    embedding, early = encoded(x, state, TINY)
    own = [state[f"mask_decoder.{name}_token{s}.weight"] for name, s in (("iou", ""), ("mask", "s"))]
    hs, upscaled = decoded(embedding, np.concatenate([*own, state["noise_tokens.weight"]]), BOX, state, TINY)
    first = {"corrected": 5, "released": 4}[tokens]
    t = np.stack([mlp(hs[first + i], Part(state, f"noise_mlps.{i}.")) for i in range(3)])
    f = two_convs(upscaled, Part(state, "noise_from_upscaled.")) + branch(early, Part(state, "noise_from_early."))
    f = f + branch(embedding, Part(state, "noise_from_embedding."))
    expected = np.tanh(np.einsum("kc,chw->khw", t, f))
    compare(generator(torch.from_numpy(x)[None].float(), boxed())[0], expected, GENERATED[tokens])


SURROGATE = [-0.0738624911, -0.0657046449, -0.0739327098, -0.0654368552, -0.0737602903, -0.0666406577]


def test_surrogate():
    """Section 3: SAM's encoder at half the size and its decoder without IoU token; the first of three mask tokens."""
    layout = method.SamLayout(**{**vars(TINY), "image_size": 16})
    model = build_surrogate("sam", TINY).eval()
    state, x = filled(model), image(16)
    embedding, _ = encoded(x, state, layout)
    box = tuple(side / 2 for side in BOX)
    hs, upscaled = decoded(embedding, state["mask_decoder.mask_tokens.weight"], box, state, layout)
    token = mlp(hs[0], Part(state, "mask_decoder.output_hypernetworks_mlps.0."))
    expected = np.einsum("c,chw->hw", token, upscaled)
    compare(model(torch.from_numpy(x)[None].float(), boxed(0.5))[0, 0], expected, SURROGATE)


SAM_HQ = [0.0695664486, 0.0622246807, 0.0200580844, -0.0270160789, -0.0189932107, -0.0710304592]


def test_sam_hq():
    """Ke et al., section 3.2: the HQ token times the sum of the upscaled feature, the early and the late one."""
    model = SamHQ(TINY).eval()
    state, x = filled(model), image()
    embedding, early = encoded(x, state, TINY)
    tokens = [state[f"mask_decoder.{name}.weight"] for name in ("iou_token", "mask_tokens", "hf_token")]
    hs, upscaled = decoded(embedding, np.concatenate(tokens), BOX, state, TINY)
    part = Part(state, "mask_decoder.")
    feature = two_convs(upscaled, part["embedding_maskfeature"]) + two_up(embedding, part["embedding_encoder"], 0)
    feature = feature + two_up(early, part["compress_vit_feat"], 0)
    expected = np.einsum("c,chw->hw", mlp(hs[5], part["hf_mlp"]), feature)
    compare(model.find(*model.see(torch.from_numpy(x)[None].float()), boxed())[0, 0], expected, SAM_HQ)


WIDE = [1.2846293136, 1.6835756825, 0.0, 0.0, 0.6607843995, 2.502755334]


def test_wideresnet38():
    """Wu et al., model A1: norm, ReLU, convolution; a shortcut that widens starts after the first norm and ReLU."""
    model = WideResNet38(16, (1, 1, 2, 1)).eval()
    state, x = filled(model), waves("image", (3, 24, 32))

    def norm(x, name):
        parts = ("weight", "bias", "running_mean", "running_var")
        w, b, mean, var = (state[f"{name}.{part}"][:, None, None] for part in parts)
        return relu((x - mean) / np.sqrt(var + 1e-5) * w + b)

    x = conv(x, state["stem.weight"], padding=1)
    # of each unit: kernels, stride of the first convolution, its dilation, and that of the others
    units = {"2a": ((3, 3), 2, 1, 1), "3a": ((3, 3), 2, 1, 1), "4a": ((3, 3), 2, 1, 1), "4b1": ((3, 3), 1, 1, 1)}
    units |= {"5a": ((3, 3), 1, 1, 2), "6a": ((1, 3, 1), 1, 1, 4), "7a": ((1, 3, 1), 1, 1, 4)}
    for name, (kernels, stride, first, others) in units.items():
        y = norm(x, f"units.{name}.norms.0")
        widens = f"units.{name}.shortcut.weight"
        x = conv(y, state[widens], stride=stride) if widens in state else x
        for i, kernel in enumerate(kernels):
            y = norm(y, f"units.{name}.norms.{i}") if i else y
            hole = others if i else first
            weight, step = state[f"units.{name}.convs.{i}.weight"], 1 if i else stride
            y = conv(y, weight, stride=step, padding=hole * (kernel // 2), dilation=hole)
        x = x + y
    with torch.inference_mode():
        found = model(torch.from_numpy(waves("image", (3, 24, 32)))[None].float())[-1]
    compare(found[0], norm(x, "norm"), WIDE)


LOSS = [0.765444415, 0.4757006772]


def test_point_sampled_loss():
    """BCE + Dice at points of which 3/4 are the most uncertain of three times as many, bilinear in between (§ 4.4)."""
    logits, target = waves("logits", (8, 8), 4), (waves("target", (16, 16)) > 0).astype(float)
    candidates = (waves("candidates", (96, 2)) + 1) / 2
    uniform = (waves("uniform", (8, 2)) + 1) / 2

    def at(grid, xy):
        """Pixel centres are at (i + 0.5) / side; outside is 0."""
        side = len(grid)
        x, y = xy * side - 0.5
        left, top, value = math.floor(x), math.floor(y), 0.0
        for i in (top, top + 1):
            for j in (left, left + 1):
                if 0 <= i < side and 0 <= j < side:
                    value += grid[i, j] * (1 - abs(y - i)) * (1 - abs(x - j))
        return value

    unsure = sorted(candidates.tolist(), key=lambda xy: abs(at(logits, np.array(xy))))[:24]
    z, t = (np.array([at(grid, xy) for xy in np.array([*unsure, *uniform])]) for grid in (logits, target))
    p = 1 / (1 + np.exp(-z))
    entropy = -(t * np.log(p) + (1 - t) * np.log(1 - p)).mean()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    assert [entropy, dice] == pytest.approx(LOSS, rel=1e-6), [entropy, dice]

    # the same candidates in the place of drawn ones
    drawn = iter(torch.from_numpy(one)[None].float() for one in (candidates, uniform))
    maps = (torch.from_numpy(one)[None, None].float() for one in (logits, target))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surrogate.torch, "rand", lambda *shape, generator: next(drawn))
        found = method.segmentation_loss(*maps, None, 32)
    assert found.item() == pytest.approx(entropy + dice, rel=1e-5)


def test_logits_in_bf16_have_the_loss_that_they_have_in_full_precision():
    logits, target = torch.randn(2, 1, 8, 8, generator=torch_rng(1)).bfloat16(), torch.rand(2, 1, 16, 16)
    exact, found = (method.segmentation_loss(one, target, torch_rng(0), 64) for one in (logits.float(), logits))
    assert torch.equal(exact, found) and found.dtype == torch.float32
