"""Keep the encoder's first weights: what never learns from the images cannot learn their noise.

Meant for init=imagenet; with init=random the victim learns on random features.
"""

import torch

from unseg_lib.defenses.defense import Defense
from unseg_lib.errors import UnsegError


def frozen_encoder(seed: int) -> Defense:
    """Only decoder and head are trained; the encoder also keeps the statistics of its batch normalisation."""
    return Defense(prepare=freeze)


def freeze(run, model: torch.nn.Module) -> torch.nn.Module:
    """`model` with an `encoder` that stays as it is, whatever mode the model is put into."""
    encoder = getattr(model, "encoder", None)
    if encoder is None:
        raise UnsegError(f"Expected a victim with an encoder for the defence frozen_encoder, found {run.name}.")
    encoder.requires_grad_(False)
    encoder.eval()
    encoder.train = lambda mode=True: encoder
    return model
