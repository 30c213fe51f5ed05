"""A config of mmdetection made ours: its model, augmentation, optimiser and schedule stay.

What is the run's is put in: the classes, which are the countable ones, the images' size, the learning rate, the
number of steps and the first weights. The smaller side of `size` stands for that of the config's test images,
800 pixels with DINO; all its other sizes keep their ratio to it.
"""

import math
from typing import TYPE_CHECKING

from unseg_lib.errors import UnsegError
from unseg_lib.victims.mask2former_scores import things
from unseg_lib.victims.openmmlab.config import SIZES, make_ours, need_parts, reschedule, scaled, walk
from unseg_lib.victims.run import VictimRun

if TYPE_CHECKING:
    from mmengine.config import Config


def adapt(config: "Config", run: VictimRun) -> "Config":
    """Put the run's classes, sizes, learning rate and iterations into a config, in place."""
    need_parts(config, run)
    pipelines = [config.train_pipeline, config.test_pipeline]
    factor = min(run.size) / min(min(scale) for scale in _scales(config.test_pipeline))
    walk(pipelines, lambda step: _resize(step, factor))
    classes = len(things(run.train))
    walk(config.model, lambda part: make_ours(part, classes, run.init))
    if run.init == "random":
        walk(config.model, _let_learn)
        walk(config.optim_wrapper, lambda part: part.pop("lr_mult", None))
    _check_queries(config, classes)
    reschedule(config, run)
    return config


def _scales(pipeline: list[dict]) -> list[tuple[int, int]]:
    """All sizes, (width, height) or the other way round, with which images leave a pipeline."""
    found = []
    for step in pipeline:
        if "transforms" in step:  # one of several pipelines, drawn anew for every image
            found = [scale for steps in step["transforms"] for scale in _scales(steps)] or found
        else:
            found = [step["scale"]] if "scale" in step else list(step.get("scales", found))
    return found


def _resize(step: dict, factor: float) -> None:
    for key in (*SIZES, "crop_size"):
        if step.get(key) is not None:
            step[key] = scaled(step[key], factor)


def _let_learn(part: dict) -> None:
    """Nothing of a backbone that nobody has trained is kept: neither first stages nor statistics, see below lr_mult."""
    for key, value in {"frozen_stages": -1, "norm_eval": False}.items():
        if key in part:
            part[key] = value
    if "norm_cfg" in part and isinstance(part["norm_cfg"], dict):
        part["norm_cfg"]["requires_grad"] = True


def _check_queries(config: "Config", classes: int) -> None:
    """DINO's queries begin at the most promising cells of its features, so there must be as many of those."""
    model = config.model
    if "num_queries" not in model:
        return
    side = min(min(scale) for steps in (config.train_pipeline, config.test_pipeline) for scale in _scales(steps))
    strides = [4 * 2 ** (model.backbone.out_indices[0] + level) for level in range(model.neck.num_outs)]
    cells = sum(math.ceil(side / stride) ** 2 for stride in strides)
    if model.get("as_two_stage") and model.num_queries > cells:
        raise UnsegError(
            f"Expected at most {cells} queries where images come as small as {side} pixels, found "
            f"{model.num_queries}; add model.num_queries={cells} to the name or choose a larger size."
        )
    if "max_per_img" in model.test_cfg:
        model.test_cfg.max_per_img = min(model.test_cfg.max_per_img, model.num_queries * classes)
