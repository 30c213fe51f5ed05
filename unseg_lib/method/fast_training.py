"""Make the bilevel training fast; opt-in, because the numbers then differ from those of a plain run by rounding.

What is there for both: decoded images in memory, and reading ahead in worker processes (`workers`).
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT
from torch.utils.checkpoint import checkpoint

from unseg_lib.method.attention import encode_fused
from unseg_lib.method.sam import encode


def accelerate(game, *, checkpointed: bool = False, compiled: bool = False) -> None:
    """Change the players of a `players.Game` in place, before the first step.

    Fused attention wherever no gradient is wanted (the frozen encoder, the idle generator), and on GPUs everywhere;
    one kernel for all parameters of an optimiser's step. checkpointed: blocks that learn keep no activations and run
    twice, for memory. compiled: the surrogate by torch.compile (once per size at which it sees images).
    """
    for name in game.players:
        player = game.bare(name)
        if hasattr(player, "encode"):
            player.encode = partial(encode_learning, checkpointed=checkpointed)
        for group in game.optimisers[name].param_groups:
            group.update(fused=True, foreach=False)
    if compiled:
        game.bare("surrogate").compile()


def encode_learning(
    encoder: ImageEncoderViT, x: torch.Tensor, checkpointed: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """`sam.encode` by the fastest way that still gives the gradients that are wanted."""
    learns = x.requires_grad or any(parameter.requires_grad for parameter in encoder.parameters())
    if not (learns and torch.is_grad_enabled()):
        with torch.no_grad():  # not inference mode: what trains behind keeps these features for its gradient
            return encode_fused(encoder, x)
    if x.device.type != "cpu" and not checkpointed:
        return encode_fused(encoder, x)
    # the processor's fused attention knows no gradient of a bias
    return encode(encoder, x, partial(checkpoint, use_reentrant=False)) if checkpointed else encode(encoder, x)


def ahead(items: Iterable) -> Iterator:
    """The same items, the next one made in a thread meanwhile."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item
