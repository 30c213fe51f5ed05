"""Generator and surrogate: the published sizes, what is read, what is trained, and weights from elsewhere."""

from pathlib import Path

import pytest
import torch
from segment_anything.build_sam import sam_model_registry
from torch.nn import functional as F
from toys import mae_checkpoint

from unseg_lib import method
from unseg_lib.errors import UnsegError
from unseg_lib.method import LAYOUTS, Generator, all_prompts, build_surrogate, local_mean, noise_of, only, weights
from unseg_lib.seeds import torch_rng

TINY = LAYOUTS["tiny"]


def count(module, prefix=""):
    return sum(p.numel() for name, p in module.named_parameters() if name.startswith(prefix))


def tiny_generator(**options):
    torch.manual_seed(0)
    return Generator(TINY, **options).eval()


def batch(n=3):
    mask = torch.zeros(n, 1, 32, 32)
    mask[..., 4:20, 8:28] = 1
    return torch.rand(n, 3, 32, 32, generator=torch_rng("x")), all_prompts(mask, TINY.grid, torch_rng("p"))


def test_parameter_counts_are_the_published_ones():
    with torch.device("meta"):
        generator, surrogate = Generator(LAYOUTS["vit_b"]), build_surrogate("sam", LAYOUTS["vit_b"])
    published = {"": 100_988_016, "noise_": 7_252_544, "noise_mlps": 419_424, "noise_from_early": 6_130_720}
    published |= {"noise_from_embedding": 664_544, "noise_from_upscaled": 37_088}
    of_surrogate = {"": 91_070_476, "image_encoder": 87_278_848, "mask_decoder": 3_785_408}
    for module, counts in ((generator, published), (surrogate, of_surrogate)):
        assert {part: count(module, part) for part in counts} == counts


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_sam_parts_have_the_official_keys_and_shapes(name):
    with torch.device("meta"):
        official, ours = sam_model_registry[name](), Generator(LAYOUTS[name])
    theirs = {k: v.shape for k, v in official.state_dict().items() if not k.startswith("pixel_")}
    assert theirs == {k: v.shape for k, v in ours.state_dict().items() if not k.startswith("noise_")}


def test_a_batch_of_mixed_prompts_equals_one_image_at_a_time():
    generator, (x, prompts) = tiny_generator(), batch(6)
    prompts = method.subset(prompts, torch_rng("mixed"))
    together = generator(x, prompts)
    assert together.shape == (6, 3, TINY.grid, TINY.grid) and together.abs().max() < 1
    for i in range(6):
        single = method.Prompts(*(part[i : i + 1] for part in vars(prompts).values()))
        assert torch.allclose(together[i], generator(x[i : i + 1], single)[0], atol=1e-5)


@pytest.mark.parametrize("mean_of", ["noise", "logits"])
def test_mean_free_noise_cannot_be_one_constant(mean_of):
    noise = tiny_generator(mean_free=9, mean_of=mean_of)(*batch())
    assert noise.abs().max() <= 1
    freed = noise if mean_of == "noise" else torch.atanh(noise.double())
    smooth = local_mean(freed, 9)[..., 8:-8, 8:-8]  # what is left of the mean is second order
    assert freed.std(dim=(2, 3)).min() > 0 and smooth.abs().mean() < 0.2 * freed.abs().mean()


def test_the_mean_over_a_window_is_smaller_at_the_borders_or_over_the_whole_map():
    assert torch.equal(local_mean(torch.full((1, 1, 6, 6), 3.0), 5), torch.full((1, 1, 6, 6), 3.0))
    assert local_mean(torch.arange(4.0).reshape(1, 1, 2, 2), -1).item() == 1.5


def test_one_strong_logit_does_not_hide_a_constant_colour():
    """Eight of nine cells say "a little brighter", the ninth "much darker": mean 0, and saturated one colour."""
    logits = torch.full((1, 3, 27, 27), 10.0)
    logits[..., 1::3, 1::3] = -80.0
    noise = noise_of(logits, 3)[..., 3:-3, 3:-3]
    assert torch.allclose(noise.unique(), torch.tensor([-1.0, 2 / 9]))  # 1 - 7/9, and -1 - 7/9 clipped
    assert noise_of(logits, 3, "logits").unique().tolist() == [-1.0, 1.0]
    assert torch.equal(noise_of(logits), torch.tanh(logits))


def test_signs_of_a_degenerate_generator():
    flat = {"rms": 1, "spatial_std": 0, "image_std": 0, "gray": 1, "coarse": 1, "fine": 0}
    assert method.noise_statistics(torch.ones(4, 3, 8, 8)) == pytest.approx(flat)
    # stripes of 2 cells in red alone, of 5 in the opposites red and green
    for period, colour, where, gray in ((2, (1, 0, 0), "fine", 1 / 3), (10, (1, -1, 0), "coarse", 0)):
        wave = torch.cos(2 * torch.pi * torch.arange(10) / period).expand(4, 1, 10, 10)
        found = method.noise_statistics(wave * torch.tensor(colour).view(3, 1, 1))
        assert found[where] == pytest.approx(1, abs=1e-5) and found["gray"] == pytest.approx(gray, abs=1e-6)
    tile = method.noise_statistics(torch.rand(1, 3, 8, 8, generator=torch_rng(0)).repeat(4, 1, 1, 1))
    assert tile["spatial_std"] > 0.2 and tile["image_std"] < 1e-6


def test_every_trainable_part_gets_a_gradient_and_only_the_new_ones_train_when_sam_is_frozen():
    generator, (x, prompts) = tiny_generator().train(), batch()
    generator.freeze_unused()
    generator(x, prompts).square().mean().backward()
    without = [n for n, p in generator.named_parameters() if p.requires_grad and p.grad is None]
    # background points and the "no mask" embedding belong to prompts that were not used here
    assert all(n.startswith(("prompt_encoder.point_embeddings.0", "prompt_encoder.no")) for n in without)
    generator.train_only_noise_head()
    trained = {name.split(".")[0] for name, p in generator.named_parameters() if p.requires_grad}
    assert trained == {"noise_tokens", "noise_mlps"} | {f"noise_from_{x}" for x in ("early", "embedding", "upscaled")}


def test_noise_is_placed_bilinearly_on_the_square_that_pads_right_and_below_with_black():
    raw = torch.zeros(3, 2, 2)
    raw[:, 0, 1] = 1.0
    placed = method.place_noise(raw, 2, 4)[..., 0]
    assert placed[0].tolist() == [0.0, 0.25, 0.75, 1.0] and placed.shape == (2, 4)
    x = method.square(torch.ones(1, 3, 4, 8), 8)
    assert x.shape == (1, 3, 8, 8) and x[..., :4, :].min() == 1 and x[..., 4:, :].max() == 0


@pytest.mark.parametrize("kind", sorted(method.SURROGATES))
def test_surrogates_answer_with_mask_logits(kind):
    surrogate = build_surrogate(kind, LAYOUTS["small"] if kind in ("resnet50", "lite0") else TINY).eval()
    size, mask = surrogate.size, torch.ones(2, 1, surrogate.size, surrogate.size)
    logits = surrogate(torch.rand(2, 3, size, size), only(all_prompts(mask, surrogate.grid, torch_rng(0)), "box"))
    assert logits.shape[:2] == (2, 1) and logits.isfinite().all()
    assert size == {"sam": 16, "resnet50": 64, "unet": 16, "lite0": 64}[kind]
    assert build_surrogate(kind, TINY, 32).size == 32


@pytest.mark.parametrize("mean_of", ["noise", "logits"])
def test_generator_survives_its_file(tmp_path, mean_of):
    generator = tiny_generator(mean_free=3, mean_of=mean_of, logit_scale=0.5)
    weights.save_generator(generator, tmp_path / "g.safetensors", {"seed": 1})
    assert torch.equal(generator(*batch()), weights.load_generator(tmp_path / "g.safetensors")(*batch()))


def test_a_generator_older_than_the_choice_keeps_its_way_and_an_unknown_name_lists_the_known():
    # the shipped `small` and `colour` were trained, and their scores measured, with the mean off the logits alone
    ways = {name: weights.load_generator(name).mean_of for name in weights.shipped()}
    assert ways == {"small": "logits", "colour": "logits"}
    with pytest.raises(UnsegError, match=r"Expected a generator's name \(colour, small, vit_b; .*grating\)"):
        weights.load_generator("smal")


def test_official_sam_checkpoint_loads(tmp_path):
    generator, donor = tiny_generator(), tiny_generator()
    state = {k: v + 1 for k, v in donor.state_dict().items() if not k.startswith("noise_")}
    torch.save(state | {"pixel_mean": torch.zeros(3)}, tmp_path / "sam.pth")
    weights.load_sam(generator, tmp_path / "sam.pth")
    assert torch.equal(generator.mask_decoder.iou_token.weight, donor.mask_decoder.iou_token.weight + 1)


class Malicious:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def test_wrong_checkpoints_are_refused_in_a_sentence_and_run_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"image_encoder.pos_embed": torch.zeros(1, 64, 64, 768)}, "large")
    torch.save({}, "empty")
    torch.save({"a": Malicious()}, "evil")
    Path("text").write_bytes(b"no weights")
    shapes = r"image_encoder.pos_embed: \(1, 64, 64, 768\) there, \(1, 8, 8, 32\) here"
    sentences = {"large": shapes, "empty": "missing", "no": "no such file"}
    for name, sentence in (sentences | {"text": "state dict", "evil": "state dict"}).items():
        with pytest.raises(UnsegError, match=sentence):
            weights.load_sam(tiny_generator(), name)
    assert not Path("pwned").exists()


def test_mae_weights_start_the_surrogate(tmp_path):
    surrogate = build_surrogate("sam", LAYOUTS["tiny"])  # 4x4 tokens
    encoder = surrogate.image_encoder
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    for side in (7, 4):  # 7x7 positions are resized to 4x4
        encoder.load_state_dict(before)
        torch.save({"model": mae_checkpoint(encoder, side)}, tmp_path / "mae.pth")
        surrogate.start(tmp_path / "mae.pth")
        after, positions = encoder.state_dict(), encoder.pos_embed.detach()[0, :, :, 0]
        assert torch.equal(after["blocks.0.mlp.lin1.weight"], before["blocks.0.mlp.lin1.weight"] + 1)
        assert torch.equal(after["neck.0.weight"], before["neck.0.weight"])
        assert (positions.diff(dim=0) > 0).all() and (positions.diff(dim=1) > 0).all()
    assert torch.allclose(positions.flatten(), torch.arange(16.0), atol=1e-4)  # no class token


def test_sam_weights_start_the_surrogate(tmp_path):
    """At SAM's own size it gives SAM's first mask; at half of it, what segment-anything makes of its tables there."""
    generator = tiny_generator()
    for name, parameter in generator.named_parameters():
        if "pos" in name:  # which a new encoder has at zero
            torch.nn.init.normal_(parameter)
    sam = {k: v for k, v in generator.state_dict().items() if not k.startswith("noise_")}
    torch.save(sam | {"pixel_mean": torch.zeros(3)}, tmp_path / "sam.pth")
    x, prompts = batch()
    whole, half = (build_surrogate("sam", LAYOUTS["tiny"], size).eval() for size in (32, 16))
    for surrogate in (whole, half):
        surrogate.start(tmp_path / "sam.pth")

    decoder, inner = generator.mask_decoder, generator.image_encoder
    with torch.no_grad():
        embedding, _ = method.sam.encode(inner, x)
        # without SAM's IoU token and last mask token, which the surrogate lacks and the others attend to
        tokens = decoder.mask_tokens.weight[:3]
        hs, upscaled = method.sam.decoder_trunk(decoder, generator.prompt_encoder, embedding, tokens, prompts)
        first = torch.einsum("nc,nchw->nhw", decoder.output_hypernetworks_mlps[0](hs[:, 0]), upscaled)
        assert torch.equal(whole(x, prompts)[:, 0], first)

        small = F.interpolate(x, (16, 16))
        positions = F.interpolate(inner.pos_embed.permute(0, 3, 1, 2), (4, 4), mode="bicubic").permute(0, 2, 3, 1)
        tokens = inner.patch_embed(method.sam.normalise(small)) + positions
        for block in inner.blocks:  # segment-anything's own, which resizes relative positions itself
            tokens = block(tokens)
        found, expected = method.sam.encode(half.image_encoder, small)[0], inner.neck(tokens.permute(0, 3, 1, 2))
        torch.testing.assert_close(found, expected)

    torch.save({k: v for k, v in sam.items() if "neck" not in k}, tmp_path / "less.pth")
    sentence = r"^Expected the weights of SAM in .* 6 parameters missing \(first: image_encoder.neck"
    with pytest.raises(UnsegError, match=sentence):
        whole.start(tmp_path / "less.pth")


WIDE = method.SamLayout(32, 4, 48, 2, 2, (1,), 4, 64, 2, 64)  # no two of the new parts have the same shapes


def test_the_released_generator_loads_whatever_its_new_parts_are_called(tmp_path, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "vit_b", WIDE)
    monkeypatch.setenv("UNSEG_DATA", str(tmp_path))
    path = tmp_path / "weights/Generator_unseg_final.pth"
    with pytest.raises(UnsegError, match=f"released generator at {path}, found no such file"):
        weights.load_generator("vit_b")
    torch.manual_seed(3)
    original = Generator(WIDE, tokens="released").eval()
    # a stand-in for the released file: DDP prefix, other names for the new parts, all containing "noise"
    ours = ("noise_tokens", "noise_mlps", "noise_from_early", "noise_from_embedding", "noise_from_upscaled")
    theirs = ("some_noise_token", "noise_mlp_list", "vit_noise_branch", "emb_noise_branch", "mask_noise_branch")
    names = {mine: f"mask_decoder.{foreign}" for mine, foreign in zip(ours, theirs)}
    parts = [(*key.partition("."), value) for key, value in original.state_dict().items()]
    path.parent.mkdir()
    torch.save({f"module.{names.get(head, head)}.{rest}": value for head, _, rest, value in parts}, path)
    expected, state = original(*batch()), torch.get_rng_state()
    for loaded in map(weights.load_generator, ("vit_b", path)):
        assert loaded.tokens == "released" and torch.equal(loaded(*batch()), expected)
    assert torch.equal(state, torch.get_rng_state())
    corrected = Generator(WIDE).eval()
    corrected.load_state_dict(original.state_dict())
    assert not torch.allclose(corrected(*batch()), expected)  # the slice matters
