"""Make `import torchvision` work where its compiled operators cannot be loaded.

PyPI's torchvision is built against the CUDA torch. Beside a CPU-only torch its import dies with "operator
torchvision::nms does not exist", taking segment-anything, timm and segmentation-models-pytorch with it. Declaring the
two schemas that it looks up, with a plain PyTorch body for NMS, is enough. Where they load, nothing is changed.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # torch costs seconds; it is imported when torchvision is
    import torch

_library = None  # torch.library undoes its registrations when the object dies


def make_torchvision_importable() -> None:
    """Arrange for the first `import torchvision` to find what it needs; costs nothing until then."""
    if "torchvision" not in sys.modules and not any(isinstance(one, _Remedy) for one in sys.meta_path):
        sys.meta_path.insert(0, _Remedy())


class _Remedy(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it declares operators that cannot be loaded, and lifts torchvision's check of them."""

    def find_spec(self, name, path=None, target=None):
        if name != "torchvision":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and not _operators_load(spec.submodule_search_locations):
            _declare_operators()
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (run(module), setattr(module.extension, "_has_ops", lambda: True))
        return spec


def _operators_load(folders: list[str]) -> bool:
    """Whether torchvision's `_C.so` loads beside this torch."""
    import torch

    try:
        for folder in folders:
            torch.ops.load_library(f"{folder}/_C.so")
    except OSError:
        return False
    return True


def _declare_operators() -> None:
    global _library
    import torch

    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _library.impl("nms", _nms, "CompositeExplicitAutograd")


def _nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression: boxes `(N,4)` xyxy, scores `(N,)` -> kept indices, best first."""
    import torch
    from torchvision.ops import box_iou

    order, kept = scores.argsort(descending=True, stable=True), []
    while order.numel():
        best, order = order[0], order[1:]
        kept.append(best)
        order = order[box_iou(boxes[best][None], boxes[order])[0] <= iou_threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long, device=boxes.device)
