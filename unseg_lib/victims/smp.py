"""Victims of segmentation-models-pytorch: any of its architectures on any of its encoders.

"unet-resnet18"; encoders of timm as smp writes them: "unetplusplus-tu-regnetx_032". The encoder "lite0" is
EfficientNet-Lite0, whose ImageNet weights come with the kit and need no network.
"""

import torch
from torch import nn

from unseg_lib.errors import UnsegError, first_line, pick
from unseg_lib.images import MEAN, STD
from unseg_lib.method import LITE0, load_lite0, renormalise
from unseg_lib.pretrained import hint
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import fit, own_randomness


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    return fit(run, build(run.name, len(run.train.classes), run.size, run.init, run.seed))


def build(name: str, classes: int, size: tuple[int, int], init: str, seed: int) -> nn.Module:
    """A model float `(N,3,H,W)` -> logits `(N,C,H,W)` with seeded first weights, the encoder's from `init`."""
    import segmentation_models_pytorch as smp
    import timm

    architecture, encoder = parse(name)
    lite0 = encoder == "lite0"
    # timm's encoders have their weights' name in their own, and lite0's are here
    weights = None if init == "random" or lite0 else True if encoder.startswith("tu-") else init
    with own_randomness("cpu", seed, "first weights"):
        try:
            model = smp.create_model(architecture, f"tu-{LITE0}" if lite0 else encoder, weights, classes=classes)
        except Exception as error:  # hub, network, file and lookup errors of four libraries
            reason = f"no {init} weights could be loaded; {hint(name)}"
            reason = reason if weights else "the architecture cannot use this encoder"
            raise UnsegError(f"Could not build the victim {name}: {reason} ({first_line(error)}).") from error
    if lite0:
        renormalise(model.encoder)
        if init == "imagenet":
            load_lite0(model.encoder.model)
    elif weights is True:  # timm says what its weights expect
        own = timm.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if (own.mean, own.std) != (MEAN, STD):
            renormalise(model.encoder, *([255 * value for value in values] for values in (own.mean, own.std)))
    # one look at an empty image: not every model can take every size
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, *size))
    except (RuntimeError, ValueError, AssertionError) as error:
        found = f"{size[0]}x{size[1]} ({first_line(error)})"
        raise UnsegError(f"Expected an image size that {name} can take, found {found}.") from error
    return model


def parse(name: str) -> tuple[str, str]:
    """Split "unet-resnet18" into architecture and encoder, both known."""
    import segmentation_models_pytorch as smp
    import timm

    architecture, _, encoder = name.partition("-")
    encoders = ["lite0", *smp.encoders.get_encoder_names(), *(f"tu-{model}" for model in timm.list_models())]
    pick(smp.MODEL_ARCHITECTURES_MAPPING, architecture, "architecture (of architecture-encoder)")
    pick(dict.fromkeys(encoders), encoder, "encoder (smp's, or timm's with tu- in front)")
    return architecture, encoder
