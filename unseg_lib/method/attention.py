"""SAM's image encoder with fused attention: the numbers of `sam.encode` to rounding, without its large matrices.

segment-anything writes the attention weights of all heads to memory several times (800 MB each for a global block of
ViT-B in fp32). Here `scaled_dot_product_attention` never holds them; only the bias for decomposed relative positions is
made, for a slice of the queries at a time. Works on the same modules and weights.
"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import nn
from torch.nn import functional as F

from unseg_lib.method.sam import encode

# of the bias that is made at once: what a processor's last cache holds, what a GPU keeps busy with
SLICE_BYTES = {"cpu": 1 << 24, "cuda": 1 << 28, "mps": 1 << 27}


Maps = tuple[torch.Tensor, torch.Tensor]  # relative positions of queries and keys, down `(H,H,d)` and across `(W,W,d)`


def encode_fused(
    encoder: ImageEncoderViT, x: torch.Tensor, maps: list[Maps] | None = None, compiled: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `sam.encode` returns for `(N,3,S,S)` in [0,1]: embedding and early feature; with gradients too.

    maps: `position_maps`, where the weights do not change. compiled: what surrounds the attention by torch.compile;
    all blocks share the result. The attention itself is a loop over slices that compiling would unroll.
    """
    before, after = (_compiled(_before), _compiled(_after)) if compiled else (_before, _after)
    known = dict(zip(encoder.blocks, maps or position_maps(encoder)))
    return encode(encoder, x, lambda block, x: after(block, x, _attention(block, before(block, x), known[block])))


def _before(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Queries, keys and values `(N,H,W,3C)` of a block's input `(N,H,W,C)`."""
    return block.attn.qkv(block.norm1(x))


def _after(block: nn.Module, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    """A block's output, from its input and what its heads have seen."""
    x = x + block.attn.proj(seen)
    return x + block.mlp(block.norm2(x))


@cache
def _compiled(part: Callable) -> Callable:
    return torch.compile(part, dynamic=False)


def _attention(block: nn.Module, qkv: torch.Tensor, maps: Maps) -> torch.Tensor:
    """What the heads of a block see, `(N,H,W,3C)` -> `(N,H,W,C)`, all of them or within windows.

    segment-anything fills up the last windows with zeros before the linear layer, which turns them into its bias: that
    is put in here, and neither the rim nor what attention says of it goes through a linear layer.
    """
    window, size = block.window_size, tuple(qkv.shape[1:3])
    if window:
        qkv, padded = _windows(qkv, window, block.attn.qkv.bias)
    q, k, v = qkv.unflatten(-1, (3, block.attn.num_heads, -1)).permute(3, 0, 4, 1, 2, 5).unbind(0)  # (N,heads,H,W,d)
    seen = attend(q, k, v, *maps)
    return window_unpartition(seen, window, padded, size) if window else seen


def position_maps(encoder: ImageEncoderViT) -> list[Maps]:
    """What each block's table of relative positions says of every pair of rows, and of columns."""
    height, width = encoder.pos_embed.shape[1:3]
    sides = [(block.window_size or height, block.window_size or width) for block in encoder.blocks]
    tables = [(block.attn.rel_pos_h, block.attn.rel_pos_w) for block in encoder.blocks]
    return [(get_rel_pos(h, h, down), get_rel_pos(w, w, across)) for (h, w), (down, across) in zip(sides, tables)]


def _windows(qkv: torch.Tensor, window: int, bias: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """Cut `(N,H,W,3C)` into windows `(M,window,window,3C)`; what is missing in the last ones is `bias`."""
    n, h, w, _ = qkv.shape
    down, across = -h % window, -w % window
    if down or across:
        bias = bias.to(qkv.dtype)
        qkv = torch.cat([qkv, bias.expand(n, h, across, -1)], dim=2)
        qkv = torch.cat([qkv, bias.expand(n, down, w + across, -1)], dim=1)
    return window_partition(qkv, window)


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """softmax(q k / sqrt(d) + bias) v for `(N,heads,H,W,d)` and the `position_maps` -> `(N,H,W,heads*d)`.

    bias of query (y,x) and key (v,u) = q . down[y,v] + q . across[x,u] (decomposed relative positions, MViTv2).
    """
    h, w = q.shape[2:4]
    to_rows = torch.einsum("nbhwd,hkd->nbhwk", q, down)
    to_columns = torch.einsum("nbhwd,wkd->nbhwk", q, across)
    k, v, parts = k.flatten(2, 3), v.flatten(2, 3), []
    for some, rows in slices(q):
        bias = to_rows[some, :, rows, :, :, None] + to_columns[some, :, rows, :, None, :]
        part = F.scaled_dot_product_attention(
            q[some, :, rows].flatten(2, 3), k[some], v[some], attn_mask=bias.flatten(4, 5).flatten(2, 3).to(q.dtype)
        )
        parts.append(part.transpose(1, 2).reshape(-1, w, part.shape[1] * part.shape[3]))  # rows below rows
    return torch.cat(parts).unflatten(0, (len(q), h))


def slices(q: torch.Tensor) -> Iterator[tuple[slice, slice]]:
    """Which entries and which of their rows to work on at once, so that the bias for them fits `SLICE_BYTES`."""
    n, heads, h, w, _ = q.shape
    rows = max(1, SLICE_BYTES[q.device.type] // (heads * w * h * w * q.element_size()))
    for first in range(0, n, max(1, rows // h)):
        for row in range(0, h, min(rows, h)):
            yield slice(first, first + max(1, rows // h)), slice(row, row + min(rows, h))
