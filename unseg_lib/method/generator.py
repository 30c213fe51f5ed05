"""The noise generator G: SAM with three noise tokens and three feature branches (§ 2, Eq. 1).

delta = tanh(F * T) * budget: T are the projected noise tokens, one per colour channel, F is the sum of three feature
maps, of an early ViT block, of the image embedding and of the decoder's up-scaled feature. G returns tanh(F * T), and
`budget.py` multiplies: so it can be trained at one budget and used at another.
"""

import zlib

import numpy as np
import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.method import sam
from unseg_lib.method.pairs import resize
from unseg_lib.method.prompts import Prompts
from unseg_lib.method.variants import begun_at, noise_of

# Where the three noise tokens stand in [iou, mask0..mask3, noise0..noise2] (§ 2.2).
# official code: an off-by-one reads mask3, noise0, noise1; its weights work only with that slice.
FIRST_NOISE_TOKEN = {"corrected": 5, "released": 4}
OPTIONS = ("tokens", "mean_free", "mean_of", "logit_scale", "shifted")  # of a generator, beside its layout


class Generator(nn.Module):
    """Noise generator on a SAM of any layout; tokens: of `FIRST_NOISE_TOKEN`; the rest: see `variants.Variants`."""

    def __init__(
        self, layout: sam.SamLayout, *, tokens="corrected", mean_free=0, mean_of="noise", logit_scale=1.0, shifted=False
    ):
        super().__init__()
        self.layout, self.tokens = layout, tokens
        self.mean_free, self.mean_of, self.logit_scale, self.shifted = mean_free, mean_of, logit_scale, shifted
        # how the encoder is run and what is known of positions; `Inference` has faster ways
        self.encode, self.position = sam.encode, None
        # SAM, frozen where its weights are pretrained
        self.image_encoder = sam.build_image_encoder(layout)
        self.prompt_encoder = sam.build_prompt_encoder(layout)
        self.mask_decoder = sam.build_mask_decoder(layout)
        # what is new: tokens, their projections, and three branches (E, V and U of § 2.1)
        c, early = layout.width, layout.embed_dim
        self.noise_tokens = nn.Embedding(3, c)
        self.noise_mlps = nn.ModuleList(MLP(c, c, c // 8, 3) for _ in range(3))
        self.noise_from_early = upscaling_branch(early, early, c, c // 8)
        self.noise_from_embedding = upscaling_branch(c, c, c // 4, c // 8)
        inner, outer = nn.Conv2d(c // 8, c // 4, 3, padding=1), nn.Conv2d(c // 4, c // 8, 3, padding=1)
        self.noise_from_upscaled = nn.Sequential(inner, LayerNorm2d(c // 4), nn.GELU(), outer)
        nn.init.xavier_uniform_(self.noise_tokens.weight)
        for layer in (*self.noise_from_early, *self.noise_from_embedding, *self.noise_from_upscaled):
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)

    def train_only_noise_head(self) -> None:
        """Freeze SAM, as the paper does with pretrained weights; the new parameters stay trainable."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith("noise_"))

    def freeze_unused(self) -> None:
        """Freeze the two SAM heads that no noise depends on (kept so that checkpoints keep their shape)."""
        self.mask_decoder.output_hypernetworks_mlps.requires_grad_(False)
        self.mask_decoder.iou_prediction_head.requires_grad_(False)

    def forward(self, x: Tensor, prompts: Prompts) -> Tensor:
        """x `(N,3,S,S)` in [0,1], padded black to a square, with N prompts -> noise `(N,3,grid,grid)` in (-1,1)."""
        # run SAM with the noise tokens behind its own
        embedding, early = self.encode(self.image_encoder, x)
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, self.noise_tokens.weight])
        hs, upscaled = sam.decoder_trunk(decoder, self.prompt_encoder, embedding, tokens, prompts, self.position)

        # T: one projected token per colour channel; F: the sum of the three branches
        first = FIRST_NOISE_TOKEN[self.tokens]
        token = torch.stack([mlp(hs[:, first + i]) for i, mlp in enumerate(self.noise_mlps)], dim=1)  # (N,3,c/8)
        feature = self.noise_from_upscaled(upscaled) + self.noise_from_embedding(embedding)
        feature = feature + self.noise_from_early(early)  # (N,c/8,g,g)

        # tanh(F * T), in full precision under bf16, too
        with torch.autocast(x.device.type, enabled=False):
            logits = torch.einsum("nkc,nchw->nkhw", token.float(), feature.float()) * self.logit_scale
        return noise_of(logits, self.mean_free, self.mean_of)  # published: tanh alone

    @property
    def options(self) -> dict:
        """What a generator of the same kind is made with, beside the layout."""
        return {name: getattr(self, name) for name in OPTIONS}

    @torch.inference_mode()
    def noise(self, image: np.ndarray, *, mask=None, box=None, points=None) -> Tensor:
        """Raw noise for one image uint8 `(H,W,3)`: float `(3,g,g)` in [-1,1] on the padded square, see `place_noise`.

        At least one prompt in the image's pixels: mask bool `(H,W)`, box xyxy, points `(k,2)` xy.
        """
        device, was_training = self.noise_tokens.weight.device, self.training
        x = square_of_image(image, self.layout.image_size).to(device)
        prompts = self.prompts_of(image.shape[:2], mask, box, points).to(device)
        noise = self.eval()(x, prompts).float().cpu()
        self.train(was_training)
        return begun_at(noise, [self.start_of(image)])[0]

    def start_of(self, image: np.ndarray) -> tuple[int, int]:
        """Where an image's noise starts, in cells: (0, 0), or `shifted` a place that its bytes `(H,W,3)` decide.

        So noises of two images have nothing in common that could be subtracted, and one image has always the same.
        """
        place = zlib.crc32(np.ascontiguousarray(image)) if self.shifted else 0
        return place % self.layout.grid, place // self.layout.grid % self.layout.grid

    def prompts_of(self, shape: tuple[int, int], mask, box, points) -> Prompts:
        """Prompts in pixels of an image -> prompts in pixels of the model's padded square; a mask without noise."""
        size, grid = self.layout.image_size, self.layout.grid
        # as the released code: nearest to the input square, then bilinear to the prompt grid and rounded
        given = np.zeros((1, 1)) if mask is None else np.array(mask)
        whole = square(torch.from_numpy(given)[None, None].float(), size, "nearest")
        masks = 255.0 * F.interpolate(whole, (grid, grid), mode="bilinear", align_corners=False).round()
        boxes = torch.as_tensor((0, 0, 0, 0) if box is None else box).float().reshape(1, 4)
        xy = torch.as_tensor([(0, 0)] if points is None else points).float().reshape(1, -1, 2)
        use = torch.tensor([[prompt is not None for prompt in (box, points, mask)]])
        scale = size / max(shape)
        return Prompts(boxes * scale, xy * scale, masks, use)


def upscaling_branch(channels: int, hidden: int, middle: int, out: int) -> nn.Sequential:
    """3x3 convolution, then `upscaling`: `(N,channels,t,t)` -> `(N,out,4t,4t)`."""
    mix = nn.Conv2d(channels, hidden, 3, padding=1)
    return nn.Sequential(mix, LayerNorm2d(hidden), nn.GELU(), *upscaling(hidden, middle, out))


def upscaling(channels: int, middle: int, out: int) -> nn.Sequential:
    """Two 2x2 transposed convolutions: `(N,channels,t,t)` -> `(N,out,4t,4t)`."""
    up, up_again = nn.ConvTranspose2d(channels, middle, 2, stride=2), nn.ConvTranspose2d(middle, out, 2, stride=2)
    return nn.Sequential(up, LayerNorm2d(middle), nn.GELU(), up_again)


def square(x: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """Pad `(N,C,H,W)` with 0 right and below to a square, then `resize` it, or take the nearest pixels."""
    side = max(x.shape[2:])
    x = F.pad(x, (0, side - x.shape[3], 0, side - x.shape[2]))
    return F.interpolate(x, (size, size), mode="nearest") if mode == "nearest" else resize(x, size)


def square_of_image(image: np.ndarray, size: int) -> Tensor:
    """An image uint8 `(H,W,3)` as the model takes it: `(1,3,size,size)` in [0,1]."""
    return square(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255, size)


def place_noise(raw: Tensor, height: int, width: int) -> np.ndarray:
    """Raw noise `(3,g,g)` of the padded square -> float32 `(height,width,3)`: bilinear, then cropped."""
    side = max(height, width)
    full = F.interpolate(raw[None].float(), (side, side), mode="bilinear", align_corners=False)
    return full[0, :, :height, :width].permute(1, 2, 0).numpy()


def noise_statistics(noise: Tensor) -> dict[str, float]:
    """Signs of a degenerate generator, for noise `(N,3,g,g)`, and where its energy is.

    rms: strength, 1 = saturated. spatial_std: 0 = one constant colour. image_std: 0 = one noise for all (needs N > 1).
    gray: share of the energy that gray images keep, the channels' mean (a third where channels know nothing of each
    other). coarse, fine: shares at periods above 8 cells and below 4.
    """
    noise = noise.float()
    waves = torch.fft.fft2(noise).abs().square().sum(dim=(0, 1))
    lines, across = (torch.fft.fftfreq(side, device=noise.device).abs() for side in noise.shape[2:])
    frequency, energy = torch.maximum(lines[:, None], across), waves.sum().clamp(min=1e-12)
    bands = {"coarse": frequency < 1 / 8, "fine": frequency > 1 / 4}
    shares = {name: (waves[band].sum() / energy).item() for name, band in bands.items()}
    gray = 3 * noise.mean(dim=1).square().sum() / noise.square().sum().clamp(min=1e-12)
    between = noise.std(dim=0).mean().item() if len(noise) > 1 else 0.0
    spatial = noise.std(dim=(2, 3)).mean().item()
    rms = noise.square().mean().sqrt().item()
    return {"rms": rms, "spatial_std": spatial, "image_std": between, "gray": gray.item()} | shares
