"""RSPrompter's own parts: blocks of SAM become features, queries look at them and become prompts for SAM."""

from typing import TYPE_CHECKING

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from unseg_lib.victims.rsprompter_model import Layout

HIDDEN = 32  # channels of the feature aggregator


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

    def __init__(self, layout: "Layout", classes: int):
        super().__init__()
        width, self.tokens = layout.width, layout.tokens
        self.position = PositionEmbeddingRandom(width // 2)
        one = nn.TransformerEncoderLayer(width, layout.heads, layout.feedforward, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(one, layout.encoder_layers, enable_nested_tensor=False)
        self.upscale = nn.Sequential(
            *(nn.ConvTranspose2d(width, width, 2, stride=2), LayerNorm2d(width), nn.GELU()),
            nn.ConvTranspose2d(width, width, 2, stride=2),
        )
        self.queries = nn.Embedding(layout.queries, width)
        self.query_position = nn.Embedding(layout.queries, width)
        self.layers = nn.ModuleList(QueryLayer(width, layout.heads, layout.feedforward) for _ in range(layout.layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, classes + 1)
        self.masks = MLP(width, width, width, 3)
        self.prompts = MLP(width, 2 * layout.sam.width, 2 * layout.tokens * layout.sam.width, 3)

    def forward(self, features: torch.Tensor) -> tuple[list[tuple[torch.Tensor, torch.Tensor]], torch.Tensor]:
        """Classes `(N,Q,C+1)` and masks `(N,Q,4h,4w)` before each layer and at the end; prompts `(N,Q,tokens,C)`."""
        n, _, *grid = features.shape
        place = self.position(grid).flatten(1).T  # (h*w,width)
        seen = self.encoder(features.flatten(2).transpose(1, 2) + place)
        canvas = self.upscale(seen.transpose(1, 2).unflatten(2, grid))
        queries, place_of_query = (table.weight.expand(n, -1, -1) for table in (self.queries, self.query_position))
        found = [self.predict(queries, canvas)]
        for layer in self.layers:
            hidden = outside(found[-1][1], grid)
            queries = layer(queries, place_of_query, seen, place, hidden)
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

    def forward(
        self,
        queries: torch.Tensor,
        place_of_query: torch.Tensor,
        seen: torch.Tensor,
        place: torch.Tensor,
        hidden: torch.Tensor,
    ) -> torch.Tensor:
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
