"""Victims of mmsegmentation, trained by mmengine's runner with a model that takes seconds."""

import importlib.util
import random
import sys

import numpy as np
import pytest
import torch
from toy_set import boxes, only_on_a_cpu

from unseg_lib import UnsegError
from unseg_lib.files import read_json
from unseg_lib.victims import VICTIMS, Victim, VictimRun, load_config, train_victim
from unseg_lib.victims.openmmlab import compat, runner
from unseg_lib.victims.openmmlab.config import adapt

CONFIG = "deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512"
SMALL = (
    f"mmseg:{CONFIG} model.backbone.depth=18 model.backbone.base_channels=8 "
    "model.decode_head.in_channels=64 model.decode_head.channels=8 "
    "model.auxiliary_head.in_channels=32 model.auxiliary_head.channels=8"
)
HOW = {"size": (32, 32), "epochs": 2, "batch_size": 4, "lr": 0.01, "seed": 0, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def _cpu_only():
    compat.import_mmseg()
    only_on_a_cpu()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("boxes")
    return boxes(root, "train", 9), boxes(root, "test", 3)


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    return out, train_victim(SMALL, *sets, out, **HOW)


def run_of(sets, **changes) -> VictimRun:
    how = {"name": CONFIG, "train": sets[0], "test": sets[1], "out": None, "size": (96, 128), "epochs": 10}
    how |= {"batch_size": 3, "lr": 0.02, "seed": 0, "init": "random", "clean_fraction": 0.0}
    return VictimRun(**(how | {"threads": 0, "device": "cpu", "precision": "32"} | changes))


def ours(sets, name: str = CONFIG, **changes):
    """A shipped config made ours."""
    return adapt(load_config(name), run_of(sets, **changes))


# what becomes of a config


def test_the_config_becomes_ours(sets):
    config = ours(sets)
    model = config.model
    assert model.type == "EncoderDecoder" and model.backbone.depth == 50 and model.decode_head.type == "ASPPHead"
    assert model.pretrained is None and ours(sets, init="imagenet").model.pretrained == "open-mmlab://resnet50_v1c"
    assert model.decode_head.num_classes == model.auxiliary_head.num_classes == 2
    kinds = {part.norm_cfg.type for part in (model.backbone, model.decode_head, model.auxiliary_head)}
    assert kinds == {"BN"}
    assert model.data_preprocessor.size == (96, 128)
    steps = {step["type"]: step for step in config.train_pipeline}
    assert steps["RandomCrop"]["crop_size"] == (96, 128)
    assert steps["RandomResize"]["scale"] == (384, 96)  # 2048x512 at a crop of 512
    assert steps["Pad"]["size"] == (96, 128) if "Pad" in steps else True
    assert config.optim_wrapper.optimizer.type == "SGD" and config.optim_wrapper.optimizer.lr == 0.02
    assert config.optim_wrapper.type == "OptimWrapper"
    (poly,) = config.param_scheduler
    assert poly["type"] == "PolyLR" and poly["end"] == 30 and poly["eta_min"] == pytest.approx(2e-4)


def test_deeplabv3_r50_is_built_as_published(sets):
    before = torch.get_rng_state()
    model = runner.build_model(ours(sets), run_of(sets))
    assert torch.equal(torch.get_rng_state(), before)
    assert sum(p.numel() for p in model.backbone.parameters()) == 23_527_264  # with a deep stem
    assert model.decode_head.conv_seg.out_channels == 2


def test_warm_up_and_sliding_window_keep_their_shares(sets):
    config = ours(sets, "segformer_mit-b0_8xb1-160k_cityscapes-1024x1024", size=(64, 64), epochs=100)
    assert config.model.test_cfg.crop_size == (64, 64) and config.model.test_cfg.stride == (48, 48)  # of 1024, 768
    warm_up, poly = config.param_scheduler  # 1500 of 160k steps, now of 300
    assert (warm_up["begin"], warm_up["end"]) == (0, 3) and (poly["begin"], poly["end"]) == (3, 300)
    assert config.model.backbone.init_cfg is None


def test_options_after_the_name():
    config = load_config(f"{CONFIG} model.backbone.depth=18 model.decode_head.dilations=[1,2]")
    assert config.model.backbone.depth == 18 and config.model.decode_head.dilations == [1, 2]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deeplabv3_r50-d8_4xb4-20k_voc12aug-512x5l2", f"closest: {CONFIG}"),
        ("", "Unknown mmsegmentation config ''"),
        (f"{CONFIG} model.bakbone.depth=18", "found 'model.bakbone.depth=18'"),
        (f"{CONFIG} model.backbone.depth", "found 'model.backbone.depth'"),
    ],
)
def test_names_and_options_are_checked(name, words):
    with pytest.raises(UnsegError, match=words):
        load_config(name)


def test_a_config_of_a_package_that_is_not_there(sets, monkeypatch):
    config = load_config("mask2former_r50_8xb2-90k_cityscapes-512x1024")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnsegError, match="Expected mmdet for"):
        adapt(config, run_of(sets))


def test_compiled_operators_raise_only_when_called():
    import mmcv.ops

    stand_in = sys.modules["mmcv._ext"]
    if stand_in.__spec__.loader is not None:
        pytest.skip("the full mmcv is installed")
    x = torch.zeros(1, 1, 4, 4)
    with pytest.raises(UnsegError, match=r"'roi_align_forward'.*mmcv-lite"):
        mmcv.ops.roi_align(x, torch.tensor([[0.0, 0, 0, 2, 2]]), (2, 2), 1.0, 0, "avg", True)


# training


def test_result_and_files(trained):
    out, result = trained
    assert result["classes"] == ["background", "object"] and result["device"] == "cpu" and result["minutes"] > 0
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]
    for epoch in result["epochs"]:
        assert set(epoch) == {"epoch", "loss", "miou", "iou"} and epoch["loss"] > 0
        assert epoch["miou"] == pytest.approx(sum(epoch["iou"]) / 2)
    assert result["final"]["miou"] == result["epochs"][-1]["miou"]
    files = ["predictions.npz", "result.json", "speed.json", "training.json"]
    assert sorted(file.name for file in out.iterdir()) == files
    assert read_json(out / "speed.json")["samples_per_second"] > 0
    shown = np.load(out / "predictions.npz")
    assert shown["image"].shape == (3, 32, 32, 3)
    assert shown["truth"].shape == shown["prediction"].shape == (3, 32, 32)


def test_killed_after_an_epoch_it_ends_with_the_same_numbers(sets, trained, tmp_path, monkeypatch):
    """mmengine's own state goes through the checkpoint file; nothing of the first half is left in the second."""
    whole = runner.Book.after_val_epoch

    def die(book, runner, metrics=None):
        whole(book, runner, metrics)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runner.Book, "after_val_epoch", die)
        train_victim(SMALL, *sets, tmp_path, **HOW)
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "result.json").exists()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    result = train_victim(SMALL, *sets, tmp_path, **HOW)
    # global randomness is neither used nor left changed
    assert random.getstate() == before[0] and np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    out, expected = trained
    assert result["epochs"] == expected["epochs"]  # bit for bit
    assert (tmp_path / "predictions.npz").read_bytes() == (out / "predictions.npz").read_bytes()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_same_call_returns_the_stored_result(sets, trained, monkeypatch):
    monkeypatch.setitem(VICTIMS, "mmseg", Victim(lambda run: pytest.fail("trained again")))
    assert train_victim(SMALL, *sets, trained[0], **HOW) == trained[1]
    with pytest.raises(UnsegError, match=r"victim .* there"):
        train_victim(SMALL.replace("channels=8", "channels=16"), *sets, trained[0], **HOW)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"lr": 1e30}, "^Expected a finite loss, found nan in epoch 1, step 2"), ({"precision": "bf16"}, "only on a GPU")],
)
def test_a_training_that_cannot_be_is_one_sentence(sets, tmp_path, change, words):
    with pytest.raises(UnsegError, match=words):
        train_victim(SMALL, *sets, tmp_path, **(HOW | change))
    assert not (tmp_path / "checkpoint.pt").exists()


def test_images_go_through_the_pipeline_by_seed_and_epoch(sets):
    run = run_of(sets, size=(32, 32))
    batches = runner.loader(run, run.train, ours(sets, size=(32, 32)).train_pipeline, training=True)

    def epoch(number: int) -> torch.Tensor:
        batches.dataset.epoch = number
        return torch.stack([x for batch in batches for x in batch["inputs"]])

    first = epoch(1)
    assert first.shape == (9, 3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, epoch(1)) and not torch.equal(first, epoch(2))


def test_images_reach_the_model_as_its_config_expects_them(sets):
    """BGR, which the preprocessor turns to RGB, and at full size for the score."""
    sample = runner.Images(sets[1], ours(sets, size=(32, 32)).test_pipeline, 0, training=False)[0]
    image = sets[1].image(sets[1].ids[0])
    assert sample["inputs"].shape == (3, 32, 48) and sample["data_samples"].ori_shape == image.shape[:2]
    assert np.array_equal(sample["inputs"].numpy(), image.transpose(2, 0, 1)[::-1])
