"""Victims of OpenMMLab's packages, mmsegmentation and, where it is installed, mmdetection: what these frozen packages
need beside today's torch, in one place.

mmcv-lite has no compiled operators (`mmcv._ext`), but importing the others' models looks them up: a stand-in
does, whose functions raise when called. Those that PyTorch or torchvision have take its place, on a GPU too.
"""

import importlib
import importlib.machinery
import importlib.util
import pickle
import sys
import time
import types
import warnings
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from unseg_lib.errors import UnsegError

LIBRARIES = {"mmseg": "mmsegmentation", "mmdet": "mmdetection"}  # package -> name


def import_yapf() -> types.ModuleType | None:
    """mmengine imports it, and its first use writes a cache, which another process may find half-written: try again."""
    for _ in range(5):
        with suppress(EOFError, pickle.UnpicklingError):
            return importlib.import_module("yapf")
        time.sleep(1)


import_yapf()  # before any module of this package imports mmengine


def import_library(package: str) -> None:
    """Import mmseg or mmdet with its models, transforms and schedulers registered (7 s the first time)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their deprecations, which nobody will mend
        replace_compiled_operators()
        for part in ("", ".datasets", ".engine", ".models"):
            importlib.import_module(package + part)
        from mmengine.logging import MMLogger
        from mmengine.registry import init_default_scope

        init_default_scope(package)  # where configs' bare names are looked up
        MMLogger.get_instance("unseg", log_level="ERROR")  # else every weight's first value is announced


def replace_compiled_operators() -> None:
    """Where mmcv has been installed without `mmcv._ext`, put a module in its place, and send deformable attention to
    mmcv's own PyTorch body and the focal loss to torchvision's, on every device.
    """
    spec = importlib.util.find_spec("mmcv._ext")
    if spec and spec.loader:
        return  # compiled
    if not spec:
        module = types.ModuleType("mmcv._ext", "Stand-in: every function raises when called.")
        module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None)
        module.__getattr__ = _missing_operator
        module.nms = nms
        sys.modules["mmcv._ext"] = module
    import mmcv.ops
    from mmcv.ops import multi_scale_deform_attn

    multi_scale_deform_attn.IS_CUDA_AVAILABLE = False  # else a GPU is asked for the compiled one
    mmcv.ops.sigmoid_focal_loss = sigmoid_focal_loss


def _missing_operator(name: str) -> Callable:
    if name.startswith("__"):
        raise AttributeError(name)

    def raise_when_called(*_arguments, **_options):
        mend = "choose a config without it or install the full mmcv 2.1.0"
        raise UnsegError(f"Expected mmcv's compiled operator '{name}', found mmcv-lite, which has none; {mend}.")

    return raise_when_called


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Non-maximum suppression, as mmcv's: kept numbers, int64; offset: 1 where the last pixel belongs to a box."""
    from torchvision.ops import nms

    return nms(boxes + boxes.new_tensor([0, 0, offset, offset]), scores, iou_threshold)


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, gamma: float, alpha: float, weight, reduction: str) -> Tensor:
    """The focal loss of logits `(N,C)` with labels `(N,)` from 0 to C = background, as mmcv's, in fp32."""
    from torchvision.ops import sigmoid_focal_loss

    classes = logits.shape[1]
    target = torch.nn.functional.one_hot(labels, classes + 1)[:, :classes].float()
    return sigmoid_focal_loss(logits.float(), target, alpha, gamma, reduction)


class Ignored:
    """Stands for what a checkpoint of OpenMMLab holds beside tensors: its histories of losses, in numpy."""

    NAMES = ("mmengine.logging.history_buffer.HistoryBuffer", "builtins.getattr", "numpy.ndarray", "numpy.dtype")
    # numpy's before version 2 and since
    NAMES += tuple(f"numpy.{mark}core.multiarray.{part}" for mark in ("", "_") for part in ("_reconstruct", "scalar"))

    def __init__(self, *_):
        pass

    def __setstate__(self, state: object) -> None:
        pass


# of all that torch may unpickle nothing is looked up or called
SAFE = [(Ignored, name) for name in Ignored.NAMES]
