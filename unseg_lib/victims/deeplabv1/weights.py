"""First weights of WideResNet-38 from a file: MXNet's as published, or a state dict.

The published file is `ilsvrc-cls_rna-a1_cls1000_ep-0001.params` of github.com/itijyou/ademxapp, trained on ImageNet;
its classifier is left out. In a state dict the arrays may have any of the names in `names_of`.
"""

import io
import math
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unseg_lib.errors import UnsegError
from unseg_lib.method import load_weights, read_foreign

MXNET = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def load_deeplab(model: nn.Module, path: Path) -> None:
    """Put the weights of a whole DeepLabV1, or of its encoder alone, into a model, in place."""
    found = read_params(path) if path.suffix == ".params" else read_foreign(path)
    if "head.bias" in found:
        hint = ", or the encoder's weights alone"
        return load_weights(model, found, path, "this DeepLabV1", head="head.bias", hint=hint)
    learnt = [name for name in model.encoder.state_dict() if not name.endswith("num_batches_tracked")]
    chosen = {name: found[there] for name in learnt for there in names_of(name)[::-1] if there in found}
    load_weights(model.encoder, chosen, path, "this WideResNet-38")


def names_of(name: str) -> tuple[str, ...]:
    """What "units.2b1.convs.0.weight" may be called in a file: that, as published "res2b1_branch2a_weight", in the
    weakly supervised community's conversion "b2_1.conv_branch2a.weight", or with "encoder." in front.
    """
    kind = name.rpartition(".")[2]
    if name.startswith("stem"):
        return name, "conv1a_weight", "conv1a.weight", f"encoder.{name}"
    if name.startswith("norm"):
        return name, f"bn7_{MXNET[kind]}", f"bn7.{kind}", f"encoder.{name}"
    unit, part, number = re.fullmatch(r"units\.(\w+)\.(norms|convs|shortcut)(?:\.(\d))?\.\w+", name).groups()
    branch = "branch1" if part == "shortcut" else f"branch2{f'b{number}' if int(number) else 'a'}"
    layer, published = ("bn", MXNET[kind]) if part == "norms" else ("res", kind)
    # the community numbers the units of levels 2 to 5 from 0 and has one unit in 6 and 7
    block = f"b{unit[0]}_{unit[2:]}".removesuffix("_")
    theirs = f"{block}.{layer.replace('res', 'conv')}_{branch}.{kind}"
    return name, f"{layer}{unit}_{branch}_{published}", theirs, f"encoder.{name}"


MAGIC = 0x112
VERSIONS = {0xF993FAC8: False, 0xF993FAC9: True, 0xF993FACA: True}  # -> whether a storage type follows
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
Take = Callable[[str], Any]  # one value of struct's format, from where the last one ended


def read_params(path: Path) -> dict[str, Tensor]:
    """The arrays of a .params file by name, without the "arg:" or "aux:" in front."""
    content = io.BytesIO(path.read_bytes())

    def take(kind: str) -> Any:
        return struct.unpack(f"<{kind}", content.read(struct.calcsize(f"<{kind}")))[0]

    try:
        if take("Q") != MAGIC:
            raise ValueError("its first bytes are others")
        take("Q")
        arrays = [_array(take) for _ in range(take("Q"))]
        names = [take(f"{take('Q')}s").decode("utf-8", "replace").partition(":")[2] for _ in range(take("Q"))]
        if len(names) != len(arrays) or len(set(names)) < len(names):
            raise ValueError(f"it has {len(arrays)} arrays and {len(set(names))} names")
    except (struct.error, ValueError) as error:
        reason = f"it ends after {path.stat().st_size} bytes" if isinstance(error, struct.error) else error
        found = f"Expected weights that MXNet has saved in {path}, but {reason}; download it again."
        raise UnsegError(found) from error
    return dict(zip(names, arrays))


def _array(take: Take) -> Tensor:
    dimensions, wide = take("I"), False
    if dimensions in VERSIONS:
        if VERSIONS[dimensions] and take("i") != 0:
            raise ValueError("an array in it is sparse")
        dimensions, wide = take("I"), True
    if dimensions > 32:
        raise ValueError(f"an array in it has {dimensions} dimensions")
    shape = [take("q" if wide else "I") for _ in range(dimensions)]
    if not shape:
        return torch.zeros(0)  # MXNet's "no array": nothing follows
    take("8s")  # where it was computed
    if (kind := take("i")) not in TYPES or min(shape) < 0:
        raise ValueError(f"an array in it has type {kind} and shape {shape}")
    size = math.prod(shape) * np.dtype(TYPES[kind]).itemsize
    return torch.from_numpy(np.frombuffer(take(f"{size}s"), TYPES[kind]).reshape(shape).copy())
