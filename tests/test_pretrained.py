"""Weights by others: every file that a profile or notebook can ask for is in the list, and is judged by one rule."""

import hashlib
from dataclasses import replace

import pytest
import torch

from unseg_lib import method, pretrained
from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import lpips
from unseg_lib.method import BilevelConfig, build_surrogate, train_generator
from unseg_lib.pretrained import WEIGHTS, asked, lacking, local, located

BYTES = b"the published file"


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSEG_DATA", str(tmp_path / "disk"))
    (tmp_path / "disk/weights").mkdir(parents=True)
    return tmp_path / "disk"


@pytest.fixture
def mine(root, monkeypatch):
    """A file in the list whose bytes this test knows."""
    known = replace(WEIGHTS["mae-vit-b"], size=len(BYTES), checksum=f"sha256:{hashlib.sha256(BYTES).hexdigest()}")
    monkeypatch.setitem(WEIGHTS, "mae-vit-b", known)
    return known


@pytest.mark.parametrize("profile", ["smoke", "small", "systems", "transfer", "ablations", "paper"])
def test_all_that_a_profile_asks_for_is_in_the_list(profiles, profile):
    found = {words: known for stage in profiles(profile).stages.values() for words, known, _ in asked(stage.values)}
    assert None not in found.values(), found
    needs = {"paper": {"sam-vit-b", "mae-vit-b"}, "smoke": {"lite0"}}.get(profile, set())
    assert needs <= {known.name for known in found.values()}


def test_the_libraries_own_registries_say_the_same():
    import segmentation_models_pytorch as smp
    import timm
    from mmengine.runner.checkpoint import get_external_models, get_torchvision_models
    from torchvision.models import AlexNet_Weights

    for known in WEIGHTS.values():
        for victim in known.imagenet:
            family, _, encoder = victim.partition(":")
            if family == "smp" and encoder in smp.encoders.encoders:
                settings = smp.encoders.encoders[encoder]["pretrained_settings"]["imagenet"]
                assert (known.hub, known.revision) == (settings["repo_id"], settings["revision"])
            if encoder.startswith("tu-"):
                settings = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
                assert known.hub == f"timm/{settings.architecture}.{settings.tag}"
    assert WEIGHTS["resnet50"].url == get_torchvision_models()["resnet50"]
    assert WEIGHTS["resnet50-v1c"].url == get_external_models()["resnet50_v1c"]
    assert WEIGHTS["alexnet"].url == AlexNet_Weights.DEFAULT.url
    for known in WEIGHTS.values():  # torch's and OpenMMLab's files have the first digits in their names
        digits = known.place.rpartition("-")[2].partition(".")[0]
        assert "pytorch.org" not in known.url or known.checksum.startswith(f"sha256:{digits}")


def test_a_file_is_missing_wrong_or_right(mine, root, unseg):
    path = root / "weights" / mine.place
    assert mine.fault() == "missing" and mine.path() == path
    path.write_bytes(BYTES[:-1])
    assert mine.fault() == f"{len(BYTES) - 1} bytes instead of {len(BYTES)}"
    path.write_bytes(BYTES[::-1])
    assert mine.fault().startswith("sha256 ")
    assert "others for mae-vit-b" in unseg("weights", "check")[2]
    path.write_bytes(BYTES)
    assert mine.fault() == "" and "mae-vit-b            its sha256 is right" in unseg("weights", "check")[1]
    # what the first download found counts where nothing is published
    unknown = replace(mine, checksum="")
    assert unknown.fault() == "" and unknown.expected(path) == ""
    (root / ".checksums.json").write_text(f'{{"{mine.url}": "sha256:{"0" * 64}"}}')
    assert unknown.fault().endswith("instead of 00000000...")


def test_a_file_in_the_hubs_cache_is_judged_by_the_hubs_own_checksum(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    known, folder = WEIGHTS["swin-t"], tmp_path / "models--microsoft--swin-tiny-patch4-window7-224"
    assert known.fault() == "missing" and known.path() == folder
    blob = folder / "blobs" / hashlib.sha256(BYTES).hexdigest()
    link = folder / "snapshots/0123456789/model.safetensors"
    for file, text in ((blob, BYTES), (folder / "refs/main", b"0123456789")):
        file.parent.mkdir(parents=True)
        file.write_bytes(text)
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert known.path() == link and known.fault() == "" and known.expected(link) == blob.name
    blob.write_bytes(BYTES[::-1])
    assert known.fault().startswith("sha256 ")


def test_what_a_profile_lacks(mine, root, unseg):
    code, told, said = unseg("weights", "check", "--profile", "paper")
    assert code == 2 and "profile paper" in said
    assert "sam-vit-b: missing; `unseg weights get sam-vit-b` gets it (375 MB, Apache-2.0)" in told
    stage = {"mae_weights": f"data/weights/{mine.place}", "init": "random"}
    assert list(lacking([stage])) == ["mae-vit-b"]
    (root / "weights" / mine.place).write_bytes(BYTES)
    assert lacking([stage]) == {}
    assert lacking([{"init": "my.pth"}]) == {"my.pth": "missing"}
    assert "in no record" in lacking([{"init": "imagenet", "victim": "unet-vgg11"}])["init=imagenet of unet-vgg11"]


def test_who_misses_a_file_says_where_it_belongs_and_who_has_it_finds_it_there(mine, root, tmp_path):
    asked_for = f"data/weights/{mine.place}"
    config = BilevelConfig(layout="tiny", mae_weights=asked_for)
    place = rf"Expected MAE ViT-B .* at {root}/weights/{mine.place}, found no such file; `unseg weights get mae-vit-b`"
    with pytest.raises(UnsegError, match=place):
        train_generator(config, [], tmp_path / "out")
    with pytest.raises(UnsegError, match=r"Expected torchvision's AlexNet at .* found no such file; `unseg weights"):
        lpips(torch.zeros(32, 32, 3).numpy(), torch.zeros(32, 32, 3).numpy(), "alexnet-owt-7be5be79.pth")
    with pytest.raises(UnsegError, match=r"WideResNet-38, ImageNet.*download ilsvrc"):
        located("data/weights/resnet38_imagenet.params")
    assert local("torchvision://resnet50") == "torchvision://resnet50"  # none is here: the library downloads its own
    (root / "weights/resnet50-0676ba61.pth").write_bytes(BYTES)
    with pytest.raises(UnsegError, match="found 18 bytes instead of 102530333"):
        local("torchvision://resnet50")
    (root / "weights" / mine.place).write_bytes(BYTES)
    assert located(asked_for) == root / "weights" / mine.place
    with pytest.raises(UnsegError, match="cannot be downloaded without a person: download Generator_unseg"):
        pretrained.get("unseg")


def test_openmmlab_starts_from_the_file_that_is_here(root, monkeypatch):
    from unseg_lib.victims.openmmlab.config import make_ours

    monkeypatch.setitem(WEIGHTS, "resnet50", replace(WEIGHTS["resnet50"], size=0, checksum=""))
    path = root / "weights/resnet50-0676ba61.pth"
    path.write_bytes(BYTES)
    for init, expected in (("imagenet", str(path)), ("random", None)):
        part = {"init_cfg": {"type": "Pretrained", "checkpoint": "torchvision://resnet50"}, "pretrained": None}
        make_ours(part, 3, init)
        assert (part["init_cfg"] or {"checkpoint": None})["checkpoint"] == expected and part["pretrained"] is None


def test_torchvisions_resnet_starts_surrogate_and_mask2former(tmp_path):
    from torchvision.models import resnet50

    from unseg_lib.victims.mask2former.model import LAYOUTS, build

    torch.manual_seed(0)
    theirs, x = resnet50().eval(), torch.randn(1, 3, 64, 64)
    torch.save(theirs.state_dict(), tmp_path / "r50.pth")
    stem = theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x))))
    expected = theirs.layer4(theirs.layer3(theirs.layer2(theirs.layer1(stem))))
    surrogate = build_surrogate("resnet50", method.LAYOUTS["tiny"], 64).eval()
    surrogate.start(tmp_path / "r50.pth")
    model = build(LAYOUTS["resnet50"], 3, str(tmp_path / "r50.pth"), seed=0).eval()
    with torch.inference_mode():
        torch.testing.assert_close(surrogate.net.encoder(x)[-1], expected)
        torch.testing.assert_close(model.encoder(x).feature_maps[-1], expected)
