"""SAM-HQ's network (Ke et al., NeurIPS 2023, section 3.2) on segment-anything's parts, in any size.

Not transformers' SamHQModel: in 5.23.0 its decoder up-scales the image's embedding as it was before the two-way
transformer, and with rows and columns swapped.
"""

import re
from dataclasses import replace

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from torch import Tensor, nn

from unseg_lib import method
from unseg_lib.errors import UnsegError
from unseg_lib.victims.training import own_randomness

# what SAM-HQ adds to SAM's mask decoder, named as in its authors' files
ADDED = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature")


def build(layout: str, size: tuple[int, int], init: str, seed: int) -> "SamHQ":
    """SAM-HQ of a layout of `method.LAYOUTS` for images of `size`, with seeded first weights.

    init: "random", and everything learns; or an authors' .pth of SAM (what SAM-HQ adds keeps its first weights) or
    SAM-HQ, and only what SAM-HQ adds learns, as published.
    """
    patch = method.LAYOUTS[layout].patch_size
    if size[0] != size[1] or size[0] % patch:
        expected = f"square images with a side that {patch} divides for sam-hq:{layout}"
        raise UnsegError(f"Expected {expected}, found {size[0]}x{size[1]}; change size.")
    with own_randomness("cpu", seed, "first weights"):
        model = SamHQ(replace(method.LAYOUTS[layout], image_size=size[0]))
    if init != "random":
        found, added = method.read_foreign(init), rf"^mask_decoder\.({'|'.join(ADDED)})\."
        found = {key: value for key, value in found.items() if key not in ("pixel_mean", "pixel_std")}
        of_sam = not any(re.match(added, key) for key in found)
        what = f"SAM or SAM-HQ for sam-hq:{layout} at {size[0]}x{size[1]} pixels"
        method.load_weights(model, found, init, what, spared=added if of_sam else "$^")
        model.train_only_added()
    return model


class SamHQ(nn.Module):
    """SAM with one more output token, and a feature fused for it from what SAM sees early, late and for the prompt."""

    def __init__(self, layout: method.SamLayout):
        super().__init__()
        self.grid = layout.grid
        self.image_encoder = method.build_image_encoder(layout)
        self.prompt_encoder = method.build_prompt_encoder(layout)
        self.mask_decoder = method.build_mask_decoder(layout)
        c, early = layout.width, layout.embed_dim
        self.mask_decoder.hf_token = nn.Embedding(1, c)
        self.mask_decoder.hf_mlp = MLP(c, c, c // 8, 3)
        self.mask_decoder.compress_vit_feat = method.upscaling(early, c, c // 8)
        self.mask_decoder.embedding_encoder = method.upscaling(c, c // 4, c // 8)
        wider, back = nn.Conv2d(c // 8, c // 4, 3, padding=1), nn.Conv2d(c // 4, c // 8, 3, padding=1)
        self.mask_decoder.embedding_maskfeature = nn.Sequential(wider, LayerNorm2d(c // 4), nn.GELU(), back)

    def train_only_added(self) -> None:
        """Freeze what is SAM's."""
        self.requires_grad_(False)
        for name in ADDED:
            getattr(self.mask_decoder, name).requires_grad_(True)

    def see(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and early feature of images `(N,3,S,S)` in [0,1], see `method.encode`."""
        return method.encode(self.image_encoder, x)

    def find(self, embedding: Tensor, early: Tensor, prompts: method.Prompts) -> Tensor:
        """Logits `(N,1,g,g)` of the prompted objects: SAM-HQ's own mask, which it is trained and evaluated with."""
        decoder = self.mask_decoder
        tokens = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, decoder.hf_token.weight])
        hs, upscaled = method.decoder_trunk(decoder, self.prompt_encoder, embedding, tokens, prompts)
        late = decoder.embedding_maskfeature(upscaled) + decoder.embedding_encoder(embedding)
        feature = late + decoder.compress_vit_feat(early)
        return torch.einsum("nc,nchw->nhw", decoder.hf_mlp(hs[:, -1]), feature)[:, None]
