"""The surrogate S, the segmentation model that the generator plays against (§ 3), and the loss of its answer (§ 4.4).

Every surrogate maps a noised image `(N,3,s,s)` in [0,1] and prompts to mask logits `(N,1,h,w)`. L_seg of both players
is binary cross entropy plus Dice, 1 : 1, on points where the answer is unsure (PointRend's sampling, as SAM-HQ's).
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.errors import pick
from unseg_lib.method import sam
from unseg_lib.method.prompts import Prompts
from unseg_lib.method.weights import LITE0, SHIFT, SPREAD, load_lite0, load_surrogate, load_weights, read_foreign

POINTS = 112 * 112
OVERSAMPLE, IMPORTANT = 3, 0.75  # share of the points taken where |logit| is smallest, among three times as many


class SamSurrogate(nn.Module):
    """SAM without its IoU token and head, and with three mask tokens of which the first is read (§ 3)."""

    def __init__(self, layout: sam.SamLayout):
        super().__init__()
        self.size, self.grid = layout.image_size, layout.grid
        self.encode = sam.encode  # how the encoder is run, see Generator
        self.image_encoder = sam.build_image_encoder(layout)
        self.prompt_encoder = sam.build_prompt_encoder(layout)
        self.mask_decoder = sam.build_mask_decoder(layout, num_multimask_outputs=2)
        del self.mask_decoder.iou_token, self.mask_decoder.iou_prediction_head

    start = load_surrogate  # from MAE's weights, as published, or all of it from SAM's

    def forward(self, x: Tensor, prompts: Prompts) -> Tensor:
        decoder = self.mask_decoder
        embedding, _ = self.encode(self.image_encoder, x)
        hs, upscaled = sam.decoder_trunk(decoder, self.prompt_encoder, embedding, decoder.mask_tokens.weight, prompts)
        token = decoder.output_hypernetworks_mlps[0](hs[:, 0])
        return torch.einsum("nc,nchw->nhw", token, upscaled)[:, None]


class ResNetSurrogate(nn.Module):
    """A U-Net on a ResNet-50, without prompts: the ablation's second kind (Table 10; its architecture is unknown).

    The paper's is an "ImageNet R50": `start` takes torchvision's.
    """

    def __init__(self, size: int):
        super().__init__()
        import segmentation_models_pytorch as smp

        self.size, self.grid = size, size // 4
        self.net = smp.Unet("resnet50", encoder_weights=None, classes=1)

    def start(self, path: str | Path) -> None:
        """Start the encoder from torchvision's file (record "resnet50"), without its classifier."""
        state = {name: value for name, value in read_foreign(path).items() if not name.startswith("fc.")}
        load_weights(self.net.encoder, state, path, "torchvision's ResNet-50")

    def forward(self, x: Tensor, prompts: Prompts | None = None) -> Tensor:
        return self.net(sam.normalise(x))


class Lite0Surrogate(nn.Module):
    """A U-Net on EfficientNet-Lite0 from ImageNet, without prompts: a surrogate like the victims. Not in the paper."""

    def __init__(self, size: int):
        super().__init__()
        import segmentation_models_pytorch as smp

        self.size, self.grid = size, size // 4
        self.net = smp.Unet(f"tu-{LITE0}", encoder_weights=None, classes=1)
        load_lite0(self.net.encoder.model)
        self.net.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor, prompts: Prompts | None = None) -> Tensor:
        return self.net((255 * x - SHIFT) / SPREAD)


class Population(nn.Module):
    """Several surrogates that share every batch, so that the noise fits no single one of them. Not in the paper."""

    def __init__(self, members: list[nn.Module]):
        super().__init__()
        self.size, self.grid, self.members = members[0].size, members[0].grid, nn.ModuleList(members)

    def forward(self, x: Tensor, prompts: Prompts | None = None) -> Tensor:
        parts = x.tensor_split(len(self.members))
        return torch.cat([member(part, None) for member, part in zip(self.members, parts)])


class UNetSurrogate(nn.Module):
    """A small U-Net with group normalisation and no prompt: learns within hundreds of steps, from random weights.

    Not in the paper. Group normalisation, because batch statistics would be those of the last phase.
    """

    def __init__(self, size: int, width: int = 24):
        super().__init__()
        self.size, self.grid = size, size // 4
        channels = [width, 2 * width, 4 * width, 4 * width]
        self.down = nn.ModuleList(two_convs(a, b) for a, b in zip([3, *channels[:-1]], channels))
        self.up = nn.ModuleList(two_convs(a + b, b) for a, b in zip(channels[:0:-1], channels[-2::-1]))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor, prompts: Prompts | None = None) -> Tensor:
        x, skips = sam.normalise(x), []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1]):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:], mode="nearest"), skip], dim=1))
        return self.head(x)


def two_convs(inside: int, outside: int) -> nn.Sequential:
    convs = [nn.Conv2d(channels, outside, 3, padding=1) for channels in (inside, outside)]
    return nn.Sequential(*(part for conv in convs for part in (conv, nn.GroupNorm(8, outside), nn.ReLU(inplace=True))))


SURROGATES = {"sam": SamSurrogate, "resnet50": ResNetSurrogate, "unet": UNetSurrogate, "lite0": Lite0Surrogate}


def build_surrogate(kind: str, layout: sam.SamLayout, size: int = 0) -> nn.Module:
    """A surrogate by name, or several, see `makers_of`, beside a generator of `layout`, with its first weights.

    size: side of its input in pixels; 0 = half the generator's, as published (512 of 1024, § 3).
    """
    makers, size = makers_of(kind), size or layout.image_size // 2
    members = [make(replace(layout, image_size=size) if make is SamSurrogate else size) for make in makers]
    return Population(members) if len(members) > 1 else members[0]


def makers_of(kind: str) -> list[type[nn.Module]]:
    """The classes of a surrogate by name, or of several joined by "+", which take no prompts."""
    names = kind.split("+")
    known = {name: make for name, make in SURROGATES.items() if len(names) == 1 or make is not SamSurrogate}
    return [pick(known, name, "surrogate of several" if len(names) > 1 else "surrogate") for name in names]


def segmentation_loss(logits: Tensor, target: Tensor, rng: torch.Generator, count: int = POINTS) -> Tensor:
    """BCE + Dice of logits `(N,1,h,w)` against soft targets `(N,1,H,W)` in [0,1], on `count` sampled points."""
    logits = logits.float()  # losses stay in full precision under bf16
    with torch.no_grad():
        points = uncertain_points(logits, count, rng)
        truth = sample_at(target, points)
    guess = sample_at(logits, points)
    return F.binary_cross_entropy_with_logits(guess, truth) + dice_loss(guess.sigmoid(), truth)


def uncertain_points(logits: Tensor, count: int, rng: torch.Generator) -> Tensor:
    """Draw points `(N,count,2)` in [0,1]: 3/4 where logits `(N,1,H,W)` are nearest to zero, the rest uniformly."""
    n, important = len(logits), int(IMPORTANT * count)
    candidates = torch.rand(n, OVERSAMPLE * count, 2, generator=rng).to(logits.device)
    chosen = sample_at(logits, candidates).abs().topk(important, dim=1, largest=False).indices
    unsure = candidates.gather(1, chosen.unsqueeze(2).expand(-1, -1, 2))
    uniform = torch.rand(n, count - important, 2, generator=rng).to(logits.device)
    return torch.cat([unsure, uniform], dim=1)


def sample_at(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of `(N,1,H,W)` maps at `(N,P,2)` points, xy in [0,1] -> `(N,P)`."""
    return F.grid_sample(maps, 2 * points.unsqueeze(2) - 1, align_corners=False)[:, 0, :, 0]


def dice_loss(guess: Tensor, target: Tensor) -> Tensor:
    """1 - Dice of `(N,P)` probabilities against targets in [0,1], smoothed by one, mean over images."""
    overlap = 2 * (guess * target).sum(dim=1) + 1
    return (1 - overlap / (guess.sum(dim=1) + target.sum(dim=1) + 1)).mean()
