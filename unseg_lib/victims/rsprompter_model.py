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
from torch import nn
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.method import LAYOUTS as SAMS
from unseg_lib.method import SamLayout, build_image_encoder, build_mask_decoder, build_prompt_encoder, load_sam
from unseg_lib.victims.rsprompter_prompter import FeatureAggregator, QueryPrompter
from unseg_lib.victims.training import own_randomness

COUNTS = ("every", "width", "heads", "feedforward", "encoder_layers", "layers", "queries", "tokens", "points")


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
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise UnsegError(f"Expected {name} of RSPrompter from 1, found {getattr(self, name)}.")
        if self.width % 4 or self.width % self.heads:
            raise UnsegError(f"Expected a width that 4 and heads={self.heads} divide, found {self.width}.")
        if not 0 < self.scale_low <= self.scale_high:
            raise UnsegError(f"Expected 0 < scale_low <= scale_high, found {self.scale_low:g} and {self.scale_high:g}.")


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


@dataclass
class Guess:
    """What the prompter says before SAM draws.

    embedding: SAM's of the images `(N,C,h,w)`; layers: classes `(N,Q,C+1)` and guessed masks `(N,Q,4h,4w)` before
    every layer of the prompter and after the last; prompts for SAM `(N,Q,tokens,C)`.
    """

    embedding: torch.Tensor
    layers: list[tuple[torch.Tensor, torch.Tensor]]
    prompts: torch.Tensor


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
        sam = layout.sam
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
        guess = self.guess(x)
        return Found(guess.layers[-1][0], torch.stack(self.draw(guess.embedding, guess.prompts)))

    def guess(self, x: torch.Tensor) -> Guess:
        embedding, blocks = self.encode(x)
        return Guess(embedding, *self.prompter(self.aggregator(blocks)))

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
