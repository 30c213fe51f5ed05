"""DINO (Zhang et al., ICLR 2023) and other detectors of mmdetection, by config, trained by mmengine's runner.

"dino:dino-4scale_r50_8xb2-12e_coco", with options as "mmseg:" takes them. Boxes are those of the instances' masks.
`init` may be a checkpoint that mmdetection wrote for the same classes. Tested as COCO does, at the images' full size.
The config's model, augmentation, optimiser and schedule stay. The smaller side of `size` stands for that of the
config's test images, 800 pixels with DINO; all its other sizes keep their ratio to it.
"""

import math

import numpy as np
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.runner import Runner
from torch import nn

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import average_precision
from unseg_lib.method import boxes_of, load_weights, read_foreign
from unseg_lib.victims.mask2former.data import stacked, targets
from unseg_lib.victims.mask2former.outputs import by_area, drawings
from unseg_lib.victims.openmmlab import SAFE, import_library
from unseg_lib.victims.openmmlab.config import SIZES, load_config, make_ours, need_parts, reschedule, resize, walk
from unseg_lib.victims.openmmlab.runner import build_model, check_device, fit, predicted
from unseg_lib.victims.run import INIT, VictimRun
from unseg_lib.victims.training import save_predictions, shown, shown_image

SURE = 0.3  # boxes with a lower score count, but are not drawn: mmdetection's number


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    import_library("mmdet")
    check_device(run)
    run.train.instances(run.train.ids[0])  # a set without them is refused before anything is built
    config = adapt(load_config(run.name, "mmdet"), run)
    model = build_model(config, run)
    if run.init not in INIT:
        load_checkpoint(model, run.init)
        model.init_weights = lambda: None  # the runner would draw DINO's transformer anew
    return fit(run, config, model, truth, BoxPrecision(run.test), keep_predictions)


def adapt(config: Config, run: VictimRun) -> Config:
    """Put the run's classes, sizes, learning rate and iterations into a config of mmengine, in place."""
    need_parts(config, run)
    factor = min(run.size) / min(map(min, _scales(config.test_pipeline)))
    walk([config.train_pipeline, config.test_pipeline], lambda step: resize(step, factor, (*SIZES, "crop_size")))
    walk(config.train_pipeline, _by_itself)
    classes = len(run.train.countable)
    walk(config.model, lambda part: make_ours(part, classes, run.init))
    if run.init == "random":
        walk(config.model, _let_learn)
        walk(config.optim_wrapper, lambda part: part.pop("lr_mult", None))
    _check_queries(config, classes)
    reschedule(config, run)
    return config


def _by_itself(step: dict) -> None:
    """Every image is changed by itself: it takes nothing from others, nor makes room for one if it has no objects."""
    if str(step.get("type", "")).removeprefix("Cached") in ("Mosaic", "MixUp", "CopyPaste"):
        raise UnsegError(f"Expected a pipeline that keeps images apart, found {step['type']}; take another config.")
    own = {"RandomCrop": {"allow_negative_crop": True}, "FilterAnnotations": {"keep_empty": False}}
    step.update(own.get(step.get("type"), {}))


def _scales(pipeline: list[dict]) -> list[tuple[int, int]]:
    """All sizes, (width, height) or the other way round, with which images leave a pipeline."""
    found = []
    for step in pipeline:
        if "transforms" in step:  # one of several pipelines, drawn anew for every image
            found = [scale for steps in step["transforms"] for scale in _scales(steps)] or found
        else:
            found = [step["scale"]] if "scale" in step else list(step.get("scales", found))
    return found


def _let_learn(part: dict) -> None:
    """Nothing of a backbone that nobody has trained is kept: neither first stages nor statistics, see below lr_mult."""
    part.update({key: value for key, value in {"frozen_stages": -1, "norm_eval": False}.items() if key in part})
    if isinstance(part.get("norm_cfg"), dict):
        part["norm_cfg"]["requires_grad"] = True


def _check_queries(config: Config, classes: int) -> None:
    """DINO's queries begin at the most promising cells of its features, so there must be as many of those."""
    model = config.model
    if "num_queries" not in model:
        return
    side = min(min(scale) for steps in (config.train_pipeline, config.test_pipeline) for scale in _scales(steps))
    first = 2 if "model_name" in model.backbone else 4  # stride of the first stage that there is: timm's, mmdetection's
    strides = [first * 2 ** (model.backbone.out_indices[0] + level) for level in range(model.neck.num_outs)]
    cells = sum(math.ceil(side / stride) ** 2 for stride in strides)
    if model.get("as_two_stage") and model.num_queries > cells:
        raise UnsegError(
            f"Expected at most {cells} queries where images come as small as {side} pixels, found "
            f"{model.num_queries}; add model.num_queries={cells} to the name or choose a larger size."
        )
    if "max_per_img" in model.test_cfg:
        model.test_cfg.max_per_img = min(model.test_cfg.max_per_img, model.num_queries * classes)


def load_checkpoint(model: nn.Module, path: str) -> None:
    """Load all weights of the same config with the same number of classes; anything else is refused."""
    with torch.serialization.safe_globals(SAFE):
        found = read_foreign(path)
    load_weights(model, found, path, "this config", head="bbox_head.cls_branches.0.bias")


def truth(source: SegmentationSet, id: str) -> dict:
    """An image's truth for detection; mmdetection counts the countable classes from 0."""
    from mmdet.structures.bbox import HorizontalBoxes

    masks, classes, _ = stacked(source, id, source.instances(id))
    return {
        "gt_bboxes": HorizontalBoxes(tight_boxes(masks), dtype=torch.float32),
        "gt_bboxes_labels": np.array([source.countable.index(index) for index in classes.tolist()], np.int64),
        "gt_ignore_flags": np.zeros(len(classes), bool),
    }


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Left, top, right, bottom edges in pixels, float `(K,4)`, of masks bool `(K,H,W)` with a pixel each."""
    return boxes_of(masks) + torch.tensor([0.0, 0.0, 1.0, 1.0])


def found(source: SegmentationSet, instances: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes float `(K,4)`, our class indices and scores `(K,)` of a prediction of mmdetection."""
    boxes, labels, scores = (instances[name].cpu().numpy() for name in ("bboxes", "labels", "scores"))
    return boxes, np.array(source.countable, np.int64)[labels], scores


class BoxPrecision(BaseMetric):
    """AP of boxes at every image's full size, for mmengine; what is found in crowds does not count."""

    def __init__(self, source: SegmentationSet):
        super().__init__()
        self.source = source

    def process(self, data_batch: dict, data_samples: list[dict]) -> None:
        self.results += [(sample["img_path"], found(self.source, sample["pred_instances"])) for sample in data_samples]

    def compute_metrics(self, results: list[tuple]) -> dict:
        truths = (tuple(part.numpy() for part in targets(self.source, id, "detection")) for id, _ in results)
        return {"scores": average_precision(truths, (one for _, one in results), self.source.classes, "box")}


def keep_predictions(runner: Runner, run: VictimRun) -> None:
    """Write predictions.npz of some test images at the run's size: filled boxes as label maps, and their numbers."""
    rows = []
    for i in shown(len(run.test)):
        id, sample = run.test.ids[i], predicted(runner, i)
        # what is found, the best on top, and what is there
        boxes, classes, scores = found(run.test, sample.pred_instances)
        order = np.flatnonzero(scores >= SURE)[::-1]
        masks, true, _ = stacked(run.test, id, run.test.instances(id))
        masks, true = by_area(masks.numpy(), true.numpy())
        edges = tight_boxes(torch.from_numpy(masks)).numpy(), boxes[order]
        right, guessed = (_filled(one, sample.ori_shape, run.size) for one in edges)
        rows.append(shown_image(run, id) | drawings(run, (right, true), (guessed, classes[order])))
    save_predictions(run, rows)


def _filled(boxes: np.ndarray, shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Boxes `(K,4)` in an image of `shape`, filled at `size`: masks bool `(K,H,W)`."""
    scale = np.array(size) / shape
    rows, columns = (np.arange(length) + 0.5 for length in size)  # middles of the pixels
    left, top, right, bottom = (boxes * scale[[1, 0, 1, 0]]).T[..., None]
    inside_x, inside_y = (left <= columns) & (columns < right), (top <= rows) & (rows < bottom)
    return inside_y[:, :, None] & inside_x[:, None, :]
