"""How much arithmetic the models are: multiplications and additions of matrices and convolutions, FLOP."""

from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from unseg_lib.method import Generator, Prompts, SamLayout, build_image_encoder, encode

# torch counts its attention on GPUs alone; the shapes are of queries, keys and values, after that of the gradient
ON_PROCESSORS = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4])
    ),
}


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention, forwards and backwards, in what it surrounds."""
    return FlopCounterMode(display=False, custom_mapping=ON_PROCESSORS)


def generator_flop(layout: SamLayout) -> int:
    """FLOP of the noise for one image with a mask prompt, as segment-anything computes it.

    The encoder is counted on tensors without memory; the rest runs, because a prompt's values decide its way.
    """
    with torch.device("meta"), torch.no_grad(), flop_counter() as counter:
        embedding, early = encode(build_image_encoder(layout), _images(layout))
    found = torch.zeros(embedding.shape), torch.zeros(early.shape)
    with torch.random.fork_rng(), torch.no_grad():
        generator = Generator(replace(layout, depth=0, global_blocks=()))
        generator.encode = lambda encoder, x: found
        with flop_counter() as rest:
            generator(torch.zeros(1, 3, 1, 1), _prompts(layout))
    return counter.get_total_flops() + rest.get_total_flops()


def _images(layout: SamLayout) -> torch.Tensor:
    return torch.empty(1, 3, layout.image_size, layout.image_size)


def _prompts(layout: SamLayout) -> Prompts:
    masks, use = torch.zeros(1, 1, layout.grid, layout.grid), torch.tensor([[False, False, True]])
    return Prompts(torch.zeros(1, 4), torch.zeros(1, 1, 2), masks, use)
