"""DINO of mmdetection: config, boxes, operators without compiled mmcv, weights, training."""

import random
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import DINO, only_on_a_cpu, run_of, shapes

from unseg_lib import UnsegError
from unseg_lib.datasets import Instance
from unseg_lib.method import LITE0, load_lite0
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import load_config, loader, openmmlab, own_randomness, walk
from unseg_lib.victims.mask2former.data import stacked
from unseg_lib.victims.openmmlab import dino
from unseg_lib.victims.openmmlab import runner as mmseg

CONFIG = "dino-4scale_r50_8xb2-12e_coco"


@pytest.fixture(scope="module", autouse=True)
def _cpu_only():
    openmmlab.import_library("mmdet")
    only_on_a_cpu()


def dino_run(shaped, **changes):
    return run_of(DINO, shaped, **({"size": (48, 48), "task": "detection"} | changes))


def adapted(run):
    return dino.adapt(load_config(run.name, "mmdet"), run)


def built(run) -> torch.nn.Module:
    return mmseg.build_model(adapted(run), run)


def first_batch_loss(run, model: torch.nn.Module) -> torch.Tensor:
    batches = loader(run, run.train, adapted(run).train_pipeline, dino.truth)
    with own_randomness("cpu", "noise of the boxes"):
        return model.parse_losses(model(**model.data_preprocessor(next(iter(batches)), True), mode="loss"))[0]


# what becomes of a config


def test_the_config_becomes_ours(shaped):
    config = adapted(dino_run(shaped, name=CONFIG, size=(400, 600), lr=2e-4, epochs=24, init="imagenet"))
    model = config.model
    assert model.type == "DINO" and model.num_queries == 900 and model.encoder.num_layers == 6
    assert model.bbox_head.num_classes == 2  # box and disc; sky and ground are no things
    assert model.backbone.init_cfg.checkpoint == "torchvision://resnet50" and model.backbone.frozen_stages == 1
    flip, choice, _ = config.train_pipeline[-3:]
    assert flip["prob"] == 0.5
    plain, cropped = choice["transforms"]
    assert plain[0]["scales"][0] == (240, 666) and plain[0]["scales"][-1] == (400, 666)  # 480 to 800, halved
    assert cropped[1]["crop_size"] == (192, 300)
    assert config.test_pipeline[1]["scale"] == (666, 400)
    assert config.optim_wrapper.optimizer == {"type": "AdamW", "lr": 2e-4, "weight_decay": 1e-4}
    assert config.optim_wrapper.paramwise_cfg.custom_keys.backbone.lr_mult == 0.1
    assert config.optim_wrapper.clip_grad.max_norm == 0.1
    (step,) = config.param_scheduler  # 24 epochs of two steps; a tenth after 11 of 12
    assert (step["milestones"], step["end"], step["by_epoch"]) == ([44], 48, False)
    # 12 epochs of 7330 steps become 12,000 of two: a warm-up of 500 of all steps is 136
    warm_up, step = adapted(dino_run(shaped, name="retinanet_r50_fpn_1x_coco", epochs=12000)).param_scheduler
    assert (warm_up["end"], step["milestones"], step["end"]) == (136, [16000, 22000], 24000)


def test_dino_r50_is_built_as_published(shaped):
    """47 million parameters with 80 classes (Zhang et al., Table 1)."""
    config = load_config(CONFIG, "mmdet")
    config.model.backbone.init_cfg = None
    from mmengine.registry import MODELS

    with torch.device("meta"):
        model = MODELS.build(config.model)
    assert sum(p.numel() for p in model.parameters()) == 47_702_412
    assert sum(p.numel() for p in model.backbone.parameters()) == 25_557_032 - 2_049_000


def test_without_first_weights_nothing_is_frozen_or_slowed(shaped):
    run = dino_run(shaped)
    config = adapted(run)
    before = torch.get_rng_state(), random.getstate()
    model = mmseg.build_model(config, run)
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert all(p.requires_grad for p in model.parameters())
    assert model.train().backbone.bn1.training
    walk(config.optim_wrapper, lambda part: pytest.fail("slowed") if "lr_mult" in part else None)


def test_images_without_objects_stay_and_mixed_ones_are_refused(shaped):
    name = "retinanet_r50_fpn_crop640-50e_coco"
    run = dino_run(shaped, name=name, train=replace(shaped[0], read_instances=lambda id: []))
    assert mmseg.Images(run.train, adapted(run).train_pipeline, 0, dino.truth)[0]
    with pytest.raises(UnsegError, match=r"^Expected a pipeline that keeps images apart, found Mosaic"):
        adapted(dino_run(shaped, name="yolox_tiny_8xb8-300e_coco"))


def test_more_queries_than_cells_are_refused(shaped):
    # the smallest images have 480 x 48 / 800 = 29 pixels: 4 x 4 + 2 x 2 + 1 + 1 cells
    with pytest.raises(UnsegError, match=r"^Expected at most 22 queries .* as small as 29 pixels, found 900"):
        adapted(dino_run(shaped, name=CONFIG))


def test_it_may_stand_on_efficientnet_lite0_from_imagenet(shaped):
    own = {"type": "mmseg.TIMMBackbone", "model_name": LITE0, "out_indices": "[2,3,4]"}
    own = "".join(f" model.backbone.{key}={value}" for key, value in ({"_delete_": True} | own).items())
    name = f"{DINO.partition(':')[2]}{own} model.neck.in_channels=[40,112,320]"
    started, fresh = (built(dino_run(shaped, name=name, init=init)).backbone for init in ("imagenet", "random"))
    load_lite0(fresh.timm_model)
    known = fresh.state_dict()
    assert all(torch.equal(value, known[key]) for key, value in started.state_dict().items())
    assert [one.shape[1:] for one in started(torch.rand(2, 3, 64, 64))] == [(40, 8, 8), (112, 4, 4), (320, 2, 2)]
    with pytest.raises(UnsegError, match="Expected at most 22 queries"):  # the same strides as ResNet's
        adapted(dino_run(shaped, name=f"{name} model.num_queries=900"))
    for model, init in ((LITE0, "imagenet"), ("resnet18", "imagenet"), ("resnet18", "random")):
        config = adapted(dino_run(shaped, name=name.replace(LITE0, model), init=init)).model
        assert config.backbone.pretrained is ((model, init) == ("resnet18", "imagenet"))
        assert (config.data_preprocessor.mean == [127] * 3) == (model == LITE0)


# operators without compiled mmcv


def test_stand_ins_are_those_of_pytorch(monkeypatch):
    from mmcv.ops import batched_nms, multi_scale_deform_attn, roi_align

    if sys.modules["mmcv._ext"].__spec__.loader is not None:
        pytest.skip("the full mmcv is installed")
    from mmdet.models.losses import FocalLoss, focal_loss

    assert not multi_scale_deform_attn.IS_CUDA_AVAILABLE
    assert focal_loss._sigmoid_focal_loss is openmmlab.sigmoid_focal_loss
    logits, labels = torch.randn(7, 3, generator=torch_rng("x")), torch.tensor([0, 1, 2, 3, 3, 0, 1])
    weight = torch.rand(7, generator=torch_rng("w"))
    on_cpu = FocalLoss()(logits, labels, weight, avg_factor=2.5)
    as_on_gpu = focal_loss.sigmoid_focal_loss(logits, labels, weight, 2.0, 0.25, "mean", 2.5)
    assert torch.allclose(on_cpu, as_on_gpu)
    overlapping = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]]), torch.tensor([0.8, 0.9, 0.7])
    assert batched_nms(*overlapping, torch.zeros(3), {"type": "nms", "iou_threshold": 0.5})[1].tolist() == [1, 2]
    with pytest.raises(UnsegError, match=r"'roi_align_forward'.*mmcv-lite"):  # all others raise, when they are called
        roi_align(torch.zeros(1, 1, 4, 4), torch.tensor([[0.0, 0, 0, 2, 2]]), (2, 2), 1.0, 0, "avg", True)


def test_nms_counts_the_last_pixel_where_asked():
    pair = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 1]])
    scores = torch.tensor([0.9, 0.8])
    # by hand: 4 of 16 pixels, and 10 of 25 where the last pixel counts
    assert openmmlab.nms(pair, scores, 0.3, 0).tolist() == [0, 1]
    assert openmmlab.nms(pair, scores, 0.3, 1).tolist() == [0]


# boxes


def test_boxes_are_tight_and_classes_are_the_things(shaped):
    masks = torch.zeros(2, 6, 8, dtype=torch.bool)
    masks[0, 1:4, 2:7] = masks[1, 5, 7] = True
    assert dino.tight_boxes(masks).tolist() == [[2, 1, 7, 4], [7, 5, 8, 6]]
    source, id = shaped[0], shaped[0].ids[0]
    found = dino.truth(source, id)
    assert [2 + label for label in found["gt_bboxes_labels"]] == [one.class_index for one in source.instances(id)]
    assert len(found["gt_bboxes"]) == len(source.instances(id)) and not found["gt_ignore_flags"].any()
    assert dino.truth(source, source.ids[-1])["gt_bboxes"].tensor.shape == (0, 4)


def test_boxes_follow_their_objects_through_the_augmentation(shaped):
    """The toy's discs and boxes are brighter than the ground: where a box is, there is no ground or sky."""
    run = dino_run(shaped, size=(48, 64))
    batches = loader(run, run.train, adapted(run).train_pipeline, dino.truth)
    pairs = [pair for batch in batches for pair in zip(batch["inputs"], batch["data_samples"])]
    found = [(x, box) for x, sample in pairs for box in sample.gt_instances.bboxes.tensor]
    for x, box in found:
        assert (box >= 0).all() and (box[2:] <= torch.tensor(x.shape[:0:-1])).all()
        column, row = ((box[:2] + box[2:]) / 2).long().tolist()
        assert x[2, row, column] > 170  # red of boxes and discs; BGR
    assert len(found) > 5


def test_who_says_the_truth_has_full_scores(tmp_path):
    source = shapes(tmp_path, "test", 4, crowd=True)
    metric = dino.BoxPrecision(source)
    for id in source.ids:
        # what is found in a crowd does not count
        masks, classes, _ = stacked(source, id, source.instances(id) + source.crowds(id))
        instances = {"bboxes": dino.tight_boxes(masks), "labels": classes - 2, "scores": torch.full(classes.shape, 0.9)}
        metric.process({}, [{"img_path": id, "pred_instances": instances}])
    scores = metric.compute_metrics(metric.results)["scores"]
    assert scores["AP"] == pytest.approx(1) and scores["AP:box"] == pytest.approx(1)
    assert scores["AP:sky"] is None


# weights


@pytest.fixture(scope="module")
def checkpoint(shaped, tmp_path_factory) -> Path:
    """A checkpoint as mmdetection writes it, with its history of losses."""
    from mmengine.logging.history_buffer import HistoryBuffer

    state, path = built(dino_run(shaped, seed=7)).state_dict(), tmp_path_factory.mktemp("zoo") / "dino.pth"
    hub = {"log_scalars": {"train/loss": HistoryBuffer([1.0, 0.5], [1, 1])}, "runtime_info": {"iter": 2}}
    torch.save({"meta": {"epoch": 1}, "state_dict": state, "message_hub": hub}, path)
    return path


def test_weights_of_a_checkpoint_are_taken_over(shaped, checkpoint, monkeypatch):
    monkeypatch.setattr(dino, "fit", lambda run, config, model, *_: model)
    model = dino.train(dino_run(shaped, init=str(checkpoint)))
    model.init_weights()  # as mmengine's runner does before it trains
    other = built(dino_run(shaped, seed=7)).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())


def test_weights_for_other_classes_are_refused(shaped, checkpoint):
    model = built(dino_run((replace(shaped[0], things=(1, 2, 3)), shaped[1])))
    with pytest.raises(UnsegError, match=r"^Expected weights for 3 classes in .*dino.pth, found 2; take those"):
        dino.load_checkpoint(model, str(checkpoint))


class Evil:
    def __reduce__(self):
        return getattr, (torch.nn.Module, "forward")


def test_only_histories_are_unpickled_beside_tensors(shaped, tmp_path):
    for thing in (shaped[0], Evil()):
        torch.save({"state_dict": {}, "message_hub": thing}, tmp_path / "code.pth")
        with pytest.raises(UnsegError, match=r"^Expected a state dict of tensors in .*code.pth"):
            dino.load_checkpoint(torch.nn.Linear(1, 1), str(tmp_path / "code.pth"))


# training


def test_a_step_lowers_the_loss_of_its_batch(shaped):
    run = dino_run(shaped)
    model = built(run).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=run.lr)
    before = first_batch_loss(run, model)
    before.backward()
    optimiser.step()
    assert first_batch_loss(run, model) < before - 0.05


def test_a_batch_without_any_object_is_learnt_from(shaped):
    run = dino_run((replace(shaped[0], ids=shaped[0].ids[-1:]), shaped[1]))
    loss = first_batch_loss(run, built(run).train())
    loss.backward()
    assert torch.isfinite(loss)
    # one without a pixel is none
    masks, classes, crowd = stacked(shaped[0], shaped[0].ids[0], [Instance(np.zeros((48, 64), bool), 2)])
    assert masks.shape == (0, 48, 64) and len(classes) == len(crowd) == 0
