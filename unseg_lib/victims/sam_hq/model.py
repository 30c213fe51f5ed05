"""SAM-HQ's network (Ke et al., NeurIPS 2023, section 3.2) on segment-anything's parts, in any size.

Not transformers' SamHQModel: in 5.23.0 its decoder up-scales the image's embedding as it was before the two-way
transformer, and with rows and columns swapped.
"""

from dataclasses import replace
from pathlib import Path

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import nn

from unseg_lib.errors import UnsegError
from unseg_lib.method import (
    LAYOUTS,
    Prompts,
    SamLayout,
    build_image_encoder,
    build_mask_decoder,
    build_prompt_encoder,
    decoder_trunk,
    encode,
    read_foreign,
)
from unseg_lib.victims.training import own_randomness

# what SAM-HQ adds to SAM's mask decoder, named as in its authors' files
ADDED = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature")


def build(layout: str, size: tuple[int, int], init: str, seed: int) -> "SamHQ":
    """SAM-HQ of a layout of `method.LAYOUTS` for images of `size`, with seeded first weights.

    init: "random", and everything learns; or a file of SAM or SAM-HQ, and only what SAM-HQ adds does, as published.
    """
    patch = LAYOUTS[layout].patch_size
    if size[0] != size[1] or size[0] % patch:
        raise UnsegError(
            f"Expected square images with a side that {patch} divides for sam-hq:{layout}, "
            f"found {size[0]}x{size[1]}; change size."
        )
    with own_randomness("cpu", seed, "first weights"):
        model = SamHQ(replace(LAYOUTS[layout], image_size=size[0]))
    if init != "random":
        load_weights(model, init, f"sam-hq:{layout} at {size[0]}x{size[1]} pixels")
        model.train_only_added()
    return model


class SamHQ(nn.Module):
    """SAM with one more output token, and a feature fused for it from what SAM sees early, late and for the prompt."""

    def __init__(self, layout: SamLayout):
        super().__init__()
        self.grid = layout.grid
        self.image_encoder = build_image_encoder(layout)
        self.prompt_encoder = build_prompt_encoder(layout)
        self.mask_decoder = build_mask_decoder(layout)
        c, early = layout.width, layout.embed_dim
        self.mask_decoder.hf_token = nn.Embedding(1, c)
        self.mask_decoder.hf_mlp = MLP(c, c, c // 8, 3)
        self.mask_decoder.compress_vit_feat = upscaling(early, c, c // 8)
        self.mask_decoder.embedding_encoder = upscaling(c, c // 4, c // 8)
        self.mask_decoder.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(c // 8, c // 4, 3, padding=1),
            LayerNorm2d(c // 4),
            nn.GELU(),
            nn.Conv2d(c // 4, c // 8, 3, padding=1),
        )

    def train_only_added(self) -> None:
        """Freeze what is SAM's."""
        self.requires_grad_(False)
        for name in ADDED:
            getattr(self.mask_decoder, name).requires_grad_(True)

    def see(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding and early feature of images `(N,3,S,S)` in [0,1], see `method.encode`."""
        return encode(self.image_encoder, x)

    def find(self, embedding: torch.Tensor, early: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """Logits `(N,1,g,g)` of the prompted objects: SAM-HQ's own mask, which it is trained and evaluated with."""
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hf_token.weight])
        hs, upscaled = decoder_trunk(decoder, self.prompt_encoder, embedding, tokens, prompts)
        late = decoder.embedding_maskfeature(upscaled) + decoder.embedding_encoder(embedding)
        feature = late + decoder.compress_vit_feat(early)
        return torch.einsum("nc,nchw->nhw", decoder.hf_mlp(hs[:, -1]), feature)[:, None]


def upscaling(channels: int, middle: int, out: int) -> nn.Sequential:
    """Two 2x2 transposed convolutions: `(N,channels,t,t)` -> `(N,out,4t,4t)`."""
    return nn.Sequential(
        nn.ConvTranspose2d(channels, middle, 2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, out, 2, stride=2),
    )


def load_weights(model: SamHQ, path: str | Path, what: str) -> None:
    """Put in the weights of an authors' .pth: SAM's (what SAM-HQ adds keeps its first weights) or SAM-HQ's.

    what: the model in words, for errors. Weights of another model are refused.
    """
    state, own = read_foreign(path), model.state_dict()
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UnsegError(f"Expected weights of SAM or SAM-HQ in {path}, found other content; give another file.")
    state = {key: value for key, value in state.items() if key not in ("pixel_mean", "pixel_std")}
    new = {key for key in own if key.startswith(tuple(f"mask_decoder.{part}." for part in ADDED))}
    needed = own.keys() if new & state.keys() else own.keys() - new
    faults = {
        "missing": needed - state.keys(),
        "unknown": state.keys() - own.keys(),
        "of another shape": {key for key in own.keys() & state.keys() if own[key].shape != state[key].shape},
    }
    for fault, keys in faults.items():
        if keys:
            raise UnsegError(
                f"Expected weights of SAM or SAM-HQ for {what} in {path}, found {len(keys)} parameters {fault} "
                f"(first: {min(keys)}); choose the model and size that the file was made for."
            )
    model.load_state_dict(state, strict=False)
