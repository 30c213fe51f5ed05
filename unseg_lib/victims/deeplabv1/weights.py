"""First weights of WideResNet-38 from a file: MXNet's as published, or a state dict.

The published file is `ilsvrc-cls_rna-a1_cls1000_ep-0001.params` of github.com/itijyou/ademxapp, trained on ImageNet;
its classifier is left out. In a state dict the arrays may have any of the names in `names_of`.
"""

import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unseg_lib.errors import UnsegError
from unseg_lib.victims.weights import load_weights, read_tensors

MXNET = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def load_deeplab(model: nn.Module, path: Path) -> None:
    """Put the weights of a whole DeepLabV1, or of its encoder alone, into a model, in place."""
    found = read_weights(path)
    if "head.bias" in found:
        hint = ", or the encoder's weights alone"
        load_weights(model, found, path, "this DeepLabV1", head="head.bias", hint=hint)
    else:
        load_encoder(model.encoder, found, path)


def load_encoder(encoder: nn.Module, found: dict[str, Tensor], path: Path) -> None:
    """Put the weights found in a file into an encoder, in place; `path` is for errors."""
    chosen = encoder.state_dict()
    for name in chosen:
        if not name.endswith("num_batches_tracked"):
            there = next((other for other in names_of(name) if other in found), None)
            if there is None:
                expected = f"weights of WideResNet-38 in {path}, found no {names_of(name)[1]}"
                raise UnsegError(f"Expected {expected}; take its file.")
            chosen[name] = found[there]
    load_weights(encoder, chosen, path, "this WideResNet-38")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The arrays in a .params, .safetensors or PyTorch file by name."""
    if path.suffix == ".params":
        return {name.partition(":")[2]: value for name, value in read_params(path).items()}  # "arg:" and "aux:"
    return {name.removeprefix("module."): value for name, value in read_tensors(path).items()}


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


def read_params(path: Path) -> dict[str, Tensor]:
    """The arrays of a .params file by name, e.g. "arg:conv1a_weight"."""
    reader = _Reader(path)
    if reader.number("Q") != MAGIC:
        raise reader.error("its first bytes are others")
    reader.number("Q")
    arrays = [_array(reader) for _ in range(reader.number("Q"))]
    names = [reader.take(reader.number("Q")).decode("utf-8", "replace") for _ in range(reader.number("Q"))]
    if len(names) != len(arrays) or len(set(names)) < len(names):
        raise reader.error(f"it has {len(arrays)} arrays and {len(set(names))} names")
    return dict(zip(names, arrays))


class _Reader:
    """The bytes of a file, one after the other."""

    def __init__(self, path: Path):
        self.path, self.place, self.content = path, 0, memoryview(path.read_bytes())

    def take(self, length: int) -> bytes:
        if not 0 <= length <= len(self.content) - self.place:
            raise self.error(f"it ends after {len(self.content)} bytes")
        self.place += length
        return bytes(self.content[self.place - length : self.place])

    def number(self, kind: str) -> int:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]

    def error(self, reason: str) -> UnsegError:
        return UnsegError(f"Expected weights that MXNet has saved in {self.path}, but {reason}; download it again.")


def _array(reader: _Reader) -> Tensor:
    dimensions, wide = reader.number("I"), False
    if dimensions in VERSIONS:
        if VERSIONS[dimensions] and reader.number("i") != 0:
            raise reader.error("an array in it is sparse")
        dimensions, wide = reader.number("I"), True
    if dimensions > 32:
        raise reader.error(f"an array in it has {dimensions} dimensions")
    shape = [reader.number("q" if wide else "I") for _ in range(dimensions)]
    if not shape:
        return torch.zeros(0)  # MXNet's "no array": nothing follows
    reader.take(8)  # where it was computed
    kind = reader.number("i")
    if kind not in TYPES or min(shape) < 0:
        raise reader.error(f"an array in it has type {kind} and shape {shape}")
    values = np.frombuffer(reader.take(math.prod(shape) * np.dtype(TYPES[kind]).itemsize), TYPES[kind])
    return torch.from_numpy(values.reshape(shape).copy())
