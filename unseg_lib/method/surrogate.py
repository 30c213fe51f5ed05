"""The surrogate: the segmentation model that the generator plays against (paper, method). Discarded afterwards.

Every surrogate maps a noised image `(N,3,s,s)` in [0,1] and prompts to mask logits `(N,1,h,w)`.
"""

from dataclasses import replace

import torch
from torch import nn
from torch.nn import functional as F

from unseg_lib.errors import pick
from unseg_lib.method.prompts import Prompts
from unseg_lib.method.sam import (
    SamLayout,
    build_image_encoder,
    build_mask_decoder,
    build_prompt_encoder,
    decoder_trunk,
    encode,
    normalise,
)


class SamSurrogate(nn.Module):
    """SAM without its IoU token and head, and with three mask tokens of which the first is read (paper 3)."""

    def __init__(self, layout: SamLayout):
        super().__init__()
        self.size, self.grid = layout.image_size, layout.grid
        self.encode = encode  # how the encoder is run, see Generator
        self.image_encoder = build_image_encoder(layout)
        self.prompt_encoder = build_prompt_encoder(layout)
        self.mask_decoder = build_mask_decoder(layout, num_multimask_outputs=2)
        del self.mask_decoder.iou_token, self.mask_decoder.iou_prediction_head

    def forward(self, x: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        decoder = self.mask_decoder
        embedding, _ = self.encode(self.image_encoder, x)
        hs, upscaled = decoder_trunk(decoder, self.prompt_encoder, embedding, decoder.mask_tokens.weight, prompts)
        token = decoder.output_hypernetworks_mlps[0](hs[:, 0])
        return torch.einsum("nc,nchw->nhw", token, upscaled)[:, None]


class ResNetSurrogate(nn.Module):
    """A U-Net on a ResNet-50, the ablation's second kind (paper Table 10; its architecture is not published).

    It takes no prompt: it segments whatever the noise and the image single out. It starts from random weights, the
    paper's from ImageNet's ("ImageNet R50"), which nothing here loads.
    """

    def __init__(self, size: int, encoder: str = "resnet50"):
        super().__init__()
        import segmentation_models_pytorch as smp

        self.size, self.grid = size, size // 4
        self.net = smp.Unet(encoder, encoder_weights=None, classes=1)

    def forward(self, x: torch.Tensor, prompts: Prompts | None = None) -> torch.Tensor:
        return self.net(normalise(x))


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

    def forward(self, x: torch.Tensor, prompts: Prompts | None = None) -> torch.Tensor:
        x, skips = normalise(x), []
        for i, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if i else x)
            skips.append(x)
        for block, skip in zip(self.up, skips[-2::-1]):
            x = block(torch.cat([F.interpolate(x, skip.shape[2:], mode="nearest"), skip], dim=1))
        return self.head(x)


def two_convs(inside: int, outside: int) -> nn.Sequential:
    layers = []
    for channels in (inside, outside):
        layers += [
            nn.Conv2d(channels, outside, 3, padding=1),
            nn.GroupNorm(8, outside),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


def build_surrogate(kind: str, layout: SamLayout, size: int = 0) -> nn.Module:
    """A surrogate by name ("sam", "resnet50", "unet") beside a generator of `layout`, with random weights.

    size: side of its input in pixels; 0 = half the generator's, as published (512 of 1024, paper 3).
    """
    return pick(SURROGATES, kind, "surrogate")(layout, size or layout.image_size // 2)


SURROGATES = {
    "sam": lambda layout, size: SamSurrogate(replace(layout, image_size=size)),
    "resnet50": lambda layout, size: ResNetSurrogate(size),
    "unet": lambda layout, size: UNetSurrogate(size),
}
