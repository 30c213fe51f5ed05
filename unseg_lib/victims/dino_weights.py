"""First weights of a detector from a checkpoint that mmdetection wrote."""

import torch

from unseg_lib.errors import UnsegError
from unseg_lib.method import read_foreign
from unseg_lib.victims.openmmlab import compat as mm_compat

HEAD = "bbox_head.cls_branches.0.bias"  # as long as there are classes


def load_weights(model: torch.nn.Module, path: str) -> None:
    """Load all weights of the same config with the same number of classes; anything else is refused."""
    with torch.serialization.safe_globals(mm_compat.safe_globals()):
        found = read_foreign(path)
    found, needed = found.get("state_dict", found), model.state_dict()
    if HEAD in found and HEAD in needed and found[HEAD].shape != needed[HEAD].shape:
        raise UnsegError(
            f"Expected weights for {len(needed[HEAD])} classes in {path}, found {len(found[HEAD])}; take those of a "
            "model for this data set."
        )
    other = sorted(needed.keys() ^ found.keys()) or [k for k in needed if needed[k].shape != found[k].shape]
    if other:
        raise UnsegError(
            f"Expected the weights of this config in {path}, found {len(other)} that differ, the first is {other[0]}; "
            "take the same config and options."
        )
    model.load_state_dict(found)
