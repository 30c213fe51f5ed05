"""First weights from files of others, and how torchvision's ResNet becomes that of transformers."""

import re
from pathlib import Path

from torch import Tensor, nn

from unseg_lib.errors import UnsegError
from unseg_lib.method import load_weights, read_foreign


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The arrays of a .safetensors or PyTorch file by name; of a checkpoint those of its "model" or "state_dict"."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path) if Path(path).suffix == ".safetensors" else read_foreign(path)
    except (SafetensorError, OSError) as error:
        raise UnsegError(f"Expected weights in {path}, as safetensors, found something else ({error}).") from error
    found = found.get("state_dict", found) if isinstance(found, dict) else None
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise UnsegError(f"Expected a state dict of tensors in {path}, found something else; save it alone.")
    return {str(name).removeprefix("module."): value for name, value in found.items()}  # DataParallel's prefix


def load_resnet(backbone: nn.Module, found: dict[str, Tensor], path: str | Path) -> None:
    """Load torchvision's ResNet into the backbone of transformers, in place: they differ in names alone."""
    chosen = {}
    for key, value in found.items():
        parts = re.fullmatch(r"(?:layer(\d)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)", key)
        if parts:  # all but the classifier
            stage, block, kind, number, end = parts.groups()
            layer = "convolution" if kind == "conv" or (kind, number) == ("downsample.", "0") else "normalization"
            inner = "shortcut" if kind == "downsample." else f"layer.{int(number) - 1}"
            place = f"encoder.stages.{int(stage) - 1}.layers.{block}.{inner}" if stage else "embedder.embedder"
            chosen[f"{place}.{layer}.{end}"] = value
    load_weights(backbone, chosen, path, "this ResNet")
