"""Victims of mmsegmentation: what becomes of a config, and of images. Trainings are in test_victims.py."""

import importlib.util
from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import toys

from unseg_lib import UnsegError
from unseg_lib.victims import load_config, train_victim
from unseg_lib.victims.openmmlab import import_library, import_yapf, runner
from unseg_lib.victims.openmmlab.config import adapt

CONFIG = "deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512"


@pytest.fixture(scope="module", autouse=True)
def _cpu_only():
    import_library("mmseg")
    toys.only_on_a_cpu()


def run_of(sets, **changes):
    return toys.run_of(f"mmseg:{CONFIG}", sets, **({"size": (96, 128), "epochs": 10, "lr": 0.02} | changes))


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
    assert {part.norm_cfg.type for part in (model.backbone, model.decode_head, model.auxiliary_head)} == {"BN"}
    lite0 = ours(sets, f"{CONFIG} model.backbone.model_name={runner.LITE0}", init="imagenet").model  # weights: ours
    assert lite0.pretrained is None and not lite0.backbone.pretrained and lite0.data_preprocessor.std == [128] * 3
    assert model.data_preprocessor.size == (96, 128)
    steps = {step["type"]: step for step in config.train_pipeline}
    assert steps["RandomCrop"]["crop_size"] == (96, 128)
    assert steps["RandomResize"]["scale"] == (384, 96)  # 2048x512 at a crop of 512
    wrapper = config.optim_wrapper
    assert (wrapper.type, wrapper.optimizer.type, wrapper.optimizer.lr) == ("OptimWrapper", "SGD", 0.02)
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("deeplabv3_r50-d8_4xb4-20k_voc12aug-512x5l2", f"did you mean '{CONFIG}'"),
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


def test_a_cache_that_another_process_is_writing_is_waited_for(monkeypatch):
    """yapf renames its cache into place before it is flushed."""
    monkeypatch.setattr(importlib, "import_module", Mock(side_effect=[EOFError, "yapf"]))
    assert import_yapf() == "yapf"


def test_images_go_through_the_pipeline_by_seed_and_epoch(sets):
    run = run_of(sets, size=(32, 32))
    batches = runner.loader(run, run.train, ours(sets, size=(32, 32)).train_pipeline, runner.label_map)

    def epoch(number: int) -> torch.Tensor:
        batches.dataset.epoch = number
        return torch.stack([x for batch in batches for x in batch["inputs"]])

    first = epoch(1)
    assert first.shape == (9, 3, 32, 32) and first.dtype == torch.uint8
    assert torch.equal(first, epoch(1)) and not torch.equal(first, epoch(2))


def test_no_speed_is_told_where_nothing_was_trained(sets, tmp_path, monkeypatch):
    """Killed between the last checkpoint and the result."""
    call = partial(train_victim, toys.SMALL_MMSEG, *sets, tmp_path, **toys.HOW | {"epochs": 1})
    with toys.interrupted_after_saving(monkeypatch):
        call()
    assert len(call()["epochs"]) == 1 and not (tmp_path / "speed.json").exists()


def test_images_reach_the_model_as_its_config_expects_them(sets):
    """BGR, which the preprocessor turns to RGB, and at full size for the score."""
    sample = runner.Images(sets[1], ours(sets, size=(32, 32)).test_pipeline, 0)[0]
    image = sets[1].image(sets[1].ids[0])
    assert sample["inputs"].shape == (3, 32, 48) and sample["data_samples"].ori_shape == image.shape[:2]
    assert np.array_equal(sample["inputs"].numpy(), image.transpose(2, 0, 1)[::-1])
