"""SAM's parts from segment-anything, in any size, and the two passes that UnSeg takes through them.

`encode` also returns the early feature (SAM-HQ's change); `encode_fused` does so faster, to rounding; `decoder_trunk`
runs the two-way transformer with extra tokens, each image with its own prompt.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unseg_lib.images import MEAN, STD

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class SamLayout:
    """The numbers that fix a SAM: sizes in pixels, widths in channels."""

    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window: int = 14
    width: int = 256
    decoder_heads: int = 8
    decoder_mlp: int = 2048

    # sides of the token grid, and of the grid of masks, prompt masks and noise
    tokens = property(lambda self: self.image_size // self.patch_size)
    grid = property(lambda self: 4 * self.tokens)


LAYOUTS = {
    "vit_b": SamLayout(),
    "vit_l": SamLayout(embed_dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamLayout(embed_dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    # for training from scratch on a CPU: 16 x 16 tokens, noise of 64 x 64 cells
    "small": SamLayout(128, 8, 128, 3, 4, (1,), 8, 64, 4, 256),
    "tiny": SamLayout(32, 4, 32, 2, 2, (1,), 4, 32, 2, 64),
}


def build_image_encoder(layout: SamLayout) -> ImageEncoderViT:
    sizes = dict(embed_dim=layout.embed_dim, depth=layout.depth, num_heads=layout.heads, out_chans=layout.width)
    windows = dict(window_size=layout.window, global_attn_indexes=layout.global_blocks, use_rel_pos=True)
    norm = partial(nn.LayerNorm, eps=1e-6)
    return ImageEncoderViT(layout.image_size, layout.patch_size, norm_layer=norm, **sizes, **windows)


def build_prompt_encoder(layout: SamLayout) -> PromptEncoder:
    tokens, pixels = (layout.tokens, layout.tokens), (layout.image_size, layout.image_size)
    return PromptEncoder(layout.width, image_embedding_size=tokens, input_image_size=pixels, mask_in_chans=16)


def build_mask_decoder(layout: SamLayout, num_multimask_outputs: int = 3) -> MaskDecoder:
    c = layout.width
    two_way = TwoWayTransformer(2, c, mlp_dim=layout.decoder_mlp, num_heads=layout.decoder_heads)
    heads = dict(num_multimask_outputs=num_multimask_outputs, iou_head_hidden_dim=c)
    return MaskDecoder(transformer_dim=c, transformer=two_way, **heads)


def normalise(x: Tensor) -> Tensor:
    """RGB in [0,1] `(N,3,H,W)` -> zero mean, unit variance on ImageNet."""
    mean, std = (x.new_tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    return (x - mean) / std


def encode(encoder: ImageEncoderViT, x: Tensor, run: Callable = nn.Module.__call__) -> Pair:
    """Run the image encoder on `(N,3,S,S)` in [0,1]; `run(block, x)` says how a block is run.

    Returns the embedding `(N,width,t,t)` and the early feature `(N,embed_dim,t,t)`: what the first global block gives.
    """
    x = encoder.patch_embed(normalise(x)) + encoder.pos_embed  # (N,t,t,embed_dim)
    early = None
    for block in encoder.blocks:
        x = run(block, x)
        if early is None and block.window_size == 0:
            early = x.permute(0, 3, 1, 2)
    return encoder.neck(x.permute(0, 3, 1, 2)), early


def decoder_trunk(
    decoder: MaskDecoder, prompt_encoder: PromptEncoder, embedding, tokens, prompts, position=None
) -> Pair:
    """Run the two-way transformer and the up-scaling for images with a prompt each.

    embedding `(N,width,t,t)`; tokens `(k,width)`, the output tokens that stand before the prompt's; prompts: `Prompts`
    of N images; position: the prompt encoder's `get_dense_pe()`, where it is known already.
    Returns the output tokens `(N,k,width)` and the up-scaled feature `(N,width/8,4t,4t)`.
    """
    position = prompt_encoder.get_dense_pe() if position is None else position
    outputs, features, order = [], [], []
    # images prompted by the same kinds go through together: the number of prompt tokens differs between kinds
    for rows, kinds in prompts.by_kind():
        sparse, dense = prompt_encoder(**kinds)
        n = len(rows)  # without any prompt, segment-anything answers for one image
        query = torch.cat([tokens.expand(n, -1, -1), sparse.expand(n, -1, -1)], dim=1)
        hs, image = decoder.transformer(embedding[rows] + dense, position.expand(n, -1, -1, -1), query)
        outputs.append(hs[:, : len(tokens)])
        features.append(image.transpose(1, 2).reshape(embedding[rows].shape))
        order.append(rows)
    # back to the order of the images
    back = torch.argsort(torch.cat(order))
    return torch.cat(outputs)[back], decoder.output_upscaling(torch.cat(features)[back])


# ---- fused attention ------------------------------------------------------------------------------------------------
# segment-anything writes the attention weights of all heads to memory several times (800 MB each for a global block of
# ViT-B in fp32). Here they never get there: a slice of the queries at a time goes to scaled_dot_product_attention, for
# which only the bias is made. A CPU's takes twice as long with a bias: there, where no gradient is wanted, the formula
# is written out, and the scores of a slice fit the cache.

# of the scores, or of the bias, that are made at once: what a processor's cache holds, what a GPU keeps busy with
SLICE_BYTES = {"cpu": 1 << 22, "cuda": 1 << 28, "mps": 1 << 27}


def encode_fused(encoder: ImageEncoderViT, x: Tensor, maps: list[Pair] | None = None, compiled: bool = False) -> Pair:
    """What `encode` returns, with gradients too.

    maps: `position_maps`, where the weights do not change. compiled: what surrounds the attention by torch.compile,
    once for all blocks; the attention itself is a loop that compiling would unroll.
    """
    before, after = (_compiled(_before), _compiled(_after)) if compiled else (_before, _after)
    known = dict(zip(encoder.blocks, maps or position_maps(encoder)))

    def run(block: nn.Module, x: Tensor) -> Tensor:
        x = x.contiguous()  # patches come with their channels far apart, and every block would keep it so
        return after(block, x, _attention(block, before(block, x), known[block]))

    return encode(encoder, x, run)


def encode_learning(encoder: ImageEncoderViT, x: Tensor, checkpointed: bool = False) -> Pair:
    """`encode` by the fastest way that still gives the gradients that are wanted."""
    learns = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in encoder.parameters()))
    if learns and checkpointed:
        return encode(encoder, x, partial(checkpoint, use_reentrant=False))
    if learns and x.device.type == "cpu":  # its fused attention knows no gradient of a bias
        return encode(encoder, x)
    with torch.set_grad_enabled(learns):  # not inference mode: what trains behind keeps these features
        return encode_fused(encoder, x)


def position_maps(encoder: ImageEncoderViT) -> list[Pair]:
    """Each block's relative positions of queries and keys, down `(H,H,d)` and across `(W,W,d)`."""
    side = encoder.pos_embed.shape[1]
    tables = [(b.window_size or side, (b.attn.rel_pos_h, b.attn.rel_pos_w)) for b in encoder.blocks]
    return [tuple(get_rel_pos(rows, rows, table) for table in pair) for rows, pair in tables]


_compiled = cache(partial(torch.compile, dynamic=False))


def _before(block: nn.Module, x: Tensor) -> Tensor:
    """Queries, keys and values `(N,H,W,3C)` of a block's input `(N,H,W,C)`."""
    return block.attn.qkv(block.norm1(x))


def _after(block: nn.Module, x: Tensor, seen: Tensor) -> Tensor:
    """A block's output, from its input and what its heads have seen."""
    x = x + block.attn.proj(seen)
    return x + block.mlp(block.norm2(x))


def _attention(block: nn.Module, qkv: Tensor, maps: Pair) -> Tensor:
    """What the heads of a block see, `(N,H,W,3C)` -> `(N,H,W,C)`, all of them or within windows."""
    window, (n, h, w, _) = block.window_size, qkv.shape
    if window:
        # segment-anything fills up the last windows with zeros before the linear layer, which makes them its bias
        down, across, bias = -h % window, -w % window, block.attn.qkv.bias.to(qkv.dtype)
        qkv = torch.cat([qkv, bias.expand(n, h, across, -1)], dim=2) if across else qkv
        qkv = torch.cat([qkv, bias.expand(n, down, w + across, -1)], dim=1) if down else qkv
        qkv, padded = window_partition(qkv, window)
    q, k, v = qkv.unflatten(-1, (3, block.attn.num_heads, -1)).permute(3, 0, 4, 1, 2, 5).unbind(0)  # (N,heads,H,W,d)
    seen = attend(q, k, v, *maps)
    return window_unpartition(seen, window, padded, (h, w)) if window else seen


def attend(q: Tensor, k: Tensor, v: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """softmax(q k / sqrt(d) + bias) v for `(N,heads,H,W,d)` and the `position_maps` -> `(N,H,W,heads*d)`.

    bias of query (y,x) and key (v,u) = q . down[y,v] + q . across[x,u] (decomposed relative positions, MViTv2).
    """
    to_rows = torch.einsum("nbhwd,hkd->nbhwk", q, down)
    to_columns = torch.einsum("nbhwd,wkd->nbhwk", q, across)
    in_cache = q.device.type == "cpu" and not torch.is_grad_enabled()
    return (_in_cache if in_cache else _by_kernel)(q, k, v, to_rows, to_columns)


def _by_kernel(q: Tensor, k: Tensor, v: Tensor, *bias_to: Tensor) -> Tensor:
    """By torch's kernel, which is given the bias of some queries at a time."""
    entries, heads, h, w, _ = q.shape
    (to_rows, to_columns), k, v, parts = bias_to, k.flatten(2, 3), v.flatten(2, 3), []
    for some, rows in _slices(entries, h, heads * w * h * w * q.element_size(), q.device.type):
        bias = to_rows[some, :, rows, :, :, None] + to_columns[some, :, rows, :, None, :]
        bias, queries = bias.flatten(4, 5).flatten(2, 3).to(q.dtype), q[some, :, rows].flatten(2, 3)
        part = F.scaled_dot_product_attention(queries, k[some], v[some], attn_mask=bias)
        parts.append(part.transpose(1, 2).reshape(-1, w, part.shape[1] * part.shape[3]))  # rows below rows
    return torch.cat(parts).unflatten(0, (entries, h))


def _in_cache(q: Tensor, k: Tensor, v: Tensor, *bias_to: Tensor) -> Tensor:
    """By the formula, for so many queries at a time that their scores stay in the cache; bias and softmax in fp32."""
    n, heads, h, w, d = q.shape
    q, k, v, to_rows, to_columns = (part.flatten(0, 1) for part in (q * d**-0.5, k, v, *bias_to))  # (N*heads,H,W,-)
    k, v, seen = k.flatten(1, 2).mT.contiguous(), v.flatten(1, 2), torch.empty_like(q)
    for some, rows in _slices(n * heads, h, w * h * w * 4, "cpu"):
        scores = (q[some, rows].flatten(1, 2) @ k[some]).float().unflatten(1, (-1, w)).unflatten(3, (h, w))
        scores += to_columns[some, rows, :, None, :]
        scores += to_rows[some, rows, :, :, None]
        weights = scores.flatten(3).softmax(-1).to(v.dtype)
        seen[some, rows] = (weights.flatten(1, 2) @ v[some]).unflatten(1, (-1, w))
    return seen.unflatten(0, (n, heads)).permute(0, 2, 3, 1, 4).flatten(3)


def _slices(entries: int, rows: int, row_bytes: int, device: str) -> Iterator[tuple[slice, slice]]:
    """Which entries and which of their rows to work on at once, rows of `row_bytes` within `SLICE_BYTES`."""
    fit = max(1, SLICE_BYTES[device] // row_bytes)
    many, some = max(1, fit // rows), min(fit, rows)
    for first in range(0, entries, many):
        for row in range(0, rows, some):
            yield slice(first, first + many), slice(row, row + some)
