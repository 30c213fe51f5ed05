"""LPIPS (Zhang et al., CVPR 2018): how far apart two images are to a network that knows images; 0 is equal.

AlexNet's weights do not come with the kit; the weights of the distance itself come with torchmetrics.
"""

from pathlib import Path

import numpy as np
import torch

from unseg_lib.errors import UnsegError
from unseg_lib.pretrained import WEIGHTS, located

SMALLEST = 32  # pixels a side, below which AlexNet has nothing left to look at


def lpips(original: np.ndarray, protected: np.ndarray, weights: str | Path) -> float:
    """The distance of two images of one size, both (H, W, 3) uint8; 0 for equal ones, about 0.5 for unlike ones.

    weights: the file of the record "alexnet", see `unseg weights list`.
    Raises `UnsegError` for other weights, two sizes, or less than 32 pixels a side.
    """
    if original.shape != protected.shape or min(original.shape[:2]) < SMALLEST:
        sizes = " and ".join(f"{x.shape[1]}x{x.shape[0]}" for x in (original, protected))
        size = f"one size for LPIPS, {SMALLEST} pixels a side at least"
        raise UnsegError(f"Expected two images of {size}, found {sizes}.")
    network = _network(Path(weights))
    pair = (torch.from_numpy(x / np.float32(255)).permute(2, 0, 1)[None] for x in (original, protected))
    with torch.inference_mode():
        return float(network(*pair, normalize=True))


def _network(weights: Path) -> torch.nn.Module:
    """The public metric of torchmetrics downloads AlexNet itself; the class behind it takes the file that is here."""
    from torchmetrics.functional.image.lpips import _LPIPS

    from unseg_lib.method import read_foreign

    weights, alexnet = located(weights), WEIGHTS["alexnet"]
    state = read_foreign(weights)
    if fault := alexnet.fault(weights):
        raise UnsegError(f"Expected {alexnet.title} in {weights}, found another file ({fault}); {alexnet.how()}.")
    with torch.random.fork_rng():  # construction draws first weights, which are then replaced
        network = _LPIPS(net="alex", pnet_rand=True)
    # "slice2.3.weight" there is "features.3.weight" here
    network.net.load_state_dict({key: state[f"features.{key.split('.', 1)[1]}"] for key in network.net.state_dict()})
    return network
