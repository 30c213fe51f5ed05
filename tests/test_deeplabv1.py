"""DeepLabV1 on WideResNet-38: architecture, recipe, weights from files. Trainings are in test_victims.py, the formulas
of its units in test_formulas.py.
"""

import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
import toys

from unseg_lib import UnsegError
from unseg_lib.options import with_options
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import deeplabv1, normalise, training
from unseg_lib.victims.deeplabv1 import WIDTHS, DeepLabV1, Residual, WideResNet38, names_of, units

TINY = "wideresnet38-tiny"
HOW = {"size": (32, 32), "batch_size": 4, "lr": 0.02}
VARIANT = deeplabv1.Variant()


def tiny(classes: int = 2, init: str = "random", seed: int = 0) -> DeepLabV1:
    return deeplabv1.build(TINY, classes, str(init), seed)


def step_loss(run, model, data, images: int = 4, variant=VARIANT) -> torch.Tensor:
    return deeplabv1.batch_loss(variant, run, model, data, torch.arange(images), lambda what: torch_rng(what))


def run_of(sets, **changes):
    return toys.run_of(f"deeplabv1:{TINY}", sets, **(HOW | changes))


# the architecture


def test_wideresnet38_is_that_of_the_paper():
    """Wu et al., Table 1: 3x3 convolutions in levels 1 to 5, bottlenecks in 6 and 7, 38 layers with the classifier."""
    with torch.device("meta"):
        encoder = WideResNet38()
    convolutions, norms, shortcuts = 3 * 64 * 9, 2 * 4096, 0
    levels = ((3, 64, 128, 128), (3, 128, 256, 256), (6, 256, 512, 512), (3, 512, 512, 1024))  # 2 to 5
    for length, entering, middle, leaving in levels:
        shortcuts += entering * leaving
        for i in range(length):
            before = leaving if i else entering
            convolutions += 9 * (before * middle + middle * leaving)
            norms += 2 * (before + middle)
    for entering, leaving in ((1024, 2048), (2048, 4096)):
        one, two = leaving // 4, leaving // 2
        convolutions += entering * one + 9 * one * two + two * leaving
        norms += 2 * (entering + one + two)
        shortcuts += entering * leaving
    assert sum(p.numel() for p in encoder.parameters()) == convolutions + norms + shortcuts == 105_070_912
    layers = {name for name, one in encoder.named_modules() if isinstance(one, torch.nn.Conv2d)}
    assert len({name for name in layers if "shortcut" not in name}) + 1 == 38
    assert [one.p for one in encoder.modules() if isinstance(one, torch.nn.Dropout2d)][-2:] == [0.3, 0.5]


def test_dilations_replace_strides():
    """Levels 5 to 7 see as far as with the strides that they do not have; dilation follows where a stride would act."""
    names = ("stride", "first_dilation", "dilation")
    found = {unit: tuple(how.get(name, 1) for name in names) for unit, how in units().items()}
    assert [found[name] for name in ("2a", "2b1", "4a", "4b5")] == [(2, 1, 1), (1, 1, 1), (2, 1, 1), (1, 1, 1)]
    assert [found[name] for name in ("5a", "5b2", "6a", "7a")] == [(1, 1, 2), (1, 2, 2), (1, 4, 4), (1, 4, 4)]


def test_dropout_of_channels_before_all_but_the_first_convolution():
    """Published: Dropout2d before the 3x3 and before the last 1x1 of levels 6 and 7 (resnet38d's dropout_2b1, _2b2)."""
    unit = Residual(8, (8, 16, 32), (1, 3, 1), dropout=0.5)
    seen = []
    for conv in unit.convs:
        conv.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    torch.manual_seed(0)
    unit(torch.rand(4, 8, 9, 9, generator=torch_rng("x")))
    empty = [(one.abs().amax(dim=(2, 3)) == 0).float().mean().item() for one in seen]
    assert empty[0] == 0 and all(0.2 < share < 0.8 for share in empty[1:])
    assert all(((one == 0).float().mean(dim=(2, 3)) < 1).any() for one in seen)


def test_the_head_starts_from_xavier_and_pretrained_stems_and_norms_stay(sets, tmp_path, monkeypatch):
    """Published: xavier_uniform_ for both convolutions of the head; `conv1a` does not learn (MCTformer's resnet38)."""
    monkeypatch.setitem(WIDTHS, "wideresnet38", partial(WideResNet38, 16, (1, 1, 2, 1)))
    model = deeplabv1.build("wideresnet38", 2, "random", 0)
    for layer in (model.decoder.conv, model.head):
        bound = (6 / (9 * (layer.in_channels + layer.out_channels))) ** 0.5
        assert bound * 0.98 < layer.weight.abs().max() <= bound and layer.bias.abs().max() > 0
    torch.save(model.encoder.state_dict(), tmp_path / "e.pth")
    run = run_of(sets, lr=1e-3)
    data = deeplabv1.read(run, sets[0], "toy")
    for init, still in ((str(tmp_path / "e.pth"), True), ("random", False)):  # what nobody has trained learns
        model = deeplabv1.build("wideresnet38", 2, init, 0).train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        training.train_step(model, deeplabv1.sgd(VARIANT, run, model), step_loss(run, model, data), None)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert any("convs" in name for name in moved) and any(name.startswith("head") for name in moved)
        assert any("norm" in name for name in moved) != still and ("encoder.stem.weight" in moved) != still


def test_features_have_an_eighth_of_the_size_and_the_head_is_dilated():
    with torch.device("meta"):
        model = DeepLabV1(WideResNet38(), 21)
        features = model.encoder(torch.empty(2, 3, 321, 321))
    assert [tuple(one.shape[1:]) for one in features] == [(channels, 41, 41) for channels in (512, 1024, 2048, 4096)]
    head = sum(p.numel() for part in (model.decoder, model.head) for p in part.parameters())
    assert head == 9 * 4096 * 512 + 512 + 9 * 512 * 21 + 21
    assert all(layer.dilation == layer.padding == (12, 12) for layer in (model.decoder.conv, model.head))
    assert model(torch.empty(1, 3, 65, 81, device="meta")).shape == (1, 21, 65, 81)


# the recipe


def test_the_published_recipe(sets):
    assert deeplabv1.SCALE == (0.7, 1.3) and training.POLY_POWER == 0.9
    model = tiny()
    encoder, head = deeplabv1.sgd(VARIANT, run_of(sets, lr=7e-4), model).param_groups
    assert 7e-4 * encoder["factor"] == 7e-4 and 7e-4 * head["factor"] == pytest.approx(7e-3)
    assert len(encoder["params"]) + len(head["params"]) == len(list(model.parameters())) and len(head["params"]) == 4
    # weight decay as released and as meant
    for option, how in {"": (1e-5, 0), " weight_decay=misplaced": (1e-5, 0), " weight_decay=meant": (0, 1e-5)}.items():
        _, variant = with_options(TINY + option, {TINY: VARIANT}, "encoder")
        groups = deeplabv1.sgd(variant, run_of(sets), model).param_groups
        assert {(group["momentum"], group["weight_decay"]) for group in groups} == {how}


def test_images_keep_their_ratio(sets):
    """VOC's 500 pixels at the published crop of 321 stay 500."""
    pairs = zip(*deeplabv1.read(run_of(sets), sets[0], "toy"))
    assert {(x.shape, y.shape) for x, y in pairs} == {((3, 33, 50), (33, 50))}
    assert round(321 * deeplabv1.LONGER_SIDE) == 500
    whole, _ = deeplabv1.read(run_of(sets, size=(31, 31)), sets[0], "toy")  # longer side 48, as it is
    assert torch.equal(whole[2].permute(1, 2, 0), torch.from_numpy(sets[0].image(sets[0].ids[2]).copy()))


@pytest.mark.parametrize("padding", [0, 255])
def test_crops_move_images_and_labels_together(padding):
    labels = [torch.full(shape, 2, dtype=torch.uint8) for shape in ((40, 60), (60, 30), (25, 25)) * 20]
    for one in labels:
        one[: one.shape[0] // 2, : one.shape[1] // 2] = 1
    images = [100 * one.expand(3, -1, -1) for one in labels]
    x, y = deeplabv1.crops(images, labels, (32, 48), padding, torch_rng("crops"))
    assert x.shape == (60, 3, 32, 48) and y.shape == (60, 32, 48) and y.dtype == torch.long
    assert set(y.unique().tolist()) == {1, 2, padding}
    around = normalise(x).abs().amax(dim=1) < 1e-3
    assert (y[around] == padding).all() and around.flatten(1).any(dim=1)[2::3].all()  # 25 x 25 never fills it
    # bilinear against nearest: at a corner the nearest pixel has a quarter of the weight; around is 124
    assert (x[:, 0][y == 1] <= 176).all() and (x[:, 0][y == 2] >= 117).all()
    assert len(set(map(int, [(one == 1).any(dim=0).float().argmax() for one in y if (one == 1).any()]))) > 5
    areas = [int((one != padding).sum()) for one in y[2::3]]
    assert max(areas) - min(areas) < 60  # one scale for all, only the places differ
    assert torch.equal(x, deeplabv1.crops(images, labels, (32, 48), padding, torch_rng("crops"))[0])


def test_scales_and_flips_are_drawn():
    label = torch.zeros(32, 32, dtype=torch.uint8)
    label[:, :4] = 1  # a stripe on the left
    image, areas, sides = label.expand(3, -1, -1), [], []
    for seed in range(40):
        _, y = deeplabv1.crops([image], [label], (64, 64), 255, torch_rng(seed))
        areas.append(float((y != 255).sum()) / 32**2)
        stripe, whole = (one.any(dim=1)[0].float().argmax() for one in (y == 1, y != 255))
        sides.append(bool(stripe == whole))
    assert 0.7**2 * 0.9 < min(areas) < 0.6 and 1.5 < max(areas) < 1.3**2 * 1.1
    assert 8 < sum(sides) < 32


# first weights from files


def named(encoder: WideResNet38, which: int) -> dict[str, torch.Tensor]:
    """An encoder's weights by one of the four names of each; 1: the published one."""
    return {names_of(name)[which]: v for name, v in encoder.state_dict().items() if "num_batches" not in name}


def write_params(path: Path, arrays: dict[str, torch.Tensor], version: int = 0) -> Path:
    """As MXNet writes them: version 0 of 2016, 1 of 2017, 2 later."""
    content = struct.pack("<3Q", 0x112, 0, len(arrays))
    for array in arrays.values():
        values = array.numpy().astype("<f4")
        if version:
            content += struct.pack("<I", 0xF993FAC7 + version) + (struct.pack("<i", 0) if version == 2 else b"")
        content += struct.pack(f"<I{values.ndim}{'q' if version else 'I'}", values.ndim, *values.shape)
        content += struct.pack("<iii", 1, 0, 0) + values.tobytes()
    content += struct.pack("<Q", len(arrays))
    for name in arrays:
        content += struct.pack("<Q", len(name)) + name.encode()
    path.write_bytes(content)
    return path


@pytest.fixture(scope="module")
def encoder():
    encoder, rng = WIDTHS[TINY](), torch_rng("encoder")
    for value in filter(torch.is_floating_point, encoder.state_dict().values()):
        value.copy_(torch.rand(value.shape, generator=rng))
    return encoder


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_names_in_files():
    for ours, published, theirs in (
        ("stem.weight", "conv1a_weight", "conv1a.weight"),
        ("units.2a.shortcut.weight", "res2a_branch1_weight", "b2.conv_branch1.weight"),
        ("units.4b5.convs.1.weight", "res4b5_branch2b1_weight", "b4_5.conv_branch2b1.weight"),
        ("units.6a.convs.2.weight", "res6a_branch2b2_weight", "b6.conv_branch2b2.weight"),
        ("units.2a.norms.0.bias", "bn2a_branch2a_beta", "b2.bn_branch2a.bias"),
        ("norm.running_var", "bn7_moving_var", "bn7.running_var"),
    ):
        assert names_of(ours) == (ours, published, theirs, f"encoder.{ours}")
    # every array of the whole network has a name of its own
    with torch.device("meta"):
        whole = WideResNet38()
    assert {len(named(whole, which)) for which in range(4)} == {len(named(whole, 0))}


@pytest.mark.parametrize("version", [0, 1, 2])
def test_weights_that_mxnet_saved(encoder, tmp_path, version):
    arrays = {("aux:" if "moving" in name else "arg:") + name: v for name, v in named(encoder, 1).items()}
    path = write_params(tmp_path / "a.params", arrays | {"arg:linear1000_bias": torch.zeros(1000)}, version)
    assert same(encoder, tiny(init=path).encoder)


@pytest.mark.parametrize("which", [0, 1, 2, 3])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_state_dicts_by_any_of_the_names(encoder, tmp_path, which, suffix):
    from safetensors.torch import save_file

    state, path = named(encoder, which), tmp_path / f"weights{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state, "epoch": 3}, path)
    assert same(encoder, tiny(init=path).encoder)


def test_wrong_files_are_one_sentence(encoder, tmp_path):
    state = named(encoder, 1)

    def refused(content: dict | bytes, words: str, name: str = "w.pth") -> None:
        path = tmp_path / name
        torch.save(content, path) if isinstance(content, dict) else path.write_bytes(content)
        with pytest.raises(UnsegError, match=words):
            tiny(init=path)

    refused({}, r"Expected the weights of this WideResNet-38 in .*missing .first: norm.bias.; choose")
    refused(state | {"conv1a_weight": torch.zeros(64, 3)}, r"shape .*stem.weight: \(64, 3\) there, \(4, 3, 3, 3\) here")
    refused(b"nothing", r"that MXNet has saved in .*, but it ends after 7 bytes", "w.params")
    refused(struct.pack("<3Q", 0x113, 0, 0), "its first bytes are others", "w.params")
    refused(struct.pack("<3Q", 0x112, 0, 2**60), "it ends after 24 bytes", "w.params")
    whole = write_params(tmp_path / "whole.params", state, 2).read_bytes()
    refused(whole[: len(whole) // 2], "it ends after", "w.params")
    refused(struct.pack("<3QIiI", 0x112, 0, 1, 0xF993FAC9, 1, 1), "is sparse", "w.params")
    refused(struct.pack("<3QI2I3i", 0x112, 0, 1, 2, 2**31, 2**31, 1, 0, 0), "it ends after", "w.params")
    refused(struct.pack("<3QI1I3i", 0x112, 0, 1, 1, 4, 1, 0, 99), "has type 99", "w.params")
    refused(struct.pack("<3QI", 0x112, 0, 1, 33), "has 33 dimensions", "w.params")
    refused(struct.pack("<3QIiIq3i", 0x112, 0, 1, 0xF993FAC9, 0, 1, -4, 1, 0, 0), r"shape \[-4\]", "w.params")
    with pytest.raises(UnsegError, match=r"which no hub has .* ilsvrc-cls_rna-a1_cls1000_ep-0001.params"):
        tiny(init="imagenet")


# training


def test_label_padding_is_learnt_or_ignored(sets):
    """In the published way what lies around an image is background; otherwise it costs nothing."""
    run, model = run_of(sets), tiny().eval()
    with torch.no_grad():
        model.head.weight.zero_(), model.head.bias.copy_(torch.tensor([-5.0, 5.0]))
    data = ([torch.full((3, 16, 16), 200, dtype=torch.uint8)] * 2, [torch.ones(16, 16, dtype=torch.uint8)] * 2)
    variants = (replace(VARIANT, label_padding=padding) for padding in ("ignore", "background"))
    ignored, background = (step_loss(run, model, data, 2, variant) for variant in variants)
    assert ignored < 1e-3 and background > 5


def test_whole_images_of_any_shape_are_scored(sets):
    run, model = run_of(sets), tiny()
    with torch.no_grad():
        model.head.weight.zero_(), model.head.bias.copy_(torch.tensor([0.0, 1.0]))  # class 1 everywhere
    x = [torch.zeros(3, *shape, dtype=torch.uint8) for shape in ((20, 30), (33, 17))]
    y = [torch.zeros(one.shape[1:], dtype=torch.uint8) for one in x]
    y[0][:10], y[1][0] = 1, 255
    assert training.label_scores(run, model, (x, y))["iou"] == [0, pytest.approx(300 / (600 + 32 * 17))]
