"""How much arithmetic the models are: multiplications and additions of matrices and convolutions, FLOP."""

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from unseg_lib.method.generator import Generator
from unseg_lib.method.prompts import Prompts
from unseg_lib.method.sam import SamLayout, build_image_encoder, encode


def generator_flop(layout: SamLayout) -> int:
    """FLOP of the noise for one picture with a mask prompt, as segment-anything computes it.

    The encoder is counted on tensors without memory; the rest runs, because a prompt's values decide its way.
    """
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        embedding, early = encode(build_image_encoder(layout), _pictures(layout))
    found = torch.zeros(embedding.shape), torch.zeros(early.shape)
    with torch.random.fork_rng(), torch.no_grad():
        generator = Generator(replace(layout, depth=0, global_blocks=()))
        generator.encode = lambda encoder, x: found
        with FlopCounterMode(display=False) as rest:
            generator(torch.zeros(1, 3, 1, 1), _prompts(layout))
    return counter.get_total_flops() + rest.get_total_flops()


def _pictures(layout: SamLayout) -> torch.Tensor:
    return torch.empty(1, 3, layout.image_size, layout.image_size)


def _prompts(layout: SamLayout) -> Prompts:
    masks, use = torch.zeros(1, 1, layout.grid, layout.grid), torch.tensor([[False, False, True]])
    return Prompts(torch.zeros(1, 4), torch.zeros(1, 1, 2), masks, use)
