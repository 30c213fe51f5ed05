"""First weights of WideResNet-38 from a file: MXNet's as published, or a state dict of PyTorch.

The published file is `ilsvrc-cls_rna-a1_cls1000_ep-0001.params` of github.com/itijyou/ademxapp, trained on ImageNet;
its classifier is left out. In a state dict the arrays may have our names, the published ones, or those that the
weakly supervised community's conversion of that file has ("b2_1.conv_branch2a.weight").
"""

import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn

from unseg_lib.errors import UnsegError

MXNET = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def load_weights(model: nn.Module, path: Path) -> None:
    """Put the weights of a whole DeepLabV1, or of its encoder alone, into a model, in place."""
    found = read_weights(path)
    if "head.bias" not in found:
        load_encoder(model.encoder, found, path)
        return
    if len(found["head.bias"]) != len(model.head.bias):
        raise UnsegError(
            f"Expected a DeepLabV1 of {len(model.head.bias)} classes in {path}, found one of "
            f"{len(found['head.bias'])}; take one for this data set, or the encoder's weights alone."
        )
    try:
        model.load_state_dict(found)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UnsegError(
            f"Expected this DeepLabV1 in {path}, found another ({reason}); is it of this width?"
        ) from error


def load_encoder(encoder: nn.Module, found: dict[str, torch.Tensor], path: Path) -> None:
    """Put the weights found in a file into an encoder, in place; `path` is for errors."""
    wanted = {name: value for name, value in encoder.state_dict().items() if not name.endswith("num_batches_tracked")}
    chosen = {}
    for name, value in wanted.items():
        name_there = next((other for other in names_of(name) if other in found), None)
        if name_there is None:
            raise UnsegError(
                f"Expected weights of WideResNet-38 in {path}, found no {names_of(name)[1]}; take its file."
            )
        if found[name_there].shape != value.shape:
            shapes = f"{tuple(value.shape)} in {path}, found {tuple(found[name_there].shape)}"
            raise UnsegError(f"Expected {name_there} of shape {shapes}; is it of another width?")
        chosen[name] = found[name_there]
    encoder.load_state_dict(chosen, strict=False)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The arrays in a .params, .safetensors or PyTorch file by name; of a checkpoint those of its "state_dict"."""
    if path.suffix == ".params":
        return {name.partition(":")[2]: value for name, value in read_params(path).items()}  # "arg:" and "aux:"
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file as load
    else:
        load = _load_torch
    try:
        found = load(path)
    except Exception as error:  # pickles of anything but tensors, broken archives, missing rights, ...
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnsegError(
            f"Expected a state dict of tensors in {path}, found something else ({line}); save model.state_dict() alone."
        ) from error
    found = found.get("state_dict", found.get("model", found)) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise UnsegError(f"Expected a state dict of tensors in {path}, found something else; save it alone.")
    return {name.removeprefix("module."): value for name, value in found.items()}


def _load_torch(path: Path) -> object:
    return torch.load(path, map_location="cpu", weights_only=True)


def names_of(name: str) -> tuple[str, ...]:
    """What one of our encoder's arrays may be called in a file: ours, the published name, the community's.

    "units.2b1.convs.0.weight" is "res2b1_branch2a_weight" and "b2_1.conv_branch2a.weight".
    """
    kind = name.rpartition(".")[2]
    if name.startswith("stem"):
        return name, "conv1a_weight", "conv1a.weight", f"encoder.{name}"
    if name.startswith("norm"):
        return name, f"bn7_{MXNET[kind]}", f"bn7.{kind}", f"encoder.{name}"
    unit, part, number = re.fullmatch(r"units\.(\w+)\.(norms|convs|shortcut)(?:\.(\d))?\.\w+", name).groups()
    branch = "branch1" if part == "shortcut" else f"branch2{f'b{number}' if int(number) else 'a'}"
    is_norm = part == "norms"
    published = f"{'bn' if is_norm else 'res'}{unit}_{branch}_{MXNET[kind] if is_norm else kind}"
    level, later = unit[0], unit[2:]
    # the community numbers the units of levels 2 to 5 from 0 and has one unit in 6 and 7
    block = f"b{level}_{later}" if later else f"b{level}"
    return name, published, f"{block}.{'bn' if is_norm else 'conv'}_{branch}.{kind}", f"encoder.{name}"


MAGIC = 0x112
VERSIONS = {0xF993FAC8: False, 0xF993FAC9: True, 0xF993FACA: True}  # -> whether a storage type follows
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}


def read_params(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of a .params file by name, e.g. "arg:conv1a_weight"."""
    reader = _Reader(path)
    if reader.number("Q") != MAGIC:
        raise reader.error("its first bytes are others")
    reader.number("Q")
    arrays = [_array(reader) for _ in range(reader.count())]
    names = [reader.take(reader.count()).decode("utf-8", "replace") for _ in range(reader.count())]
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

    def count(self) -> int:
        """How many things follow, each of a byte at least."""
        found = self.number("Q")
        if found > len(self.content) - self.place:
            raise self.error(f"it ends after {len(self.content)} bytes")
        return found

    def error(self, reason: str) -> UnsegError:
        return UnsegError(f"Expected weights that MXNet has saved in {self.path}, but {reason}; download it again.")


def _array(reader: _Reader) -> torch.Tensor:
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
