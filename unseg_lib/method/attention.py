"""SAM's image encoder with fused attention: the numbers of `sam.encode` to rounding, without its large matrices.

segment-anything writes the attention weights of all heads to memory several times (800 MB each for a global block of
ViT-B in fp32). Here they never get there, a slice of the queries at a time. On a GPU by `scaled_dot_product_attention`,
for which only the bias for decomposed relative positions is made. On a processor that kernel takes up to twice as long
once it has a bias, so the formula is written out, where no gradient is wanted, and the scores of a slice fit the cache.
Works on the same modules and weights.
"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import nn
from torch.nn import functional as F

from unseg_lib.method.sam import encode

# of the scores, or of the bias, that are made at once: what a processor's cache holds, what a GPU keeps busy with
SLICE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28, "mps": 1 << 27}


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

    def run(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
        x = x.contiguous()  # patches come with their channels far apart, and every block would keep it so
        return after(block, x, _attention(block, before(block, x), known[block]))

    return encode(encoder, x, run)


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
    to_rows = torch.einsum("nbhwd,hkd->nbhwk", q, down)
    to_columns = torch.einsum("nbhwd,wkd->nbhwk", q, across)
    in_cache = q.device.type == "cpu" and not torch.is_grad_enabled()
    return (_in_cache if in_cache else _fused)(q, k, v, to_rows, to_columns)


def _fused(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *bias_to: torch.Tensor) -> torch.Tensor:
    """By torch's kernel, which is given the bias of some queries at a time."""
    entries, heads, h, w, _ = q.shape
    (to_rows, to_columns), k, v, parts = bias_to, k.flatten(2, 3), v.flatten(2, 3), []
    for some, rows in slices(entries, h, heads * w * h * w * q.element_size(), q.device.type):
        bias = to_rows[some, :, rows, :, :, None] + to_columns[some, :, rows, :, None, :]
        part = F.scaled_dot_product_attention(
            q[some, :, rows].flatten(2, 3), k[some], v[some], attn_mask=bias.flatten(4, 5).flatten(2, 3).to(q.dtype)
        )
        parts.append(part.transpose(1, 2).reshape(-1, w, part.shape[1] * part.shape[3]))  # rows below rows
    return torch.cat(parts).unflatten(0, (entries, h))


def _in_cache(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *bias_to: torch.Tensor) -> torch.Tensor:
    """By the formula, for so many queries at a time that their scores never leave the cache.

    Bias and softmax are in fp32, whatever the products are in: in bf16 they would cost digits, and no less time.
    """
    n, heads, h, w, d = q.shape
    q, k, v, to_rows, to_columns = (part.flatten(0, 1) for part in (q * d**-0.5, k, v, *bias_to))  # (N*heads,H,W,-)
    k, v, seen = k.flatten(1, 2).mT.contiguous(), v.flatten(1, 2), torch.empty_like(q)
    for some, rows in slices(n * heads, h, w * h * w * 4, "cpu"):
        scores = (q[some, rows].flatten(1, 2) @ k[some]).float().unflatten(1, (-1, w)).unflatten(3, (h, w))
        scores += to_columns[some, rows, :, None, :]
        scores += to_rows[some, rows, :, :, None]
        weights = scores.flatten(3).softmax(-1).to(v.dtype)
        seen[some, rows] = (weights.flatten(1, 2) @ v[some]).unflatten(1, (-1, w))
    return seen.unflatten(0, (n, heads)).permute(0, 2, 3, 1, 4).flatten(3)


def slices(entries: int, rows: int, row_bytes: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Which entries and which of their rows to work on at once, so that a row's `row_bytes` fit `SLICE_BYTES`."""
    fit = max(1, SLICE_BYTES[device] // row_bytes)
    for first in range(0, entries, max(1, fit // rows)):
        for row in range(0, rows, min(fit, rows)):
            yield slice(first, first + max(1, fit // rows)), slice(row, row + min(fit, rows))
