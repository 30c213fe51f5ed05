"""RSPrompter's network, with its query-based prompter (Chen et al., IEEE TGRS 2024), on segment-anything's parts.

image -> SAM's image encoder -> aggregated features of its blocks -> queries that look at them -> for every query
a class, and prompt tokens from which SAM's mask decoder draws its mask. Written from the paper, with the numbers of
its published configs; unlike those the prompter attends plainly and on one scale, where they have deformable
attention on three.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import nn
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.method import LAYOUTS as SAMS
from unseg_lib.method import SamLayout, build_image_encoder, build_mask_decoder, build_prompt_encoder, load_sam
from unseg_lib.victims.mask2former.model import check_layout
from unseg_lib.victims.sam_hq.model import upscaling
from unseg_lib.victims.training import own_randomness

HIDDEN = 32  # channels of the feature aggregator


@dataclass(frozen=True)
class Layout:
    """A SAM and its prompter, and what the training does its own way; the numbers published for NWPU VHR-10.

    every: of so many blocks of SAM's encoder one is aggregated. queries: 100 for WHU, 30 for SSDD. tokens: of
    SAM's prompt for a query. points: at which masks are compared. scale_low, scale_high: of random windows.
    draw_all: in training SAM draws every query and true objects go to what it drew, as in the paper; otherwise they
    go to what the prompter guessed, and SAM draws only what was chosen, in less than half the time.
    """

    sam: SamLayout
    every: int = 2
    width: int = 128
    heads: int = 8
    feedforward: int = 512
    encoder_layers: int = 3
    layers: int = 6
    queries: int = 70
    tokens: int = 5
    points: int = 12544
    scale_low: float = 0.1
    scale_high: float = 2.0
    draw_all: bool = True

    def __post_init__(self):
        check_layout(self, "RSPrompter", 4)


SMALL = {"every": 1, "heads": 4, "feedforward": 128, "encoder_layers": 1, "layers": 3, "points": 1024}
SMALL |= {"scale_low": 0.75, "scale_high": 1.25, "draw_all": False}

LAYOUTS = {
    "vit_b": Layout(SAMS["vit_b"]),
    "vit_l": Layout(SAMS["vit_l"]),
    "vit_h": Layout(SAMS["vit_h"]),
    # for processors and tests, from random weights
    "small": Layout(SAMS["small"], width=64, queries=50, **SMALL),
    "tiny": Layout(SAMS["tiny"], width=32, queries=10, **(SMALL | {"layers": 2})),
}


@dataclass
class Found:
    """What the network says of N images with Q queries; the names are those of transformers' Mask2Former.

    class_queries_logits `(N,Q,C+1)`, the last one "no object"; masks_queries_logits `(N,Q,h,w)`.
    """

    class_queries_logits: torch.Tensor
    masks_queries_logits: torch.Tensor


# of the prompter: classes (N,Q,C+1) and guessed masks (N,Q,4h,4w) before every layer and after the last
Guesses = list[tuple[torch.Tensor, torch.Tensor]]


def build(layout: Layout, classes: int, size: tuple[int, int], init: str, seed: int) -> "RSPrompter":
    """The network for images of `size` with seeded first weights, or those of SAM in the file that `init` names.

    SAM's image encoder with weights from a file stays as it is, and only the rest learns, as published; with
    init=random it learns too, for what nobody has trained is no foundation. Positions are stretched to `size`.
    """
    patch = layout.sam.patch_size
    if size[0] % patch or size[1] % patch:
        raise UnsegError(f"Expected a height and width that {patch} divides for this SAM, found {size[0]}x{size[1]}.")
    if init == "imagenet":
        raise UnsegError("Expected init=random or the path of SAM's checkpoint for RSPrompter, found imagenet.")
    with own_randomness("cpu", seed, "first weights"):
        model = RSPrompter(layout, classes)
    if init != "random":
        parts = {"image_encoder": model.encoder, "prompt_encoder": model.prompt_encoder}
        load_sam(nn.ModuleDict(parts | {"mask_decoder": model.mask_decoder}), Path(init))
        model.encoder.requires_grad_(False)
    model.stretch(size[0] // patch, size[1] // patch)
    return model


class RSPrompter(nn.Module):
    """Images, normalised float `(N,3,H,W)`, to `Found`."""

    def __init__(self, layout: Layout, classes: int):
        super().__init__()
        self.layout, sam = layout, layout.sam
        self.encoder = build_image_encoder(sam)
        self.prompt_encoder = build_prompt_encoder(sam).requires_grad_(False)  # only its fixed positions are used
        self.mask_decoder = build_mask_decoder(sam)
        self.aggregator = FeatureAggregator(sam.embed_dim, range(0, sam.depth, layout.every), layout.width)
        self.prompter = QueryPrompter(layout, classes)

    def stretch(self, height: int, width: int) -> None:
        """Fit SAM to a grid of so many patches; its relative positions segment-anything stretches by itself."""
        position = self.encoder.pos_embed.detach()
        if position.shape[1:3] != (height, width):
            larger = F.interpolate(position.permute(0, 3, 1, 2), (height, width), mode="bicubic", align_corners=False)
            learns = self.encoder.pos_embed.requires_grad
            self.encoder.pos_embed = nn.Parameter(larger.permute(0, 2, 3, 1).contiguous(), requires_grad=learns)
        self.prompt_encoder.image_embedding_size = (height, width)

    def forward(self, x: torch.Tensor) -> Found:
        embedding, layers, prompts = self.guess(x)
        return Found(layers[-1][0], torch.stack(self.draw(embedding, prompts)))

    def guess(self, x: torch.Tensor) -> tuple[torch.Tensor, Guesses, torch.Tensor]:
        """What is known before SAM draws: its embedding `(N,C,h,w)`, guesses, and prompts `(N,Q,tokens,C)`."""
        embedding, blocks = self.encode(x)
        return embedding, *self.prompter(self.aggregator(blocks))

    def encode(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """SAM's embedding `(N,width,h,w)` and what comes out of every block, `(N,embed_dim,h,w)`."""
        x, blocks = self.encoder.patch_embed(x) + self.encoder.pos_embed, []
        for block in self.encoder.blocks:
            x = block(x)
            blocks.append(x.permute(0, 3, 1, 2))
        return self.encoder.neck(blocks[-1]), blocks

    def draw(self, embedding: torch.Tensor, prompts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """SAM's masks `(q,4h,4w)` of every image, from embeddings `(N,C,h,w)` and q prompts each, `(q,tokens,C)`."""
        return [self._draw(one, some) for one, some in zip(embedding.split(1), prompts)]

    def _draw(self, embedding: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        if not len(prompts):  # segment-anything fails on none
            return embedding.new_zeros(0, *(4 * side for side in embedding.shape[2:]))
        _, dense = self.prompt_encoder(points=None, boxes=None, masks=None)  # "no mask given"
        position = self.prompt_encoder.get_dense_pe()
        return self.mask_decoder(embedding, position, prompts, dense, multimask_output=False)[0][:, 0]


class FeatureAggregator(nn.Module):
    """The chosen blocks' features `(N,C,h,w)` to one, `(N,width,h,w)`, each added to what became of those before.

    The paper's: reduced r_i, m_1 = r_1, m_i = m_(i-1) + convolution(m_(i-1)) + r_i, and the last m is fused. SAM's
    layer norm keeps it apart from the size of a batch, which is published as one image.
    """

    def __init__(self, channels: int, chosen: range, width: int):
        super().__init__()
        self.chosen = chosen
        self.reduce = nn.ModuleList(
            nn.Sequential(*_convolution(channels, HIDDEN, 1), *_convolution(HIDDEN, HIDDEN, 3)) for _ in chosen
        )
        self.carry = nn.ModuleList(nn.Sequential(*_convolution(HIDDEN, HIDDEN, 3)) for _ in chosen[1:])
        self.fuse = nn.Sequential(*_convolution(HIDDEN, width, 1), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        first, *others = (reduce(blocks[i]) for i, reduce in zip(self.chosen, self.reduce))
        for carry, other in zip(self.carry, others):
            first = first + carry(first) + other
        return self.fuse(first)


def _convolution(before: int, after: int, kernel: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), LayerNorm2d(after), nn.ReLU()


class QueryPrompter(nn.Module):
    """Features `(N,width,h,w)` to classes, masks and prompts of learnt queries.

    Before every layer a query's mask is guessed, and it looks only there, as in Mask2Former.
    """

    def __init__(self, layout: Layout, classes: int):
        super().__init__()
        width, self.tokens = layout.width, layout.tokens
        self.position = PositionEmbeddingRandom(width // 2)
        one = nn.TransformerEncoderLayer(width, layout.heads, layout.feedforward, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(one, layout.encoder_layers, enable_nested_tensor=False)
        self.upscale = upscaling(width, width, width)
        self.queries = nn.Embedding(layout.queries, width)
        self.query_position = nn.Embedding(layout.queries, width)
        self.layers = nn.ModuleList(QueryLayer(width, layout.heads, layout.feedforward) for _ in range(layout.layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, classes + 1)
        self.masks = MLP(width, width, width, 3)
        self.prompts = MLP(width, 2 * layout.sam.width, 2 * layout.tokens * layout.sam.width, 3)

    def forward(self, features: torch.Tensor) -> tuple[Guesses, torch.Tensor]:
        """Guesses before each layer and at the end, and prompts `(N,Q,tokens,C)`."""
        n, _, *grid = features.shape
        place = self.position(grid).flatten(1).T  # (h*w,width)
        seen = self.encoder(features.flatten(2).transpose(1, 2) + place)
        canvas = self.upscale(seen.transpose(1, 2).unflatten(2, grid))
        queries, place_of_query = (table.weight.expand(n, -1, -1) for table in (self.queries, self.query_position))
        found = [self.predict(queries, canvas)]
        for layer in self.layers:
            queries = layer(queries, place_of_query, seen, place, hidden=outside(found[-1][1], grid))
            found.append(self.predict(queries, canvas))
        return found, self.prompt(queries)

    def predict(self, queries: torch.Tensor, canvas: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries = self.norm(queries)
        return self.classes(queries), torch.einsum("nqc,nchw->nqhw", self.masks(queries), canvas)

    def prompt(self, queries: torch.Tensor) -> torch.Tensor:
        """SAM's own prompts are sines of positions, so half of a prompt goes through a sine, as published."""
        free, wave = self.prompts(self.norm(queries)).unflatten(2, (self.tokens, -1)).chunk(2, dim=3)
        return free + wave.sin()


class QueryLayer(nn.Module):
    """One layer of Mask2Former's decoder: queries look at the image, then at each other."""

    def __init__(self, width: int, heads: int, feedforward: int):
        super().__init__()
        self.look = nn.MultiheadAttention(width, heads, batch_first=True)
        self.talk = nn.MultiheadAttention(width, heads, batch_first=True)
        self.think = nn.Sequential(nn.Linear(width, feedforward), nn.ReLU(), nn.Linear(feedforward, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, queries, place_of_query, seen, place, hidden) -> torch.Tensor:
        """queries `(N,Q,C)` with places; seen `(N,L,C)` with places `(L,C)`; hidden bool `(N,Q,L)`: not looked at."""
        hidden = hidden.repeat_interleave(self.look.num_heads, dim=0)
        keys = seen + place
        look, _ = self.look(queries + place_of_query, keys, seen, attn_mask=hidden, need_weights=False)
        queries = self.norms[0](queries + look)
        asking = queries + place_of_query
        talk, _ = self.talk(asking, asking, queries, need_weights=False)
        queries = self.norms[1](queries + talk)
        return self.norms[2](queries + self.think(queries))


@torch.no_grad()
def outside(masks: torch.Tensor, grid: list[int]) -> torch.Tensor:
    """Where guessed masks `(N,Q,H,W)` are not, bool `(N,Q,h*w)`; nowhere for a mask that is empty at `grid`."""
    hidden = (F.interpolate(masks, tuple(grid), mode="bilinear", align_corners=False) < 0).flatten(2)
    return hidden & ~hidden.all(dim=2, keepdim=True)
