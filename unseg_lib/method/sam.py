"""SAM's parts from segment-anything, in any size, and the two passes that UnSeg takes through them.

`encode` also returns the early feature (SAM-HQ's change to the encoder); `decoder_trunk` runs the
two-way transformer with extra tokens, over a batch in which every image has its own prompt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import nn

IMAGE_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0,1]; SAM's 0-255 constants are the same numbers
IMAGE_STD = (0.229, 0.224, 0.225)


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

    @property
    def tokens(self) -> int:
        """Side of the token grid."""
        return self.image_size // self.patch_size

    @property
    def grid(self) -> int:
        """Side of the mask, prompt-mask and noise grids: four times the token grid."""
        return 4 * self.tokens


LAYOUTS = {
    "vit_b": SamLayout(),
    "vit_l": SamLayout(embed_dim=1024, depth=24, heads=16, global_blocks=(5, 11, 17, 23)),
    "vit_h": SamLayout(embed_dim=1280, depth=32, heads=16, global_blocks=(7, 15, 23, 31)),
    # for training from scratch on a CPU: 16 x 16 tokens, noise of 64 x 64 cells
    "small": SamLayout(128, 8, 128, 3, 4, (1,), 8, 64, 4, 256),
    "tiny": SamLayout(32, 4, 32, 2, 2, (1,), 4, 32, 2, 64),
}


def build_image_encoder(layout: SamLayout) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=layout.image_size,
        patch_size=layout.patch_size,
        embed_dim=layout.embed_dim,
        depth=layout.depth,
        num_heads=layout.heads,
        mlp_ratio=4,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        qkv_bias=True,
        use_rel_pos=True,
        global_attn_indexes=layout.global_blocks,
        window_size=layout.window,
        out_chans=layout.width,
    )


def build_prompt_encoder(layout: SamLayout) -> PromptEncoder:
    return PromptEncoder(
        embed_dim=layout.width,
        image_embedding_size=(layout.tokens, layout.tokens),
        input_image_size=(layout.image_size, layout.image_size),
        mask_in_chans=16,
    )


def build_mask_decoder(layout: SamLayout, num_multimask_outputs: int = 3) -> MaskDecoder:
    return MaskDecoder(
        num_multimask_outputs=num_multimask_outputs,
        transformer=TwoWayTransformer(
            depth=2, embedding_dim=layout.width, mlp_dim=layout.decoder_mlp, num_heads=layout.decoder_heads
        ),
        transformer_dim=layout.width,
        iou_head_depth=3,
        iou_head_hidden_dim=layout.width,
    )


def normalise(x: torch.Tensor) -> torch.Tensor:
    """RGB in [0,1] `(N,3,H,W)` -> zero mean, unit variance on ImageNet."""
    mean = x.new_tensor(IMAGE_MEAN).view(3, 1, 1)
    std = x.new_tensor(IMAGE_STD).view(3, 1, 1)
    return (x - mean) / std


def encode(
    encoder: ImageEncoderViT,
    x: torch.Tensor,
    run: Callable[[nn.Module, torch.Tensor], torch.Tensor] = nn.Module.__call__,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the image encoder on `(N,3,S,S)` in [0,1]; `run(block, x)` says how a block is run.

    Returns the embedding `(N,width,t,t)` and the early feature `(N,embed_dim,t,t)`: the output of the
    first block with global attention.
    """
    x = encoder.patch_embed(normalise(x)) + encoder.pos_embed  # (N,t,t,embed_dim)
    early = None
    for block in encoder.blocks:
        x = run(block, x)
        if early is None and block.window_size == 0:
            early = x.permute(0, 3, 1, 2)
    return encoder.neck(x.permute(0, 3, 1, 2)), early


def decoder_trunk(
    decoder: MaskDecoder,
    prompt_encoder: PromptEncoder,
    embedding: torch.Tensor,
    tokens: torch.Tensor,
    prompts,
    position: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run the two-way transformer and the up-scaling for images with a prompt each.

    embedding `(N,width,t,t)`; tokens `(k,width)`, the output tokens that stand before the prompt's;
    prompts: `prompts.Prompts` of N images. Images that are prompted by the same kinds go through
    together, because the number of prompt tokens differs between kinds.
    position: the prompt encoder's `get_dense_pe()`, where it is known already.
    Returns the output tokens `(N,k,width)` and the up-scaled feature `(N,width/8,4t,4t)`.
    """
    position = prompt_encoder.get_dense_pe() if position is None else position
    outputs, features, order = [], [], []
    for rows, points, boxes, masks in prompts.by_kind():
        sparse, dense = prompt_encoder(points=points, boxes=boxes, masks=masks)
        n = len(rows)
        if len(sparse) != n:  # no prompt at all: segment-anything answers for one image
            sparse, dense = sparse.expand(n, -1, -1), dense.expand(n, -1, -1, -1)
        query = torch.cat([tokens.expand(n, -1, -1), sparse], dim=1)
        hs, image = decoder.transformer(embedding[rows] + dense, position.expand(n, -1, -1, -1), query)
        outputs.append(hs[:, : len(tokens)])
        features.append(image.transpose(1, 2).reshape(embedding[rows].shape))
        order.append(rows)
    back = torch.argsort(torch.cat(order))
    return torch.cat(outputs)[back], decoder.output_upscaling(torch.cat(features)[back])
