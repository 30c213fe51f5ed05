"""First weights of WideResNet-38 from a file: MXNet's as published, or a state dict of PyTorch.

The published file is `ilsvrc-cls_rna-a1_cls1000_ep-0001.params` of github.com/itijyou/ademxapp, trained on ImageNet;
its classifier is left out. In a state dict the arrays may have our names, the published ones, or those that the
weakly supervised community's conversion of that file has ("b2_1.conv_branch2a.weight").
"""

import re
from pathlib import Path

import torch

from unseg_lib.errors import UnsegError
from unseg_lib.victims.mxnet_params import read_params
from unseg_lib.victims.wideresnet38 import WideResNet38

MXNET = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def load_encoder(encoder: WideResNet38, found: dict[str, torch.Tensor], path: Path) -> None:
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
