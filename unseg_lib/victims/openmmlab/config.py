"""A config of mmsegmentation made ours.

Its model, augmentation, optimiser and schedule stay; what is the run's is put in: classes, crop size (`size`;
the config's other sizes keep their ratio to it), learning rate, number of steps, first weights.
"""

import ast
import importlib.util
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config

from unseg_lib.errors import UnsegError, pick
from unseg_lib.method import LITE0, SHIFT, SPREAD
from unseg_lib.pretrained import local
from unseg_lib.victims.data import batches
from unseg_lib.victims.openmmlab import LIBRARIES
from unseg_lib.victims.run import VictimRun

NEEDED = ("model", "train_pipeline", "test_pipeline", "optim_wrapper", "param_scheduler", "train_cfg")
COCO_STEPS = 7330  # of an epoch: 117,266 images in batches of 16, for which mmdetection's configs are written
SIZES = ("scale", "scales", "img_scale", "max_size")  # of a pipeline's steps; keep their ratio to the crop


def load_config(name: str, package: str = "mmseg") -> Config:
    """Read "NAME key=value ..." from the configs that mmseg or mmdet ships, e.g. "segformer_mit-b0_..."."""
    library = LIBRARIES[package]
    folder = Path(importlib.util.find_spec(package).origin).parent / ".mim" / "configs"
    known = {file.stem: file for file in sorted(folder.glob("[!_]*/*.py"))}
    if not known:
        raise UnsegError(f"Expected the configs of {library} in {folder}, found none; install {library} again.")
    name, *options = name.split() or [""]
    config = Config.fromfile(pick(known, name, f"{library} config"))
    for option in options:
        key, _, value = option.partition("=")
        if not value or not _has_parent(config.to_dict(), key):
            raise UnsegError(f"Expected options like model.backbone.depth=18 after {name}, found '{option}'.")
        config.merge_from_dict({key: _literal(value)})
    return config


def _has_parent(node: object, key: str) -> bool:
    """Whether all of "a.b.c" but its last part is there; a new last part may be a model's argument."""
    for part in key.split(".")[:-1]:
        try:
            node = node[int(part)] if isinstance(node, list | tuple) else node[part]
        except (KeyError, IndexError, ValueError, TypeError):
            return False
    return isinstance(node, dict)


def _literal(text: str) -> object:
    """A number, list or None as Python writes it; anything else is a text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def adapt(config: Config, run: VictimRun) -> Config:
    """Put the run's classes, sizes, learning rate and iterations into a config, in place."""
    need_parts(config, run)
    model = config.model
    factor = min(run.size) / min(config.get("crop_size") or model.data_preprocessor.size)

    def fit_crop(step: dict) -> None:
        resize(step, factor)
        step.update({"crop_size": run.size} if "crop_size" in step else {})
        step.update({"size": run.size} if step.get("type") == "Pad" and step.get("size") is not None else {})

    walk([config.train_pipeline, config.test_pipeline], fit_crop)
    if "size" in model.data_preprocessor:
        model.data_preprocessor.size = run.size
    if model.test_cfg.get("mode") == "slide":
        model.test_cfg.stride = scaled(model.test_cfg.stride, factor)
        model.test_cfg.crop_size = run.size
    walk(model, lambda part: make_ours(part, len(run.train.classes), run.init))
    reschedule(config, run)
    return config


def need_parts(config: Config, run: VictimRun) -> None:
    """Refuse a config without what we change, or with models of a package that is not installed."""
    if missing := [part for part in NEEDED if part not in config]:
        library = LIBRARIES[config.get("default_scope", "mmseg")]
        raise UnsegError(f"Expected '{missing[0]}' in the {library} config {run.name}, found none; take another.")

    def need_package(part: dict) -> None:
        package = str(part.get("type", "")).partition(".")[0]
        if package in ("mmdet", "mmpretrain") and not importlib.util.find_spec(package):
            raise UnsegError(f"Expected {package} for {part['type']}, found it not installed; take another config.")

    walk(config.model, need_package)


def walk(node: object, change: Callable[[dict], None]) -> None:
    """Call `change` on every dict inside a config, the outer ones first."""
    if isinstance(node, dict):
        change(node)
        node = list(node.values())
    for child in node if isinstance(node, list | tuple) else ():
        walk(child, change)


def resize(step: dict, factor: float, keys: tuple[str, ...] = SIZES) -> None:
    """Scale the sizes that a pipeline's step has, in place."""
    step.update({key: scaled(step[key], factor) for key in keys if step.get(key) is not None})


def scaled(value, factor: float):
    """A number of pixels or steps, or a list of them, times `factor`; at least 1."""
    if isinstance(value, list | tuple):
        return type(value)(scaled(item, factor) for item in value)
    return max(1, round(value * factor))


def make_ours(part: dict, classes: int, init: str) -> None:
    """Fit a part of a model to our classes, one process, and first weights; for `walk`."""
    if part.get("type") in ("SyncBN", "MMSyncBN"):
        part["type"] = "BN"  # the same in one process, and there on a CPU
    weights = part.get("class_weight")
    if isinstance(weights, list | tuple):
        # Mask2Former's last weight is that of "no object"; others are frequencies of the config's own data
        part["class_weight"] = [1.0] * classes + [weights[-1]] if set(weights[:-1]) == {1.0} else None
    if "num_classes" in part:
        part["num_classes"] = classes
    # first weights: ImageNet's from the file that is here, else as the library finds them; lite0's by `build_model`
    backbone = part.get("backbone")
    if isinstance(backbone, dict) and (name := backbone.get("model_name")):
        backbone["pretrained"] = init == "imagenet" and name != LITE0
        part.update({"pretrained": None} if "pretrained" in part else {})
        part["data_preprocessor"].update({"mean": [SHIFT] * 3, "std": [SPREAD] * 3} if name == LITE0 else {})
    elif "pretrained" in part and "model_name" not in part:
        part["pretrained"] = local(part["pretrained"]) if init == "imagenet" and part["pretrained"] else None
    start = part.get("init_cfg")
    if isinstance(start, dict) and start.get("type") == "Pretrained":
        part["init_cfg"] = start | {"checkpoint": local(start["checkpoint"])} if init == "imagenet" else None


def reschedule(config: Config, run: VictimRun) -> None:
    """Give the optimiser the run's learning rate and precision, and stretch the schedule to its steps."""
    steps = run.epochs * len(batches(len(run.train), run.batch_size, run.seed, 1))
    published, epochs = config.train_cfg.get("max_iters"), config.train_cfg.get("max_epochs")
    # the optimiser
    wrapper = config.optim_wrapper
    lower = run.lr / wrapper.optimizer.lr
    wrapper.optimizer.lr = run.lr
    for key in ("dtype", "loss_scale"):
        wrapper.pop(key, None)
    wrapper.update({"type": "AmpOptimWrapper", "dtype": "bfloat16"} if run.bf16 else {"type": "OptimWrapper"})
    # the schedule
    schedule = config.param_scheduler
    schedule = schedule if isinstance(schedule, list | tuple) else [schedule]
    for part in schedule:
        # a warm-up of a training in epochs may itself be in steps
        factor = steps / (published or epochs * (1 if part.get("by_epoch", True) else COCO_STEPS))
        part.pop("convert_to_iter_based", None)
        part["by_epoch"] = False
        part.update({key: round(part[key] * factor) for key in ("begin", "end") if key in part})
        part.update({key: scaled(part[key], factor) for key in ("milestones", "T_max") if key in part})
        part.update({"eta_min": part["eta_min"] * lower} if "eta_min" in part else {})
    # a warm-up shorter than a step is none
    config.param_scheduler = [part for part in schedule if part.get("begin", 0) < part.get("end", steps)]
