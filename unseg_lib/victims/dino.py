"""DINO (Zhang et al., ICLR 2023) and other detectors of mmdetection, by config, trained by mmengine's runner.

"dino:dino-4scale_r50_8xb2-12e_coco", and with options as mmdetection's tools take them, separated by blanks:
"dino:NAME model.num_queries=100 model.encoder.num_layers=1". Boxes are those of the instances' masks. `init` may be
a checkpoint that mmdetection wrote for the same classes. Tested as COCO does, at the images' full size.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from unseg_lib.datasets import IGNORE
from unseg_lib.victims.data import resized_image
from unseg_lib.victims.dino_config import adapt
from unseg_lib.victims.dino_weights import load_weights
from unseg_lib.victims.mask2former_outputs import drawn
from unseg_lib.victims.openmmlab import compat as mm_compat
from unseg_lib.victims.openmmlab.config import load_config
from unseg_lib.victims.openmmlab.runner import build_model, check_device, fit
from unseg_lib.victims.run import INIT, VictimRun
from unseg_lib.victims.training import save_predictions, shown

if TYPE_CHECKING:
    from mmengine.runner import Runner

SURE = 0.3  # boxes with a lower score count, but are not drawn: mmdetection's number


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    mm_compat.import_mmdet()
    from unseg_lib.victims.dino_parts import BoxPrecision, truth

    check_device(run)
    run.train.instances(run.train.ids[0])  # a set without them is refused before anything is built
    config = adapt(load_config(run.name, "mmdet"), run)
    model = build_model(config, run)
    if run.init not in INIT:
        load_weights(model, run.init)
    return fit(run, config, model, truth, BoxPrecision(run.test), keep_predictions)


def keep_predictions(runner: "Runner", run: VictimRun) -> None:
    """Write predictions.npz of some test images at the run's size: filled boxes as label maps, and their numbers."""
    runner.model.eval()
    rows = [_drawings(runner, run, i) for i in shown(len(run.test))]
    columns = {name: torch.stack([torch.from_numpy(row[name]) for row in rows]) for name in rows[0]}
    save_predictions(run.out / "predictions.npz", **columns)


def _drawings(runner: "Runner", run: VictimRun, i: int) -> dict[str, np.ndarray]:
    from unseg_lib.victims.dino_parts import found, stacked, tight_boxes

    id, batch = run.test.ids[i], runner.val_dataloader.collate_fn([runner.val_dataloader.dataset[i]])
    with torch.inference_mode():
        sample = runner.model.test_step(batch)[0]
    boxes, classes, scores = found(run.test, sample.pred_instances)
    order = np.flatnonzero(scores >= SURE)[::-1]  # the best on top
    prediction, prediction_segments = _filled(run, boxes[order], classes[order], sample.ori_shape)
    masks, classes = stacked(run.test, id, run.test.instances(id))
    boxes = tight_boxes(masks).numpy()
    order = np.argsort(-masks.sum(axis=(1, 2)), kind="stable")  # small ones on top
    y, truth_segments = _filled(run, boxes[order], classes[order], sample.ori_shape)
    return {
        **{"x": resized_image(run.test.image(id), run.size).numpy(), "y": y, "prediction": prediction},
        **{"truth_segments": truth_segments, "prediction_segments": prediction_segments},
    }


def _filled(
    run: VictimRun, boxes: np.ndarray, classes: np.ndarray, shape: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes in an image of `shape` as label map and numbers at the run's size, see `drawn`."""
    scale = np.array(run.size) / shape
    rows, columns = (np.arange(length) + 0.5 for length in run.size)  # middles of the pixels
    left, top, right, bottom = (boxes * scale[[1, 0, 1, 0]]).T[..., None]
    inside_x, inside_y = (left <= columns) & (columns < right), (top <= rows) & (rows < bottom)
    background = IGNORE if run.test.background is None else run.test.background
    return drawn(inside_y[:, :, None] & inside_x[:, None, :], classes, background)
