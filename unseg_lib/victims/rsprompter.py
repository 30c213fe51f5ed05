"""RSPrompter (Chen et al., IEEE TGRS 2024): instances of remote sensing images, on SAM.

"rsprompter:vit_b", "rsprompter:vit_l", "rsprompter:vit_h" with `init` the path of SAM's official checkpoint;
"rsprompter:small", "rsprompter:tiny" from random weights; and, not in the paper, "rsprompter:lite0" with ImageNet's
EfficientNet-Lite0 in the place of SAM's encoder. The fields of `Layout` are options, as "queries=100". Written from the
paper, with the numbers of configs/rsprompter/rsprompter_query-{nwpu,whu,ssdd}.py of
github.com/KyanChen/RSPrompter; what differs: docs/recipes.md.

SAM's blocks -> aggregated features -> a pyramid -> queries that look at three scales of it -> for every query a class,
and prompt tokens from which SAM draws its mask. In training every true object goes to the query that fits it best; cost
and loss are 2 x class + 5 x cross entropy + 5 x dice, at sampled points, as in Mask2Former (Cheng et al., CVPR 2022,
section 3.3).
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.prompt_encoder import PositionEmbeddingRandom
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib import method
from unseg_lib.errors import UnsegError, pick
from unseg_lib.options import with_options
from unseg_lib.victims.mask2former.data import DIVISOR, MaskedImages, learnt_batch, read
from unseg_lib.victims.mask2former.model import check_layout
from unseg_lib.victims.mask2former.outputs import keep, scores
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import SCHEDULES, Recipe, Rng, autocast, fit, own_randomness

HIDDEN = 32  # channels of the feature aggregator
PYRAMID = 256  # of what it gives, of all levels of the pyramid, and of what guessed masks are read from
CLIP, WEIGHT_DECAY = 0.1, 0.05
CLASS, MASK = 2.0, 5.0  # weights of the losses
NO_OBJECT = 0.1  # weight of a query that found nothing, for most do

Seen = tuple[Tensor, Tensor, Sequence[int]]  # a scale: (N,h*w,width), places (h*w,width) or (N,...), and (h,w)
Guesses = list[tuple[Tensor, Tensor]]  # before every layer and after the last: classes (N,Q,C+1), masks (N,Q,4h,4w)
Pairs = list[tuple[Tensor, Tensor]]  # of every image: numbers of queries, and of their objects


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    _, layout = with_options(run.name, LAYOUTS, "RSPrompter")
    model = build(layout, len(run.train.classes), run.size, run.init, run.seed)
    how = {"clip": CLIP, "schedule": SCHEDULES[layout.schedule]}
    return fit(run, model, Recipe(partial(read, fit=layout.fit), adamw, batch_loss, scores, keep, **how))


@dataclass(frozen=True)
class Layout:
    """A SAM and its prompter, and what the training does its own way; the numbers published for NWPU VHR-10.

    every: of so many blocks of SAM's encoder one is aggregated. queries: 100 for WHU, 30 for SSDD. tokens: of
    SAM's prompt for a query. points: at which masks are compared. scale_low, scale_high: of random windows. fit: of
    `mask2former.data.FITS`. schedule: of `training.SCHEDULES`. pyramid: whether queries look at three scales.
    draw_all: in training SAM draws every query and true objects go to what it drew, as in the paper; otherwise they
    go to what the prompter guessed, and SAM draws only what was chosen, in less than half the time.
    """

    sam: method.SamLayout
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
    fit: str = "pad"
    schedule: str = "cosine"
    pyramid: bool = True
    draw_all: bool = True
    lite0: bool = False  # stands on EfficientNet-Lite0: its strides 8, 16 and 32 for three blocks of patches of 8

    def __post_init__(self):
        check_layout(self, "RSPrompter", 4)
        if self.lite0 and self.sam != method.LAYOUTS["small"]:
            raise UnsegError("Expected SAM's layout small beside lite0=True, found another; take rsprompter:lite0.")
        pick(dict.fromkeys(("pad", "squash")), self.fit, "fit of RSPrompter, whose encoder has one grid:")


# small and tiny are for processors and tests, from random weights
SMALL = {"every": 1, "heads": 4, "feedforward": 128, "encoder_layers": 1, "layers": 3, "points": 1024}
SMALL |= {"scale_low": 0.75, "scale_high": 1.25, "fit": "squash", "schedule": "poly"}
SMALL |= {"pyramid": False, "draw_all": False}
LAYOUTS = {name: Layout(method.LAYOUTS[name]) for name in ("vit_b", "vit_l", "vit_h")}
LAYOUTS["small"] = Layout(method.LAYOUTS["small"], width=64, queries=50, **SMALL)
LAYOUTS["lite0"] = replace(LAYOUTS["small"], lite0=True)
LAYOUTS["tiny"] = Layout(method.LAYOUTS["tiny"], width=32, queries=10, **(SMALL | {"layers": 2}))


def build(layout: Layout, classes: int, size: tuple[int, int], init: str, seed: int) -> "RSPrompter":
    """The network for images of `size` with seeded first weights, or with SAM's of the file that `init` names: then the
    image encoder stays as it is, as published. Only lite0 starts from "imagenet", and then learns as a whole.
    """
    patch = layout.sam.patch_size
    step = math.lcm(patch, DIVISOR) if layout.fit == "pad" else patch
    if size[0] % step or size[1] % step:
        raise UnsegError(f"Expected a height and width that {step} divides for this SAM, found {size[0]}x{size[1]}.")
    if init != "random" and layout.lite0 != (init == "imagenet"):
        able = "imagenet for rsprompter:lite0" if layout.lite0 else "the path of SAM's checkpoint for RSPrompter"
        raise UnsegError(f"Expected init=random or {able}, found {init}.")
    with own_randomness("cpu", seed, "first weights"):
        model = RSPrompter(layout, classes)
    if init == "imagenet":
        method.load_lite0(model.encoder.net)
    elif init != "random":
        parts = {"image_encoder": model.encoder, "prompt_encoder": model.prompt_encoder}
        method.load_sam(nn.ModuleDict(parts | {"mask_decoder": model.mask_decoder}), init)
        model.encoder.requires_grad_(False)
    model.stretch(size[0] // patch, size[1] // patch)
    return model


class RSPrompter(nn.Module):
    """Images, normalised float `(N,3,H,W)`, to classes `(N,Q,C+1)` and masks `(N,Q,h,w)`, named as Mask2Former's."""

    def __init__(self, layout: Layout, classes: int):
        super().__init__()
        self.layout, sam = layout, layout.sam
        self.encoder = Lite0Encoder(sam) if layout.lite0 else method.build_image_encoder(sam)
        self.prompt_encoder = method.build_prompt_encoder(sam).requires_grad_(False)  # gives fixed positions alone
        self.mask_decoder = method.build_mask_decoder(sam)
        channels = PYRAMID if layout.pyramid else layout.width
        self.aggregator = FeatureAggregator(sam.embed_dim, range(0, sam.depth, layout.every), channels)
        self.prompter = QueryPrompter(layout, classes)

    def stretch(self, height: int, width: int) -> None:
        """Fit SAM to a grid of so many patches; its relative positions segment-anything stretches by itself."""
        if not self.layout.lite0 and (position := self.encoder.pos_embed).shape[1:3] != (height, width):
            position.data = method.resized_positions(position.data, (height, width)).contiguous()
        self.prompt_encoder.image_embedding_size = (height, width)

    def forward(self, x: Tensor) -> SimpleNamespace:
        embedding, layers, prompts = self.guess(x)
        masks = torch.stack(self.draw(embedding, prompts))
        return SimpleNamespace(class_queries_logits=layers[-1][0], masks_queries_logits=masks)

    def guess(self, x: Tensor) -> tuple[Tensor, Guesses, Tensor]:
        """What is known before SAM draws: its embedding `(N,C,h,w)`, guesses, and prompts `(N,Q,tokens,C)`."""
        embedding, blocks = self.encode(x)
        return embedding, *self.prompter(self.aggregator(blocks))

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """SAM's embedding `(N,width,h,w)` and what comes out of every block, `(N,embed_dim,h,w)`."""
        if self.layout.lite0:
            return self.encoder(x)
        x, blocks = self.encoder.patch_embed(x) + self.encoder.pos_embed, []
        for block in self.encoder.blocks:
            x = block(x)
            blocks.append(x.permute(0, 3, 1, 2))
        return self.encoder.neck(blocks[-1]), blocks

    def draw(self, embedding: Tensor, prompts: Sequence[Tensor]) -> list[Tensor]:
        """SAM's masks `(q,4h,4w)` of every image, from embeddings `(N,C,h,w)` and q prompts each, `(q,tokens,C)`."""
        _, dense = self.prompt_encoder(points=None, boxes=None, masks=None)  # "no mask given"
        position, nothing = self.prompt_encoder.get_dense_pe(), (0, *(4 * side for side in embedding.shape[2:]))
        return [
            self.mask_decoder(one, position, some, dense, multimask_output=False)[0][:, 0]
            if len(some)  # segment-anything fails on none
            else one.new_zeros(nothing)
            for one, some in zip(embedding.split(1), prompts)
        ]


class Lite0Encoder(nn.Module):
    """EfficientNet-Lite0 as SAM's encoder: `RSPrompter.encode`'s embedding and blocks, all on the grid of stride 8."""

    def __init__(self, sam: method.SamLayout):
        import timm

        super().__init__()
        self.net = timm.create_model(method.LITE0, features_only=True, out_indices=(2, 3, 4))
        method.renormalise(self.net)
        self.reduce = nn.ModuleList(nn.Conv2d(one, sam.embed_dim, 1) for one in self.net.feature_info.channels())
        self.neck = nn.Conv2d(sam.embed_dim, sam.width, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features = [reduce(one) for reduce, one in zip(self.reduce, self.net(x))]
        blocks = [F.interpolate(one, features[0].shape[2:], mode="bilinear") for one in features]
        return self.neck(sum(blocks)), blocks


class FeatureAggregator(nn.Module):
    """The chosen blocks' features `(N,C,h,w)` to one, `(N,width,h,w)`: reduced to r_i, m_1 = r_1, m_i = m_(i-1) +
    convolution(m_(i-1)) + r_i, and the last m is fused, as in the paper.
    """

    def __init__(self, channels: int, chosen: range, width: int):
        super().__init__()
        self.chosen = chosen
        self.reduce = nn.ModuleList(
            nn.Sequential(*_convolution(channels, HIDDEN, 1), *_convolution(HIDDEN, HIDDEN, 3)) for _ in chosen
        )
        self.carry = nn.ModuleList(nn.Sequential(*_convolution(HIDDEN, HIDDEN, 3)) for _ in chosen[1:])
        self.fuse = nn.Sequential(*_convolution(HIDDEN, width, 1), nn.Conv2d(width, width, 3, padding=1))

    def forward(self, blocks: list[Tensor]) -> Tensor:
        first, *others = (reduce(blocks[i]) for i, reduce in zip(self.chosen, self.reduce))
        for carry, other in zip(self.carry, others):
            first = first + carry(first) + other
        return self.fuse(first)


def _convolution(before: int, after: int, kernel: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False), LayerNorm2d(after), nn.ReLU()


class OneScale(nn.Module):
    """Features `(N,width,h,w)` to the scale that queries look at, and a canvas of their masks `(N,width,4h,4w)`."""

    def __init__(self, layout: Layout):
        super().__init__()
        width = self.channels = layout.width
        self.position = PositionEmbeddingRandom(width // 2)
        one = nn.TransformerEncoderLayer(width, layout.heads, layout.feedforward, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(one, layout.encoder_layers, enable_nested_tensor=False)
        self.upscale = method.upscaling(width, width, width)

    def forward(self, features: Tensor) -> tuple[list[Seen], Tensor]:
        grid = features.shape[2:]
        place = self.position(list(grid)).flatten(1).T
        seen = self.encoder(features.flatten(2).transpose(1, 2) + place)
        return [(seen, place, grid)], self.upscale(seen.transpose(1, 2).unflatten(2, grid))


class Pyramid(nn.Module):
    """The same on five levels, of strides 4 to 64, as published: a simple pyramid on features `(N,256,h,w)` of stride
    16, mmdetection's deformable attention on its three coarsest levels, which queries see in turn, the coarsest first,
    and a canvas `(N,256,4h,4w)`.
    """

    def __init__(self, layout: Layout):
        from unseg_lib.victims.openmmlab import import_library

        super().__init__()
        import_library("mmdet")
        from mmdet.models.layers import MSDeformAttnPixelDecoder, SinePositionalEncoding
        from mmengine.config import ConfigDict

        width, self.channels = layout.width, PYRAMID
        # the levels
        half, quarter = PYRAMID // 2, PYRAMID // 4
        finest, finer = method.upscaling(PYRAMID, half, quarter), nn.ConvTranspose2d(PYRAMID, half, 2, stride=2)
        self.levels = nn.ModuleList([finest, finer, nn.Identity(), nn.MaxPool2d(2)])
        channels = (quarter, half, PYRAMID, PYRAMID)
        self.lateral = nn.ModuleList(nn.Sequential(*_convolution(one, PYRAMID, 1)[:2]) for one in channels)
        self.smooth = nn.ModuleList(nn.Sequential(*_convolution(PYRAMID, PYRAMID, 3)[:2]) for _ in channels)
        # attention on three of them
        attention = {"embed_dims": width, "num_heads": layout.heads, "num_levels": 3, "num_points": 4}
        thinking = {"embed_dims": width, "feedforward_channels": layout.feedforward, "num_fcs": 2, "ffn_drop": 0.0}
        layer = {"self_attn_cfg": attention | {"dropout": 0.0, "batch_first": True}, "ffn_cfg": thinking}
        place = {"num_feats": width // 2, "normalize": True}
        how = {"in_channels": [PYRAMID] * 5, "strides": [4, 8, 16, 32, 64], "feat_channels": width, "num_outs": 3}
        how |= {"out_channels": PYRAMID, "norm_cfg": {"type": "GN", "num_groups": 32}}
        encoder = ConfigDict(num_layers=layout.encoder_layers, layer_cfg=layer)
        self.decoder = MSDeformAttnPixelDecoder(**how, encoder=encoder, positional_encoding=ConfigDict(place))
        self.decoder.init_weights()
        self.position, self.level = SinePositionalEncoding(**place), nn.Embedding(3, width)

    def forward(self, features: Tensor) -> tuple[list[Seen], Tensor]:
        parts = [lateral(level(features)) for level, lateral in zip(self.levels, self.lateral)]
        levels = [smooth(part) for part, smooth in zip(parts, self.smooth)]
        levels.append(F.max_pool2d(levels[-1], 1, stride=2))
        # the places it looks at need all digits
        with torch.autocast(features.device.type, enabled=False), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.meshgrid")  # mmdetection's calls, which nobody will mend
            canvas, scales = self.decoder([one.float() for one in levels])
        places = (self.position(one.new_zeros(1, *one.shape[2:], dtype=torch.bool)) for one in scales)
        flat = ([one.flatten(2).transpose(1, 2) for one in both] for both in zip(scales, places))
        every = zip(flat, self.level.weight, scales)
        return [(seen + level, place[0], one.shape[2:]) for (seen, place), level, one in every], canvas


class QueryPrompter(nn.Module):
    """Features `(N,C,h,w)` to classes, masks and prompts; a query looks only at the mask it guessed before."""

    def __init__(self, layout: Layout, classes: int):
        super().__init__()
        width, self.tokens = layout.width, layout.tokens
        self.scales = (Pyramid if layout.pyramid else OneScale)(layout)
        self.queries = nn.Embedding(layout.queries, width)
        self.query_position = nn.Embedding(layout.queries, width)
        self.layers = nn.ModuleList(QueryLayer(width, layout.heads, layout.feedforward) for _ in range(layout.layers))
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, classes + 1)
        self.masks = MLP(width, width, self.scales.channels, 3)
        self.prompts = MLP(width, 2 * layout.sam.width, 2 * layout.tokens * layout.sam.width, 3)

    def forward(self, features: Tensor) -> tuple[Guesses, Tensor]:
        """Guesses before each layer and at the end, and prompts `(N,Q,tokens,C)`."""
        scales, canvas = self.scales(features)
        tables = self.queries, self.query_position
        queries, place_of_query = (table.weight.expand(len(features), -1, -1) for table in tables)
        found = [self.predict(queries, canvas)]
        for i, layer in enumerate(self.layers):
            seen, place, grid = scales[i % len(scales)]
            queries = layer(queries, place_of_query, seen, place, hidden=outside(found[-1][1], grid))
            found.append(self.predict(queries, canvas))
        return found, self.prompt(queries)

    def predict(self, queries: Tensor, canvas: Tensor) -> tuple[Tensor, Tensor]:
        queries = self.norm(queries)
        return self.classes(queries), torch.einsum("nqc,nchw->nqhw", self.masks(queries), canvas)

    def prompt(self, queries: Tensor) -> Tensor:
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

    def forward(self, queries, place_of_query, seen, place, hidden) -> Tensor:
        """queries `(N,Q,C)` with places; seen `(N,L,C)` with places `(L,C)`; hidden bool `(N,Q,L)`: not looked at."""
        hidden = hidden.repeat_interleave(self.look.num_heads, dim=0)
        asking = queries + place_of_query
        looked = self.look(asking, seen + place, seen, attn_mask=hidden, need_weights=False)[0]
        queries = self.norms[0](queries + looked)
        asking = queries + place_of_query
        queries = self.norms[1](queries + self.talk(asking, asking, queries, need_weights=False)[0])
        return self.norms[2](queries + self.think(queries))


@torch.no_grad()
def outside(masks: Tensor, grid: Sequence[int]) -> Tensor:
    """Where guessed masks `(N,Q,H,W)` are not, bool `(N,Q,h*w)`; nowhere for a mask that is empty at `grid`."""
    hidden = (F.interpolate(masks, tuple(grid), mode="bilinear", align_corners=False) < 0).flatten(2)
    return hidden & ~hidden.all(dim=2, keepdim=True)


def adamw(run: VictimRun, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW of what is learnt; SAM's encoder is not where it has SAM's weights."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(learnt, lr=run.lr, weight_decay=WEIGHT_DECAY, fused=True)


@dataclass(frozen=True)
class Objects:
    """Of every image masks bool `(K,H,W)`, compared at `points` points, and class indices int64 `(K,)`; K may be 0."""

    masks: list[Tensor]
    classes: list[Tensor]
    points: int


def batch_loss(run: VictimRun, model: RSPrompter, data: MaskedImages, chosen: Tensor, rng: Rng) -> Tensor:
    """The loss on the images numbered `chosen`, defended and augmented, summed over the prompter's layers."""
    layout = model.layout
    x, *found = learnt_batch(run, layout, data, chosen, rng)
    objects, drawn = Objects(*found, layout.points), rng("drawn")
    with autocast(run):
        embedding, (*earlier, last), prompts = model.guess(x)

    # what SAM draws is compared with the objects; either SAM draws all, or only what the prompter's guess is matched to
    pairs = None if layout.draw_all else match(*last, objects, drawn)
    with autocast(run):
        masks = model.draw(embedding, chosen_of(prompts, pairs) if pairs else prompts)
    if pairs is None:
        loss = set_loss(last[0], torch.stack(masks), objects, drawn)
    else:
        guessed = mask_loss(chosen_of(last[1], pairs), objects, pairs, drawn)
        loss = class_loss(last[0], objects, pairs) + (guessed + mask_loss(masks, objects, pairs, drawn))
    return loss + sum(set_loss(*one, objects, rng(f"layer {i}")) for i, one in enumerate(earlier))


def set_loss(classes: Tensor, masks: Tensor, objects: Objects, rng: torch.Generator) -> Tensor:
    """The loss of class logits `(N,Q,C+1)`, the last one "no object", and mask logits `(N,Q,h,w)`, in fp32."""
    pairs = match(classes, masks, objects, rng)
    return class_loss(classes, objects, pairs) + mask_loss(chosen_of(masks, pairs), objects, pairs, rng)


def chosen_of(values: Tensor, pairs: Pairs) -> list[Tensor]:
    """Of every image the values `(Q,...)` of its queries that found an object."""
    return [one[queries] for one, (queries, _) in zip(values, pairs)]


def class_loss(classes: Tensor, objects: Objects, pairs: Pairs) -> Tensor:
    """Weighted cross entropy of class logits `(N,Q,C+1)`; a query without an object should say so."""
    target = torch.full(classes.shape[:2], classes.shape[2] - 1, device=classes.device)
    for row, labels, (queries, found) in zip(target, objects.classes, pairs):
        row[queries] = labels[found]
    weight = torch.ones(classes.shape[2], device=classes.device)
    weight[-1] = NO_OBJECT
    return CLASS * F.cross_entropy(classes.float().flatten(0, 1), target.flatten(), weight)


def mask_loss(guesses: list[Tensor], objects: Objects, pairs: Pairs, rng: torch.Generator) -> Tensor:
    """Cross entropy and dice of the mask logits `(k,h,w)` of every image's chosen queries; 0 where there are none."""
    truths = [masks[found].float() for masks, (_, found) in zip(objects.masks, pairs)]
    guess, truth = torch.cat(guesses)[:, None], torch.cat(truths)[:, None]
    return MASK * method.segmentation_loss(guess, truth, rng, objects.points) if len(guess) else guess.sum()


@torch.no_grad()
def match(classes: Tensor, masks: Tensor, objects: Objects, rng: torch.Generator) -> Pairs:
    """The cheapest one-to-one assignment in every image, `min(Q,K)` pairs; priced at random points, one for all."""
    from scipy.optimize import linear_sum_assignment
    from transformers.models.mask2former import modeling_mask2former as costs

    pairs = []
    for named, *maps, labels in zip(classes.float(), masks.float(), objects.masks, objects.classes):
        place = torch.rand(1, objects.points, 2, generator=rng).to(masks.device)
        both = [method.sample_at(one.float()[:, None], place.expand(len(one), -1, -1)) for one in maps]
        price = costs.pair_wise_sigmoid_cross_entropy_loss(*both) + costs.pair_wise_dice_loss(*both)
        price = (MASK * price - CLASS * named.softmax(dim=1)[:, labels]).nan_to_num(0)  # of NaN the loss will tell
        pairs.append(tuple(torch.from_numpy(i).to(masks.device) for i in linear_sum_assignment(price.cpu().numpy())))
    return pairs
