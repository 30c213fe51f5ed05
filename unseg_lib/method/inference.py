"""A generator made ready to protect many images fast: fused attention, bf16 where the hardware has it, batches."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.method.generator import Generator, square_of_image
from unseg_lib.method.pairs import resize
from unseg_lib.method.prompts import Prompts
from unseg_lib.method.sam import encode_fused, position_maps
from unseg_lib.method.variants import begun_at
from unseg_lib.runtime import has_bf16

PRECISIONS = ("auto", "32", "bf16")
LARGE = 768  # channels of ViT-B


# an image as the model takes it: x `(1,3,S,S)` in [0,1] and its prompts, still on the CPU; and where its noise starts
Prepared = tuple[Tensor, Prompts, tuple[int, int]]


class Inference:
    """A generator with one way to run it; it becomes this object's own, and its weights must not change any more.

    reference: as the paper's numbers were made, fp32, eager, segment-anything's own attention, one image at a time; the
    noise of the other ways differs by rounding.
    precision: "32", "bf16" (autocast; the noise is still read out in fp32), or "auto": bf16 where the device has it in
    hardware and the layout is at least ViT-B; smaller ones gain little, and their pixels move by up to three steps.
    compiled: by torch.compile, which takes minutes at first and needs a C++ compiler.
    """

    def __init__(self, generator: Generator, *, reference: bool = False, precision="auto", compiled=False):
        if precision not in PRECISIONS:
            raise UnsegError(f"Expected the precision {', '.join(PRECISIONS)}, found '{precision}'.")
        if reference and (precision == "bf16" or compiled):
            raise UnsegError("Expected neither bf16 nor compiling with reference=True, which is fp32 and eager.")
        self.generator, self.reference = generator.eval(), reference
        self.device = generator.noise_tokens.weight.device
        self.large = generator.layout.embed_dim >= LARGE
        worth_it = self.large and has_bf16(self.device.type)
        self.half = not reference and (precision == "bf16" or (precision == "auto" and worth_it))
        if reference:
            return
        # what depends on weights alone is made once
        with torch.no_grad():
            maps, dtype = position_maps(generator.image_encoder), torch.bfloat16 if self.half else torch.float32
            maps = [(down.to(dtype), across.to(dtype)) for down, across in maps]
            generator.position = generator.prompt_encoder.get_dense_pe()
        generator.encode = partial(encode_fused, maps=maps, compiled=compiled)
        for head in (generator.noise_from_early, generator.noise_from_embedding, generator.noise_from_upscaled):
            head.to(memory_format=torch.channels_last)  # as features come out of a transformer

    def prepare(self, image: np.ndarray, *, mask=None, box=None, points=None) -> Prepared:
        """The processor's share for one image uint8 `(H,W,3)`, prompts as of `Generator.noise`; for any thread."""
        prompts = self.generator.prompts_of(image.shape[:2], mask, box, points)
        make = square_of_image if self.reference else square_of_bytes
        return make(image, self.generator.layout.image_size), prompts, self.generator.start_of(image)

    @torch.inference_mode()
    def __call__(self, prepared: list[Prepared]) -> Tensor:
        """Raw noise of N images, float `(N,3,g,g)` in [-1,1], on the CPU."""
        if self.reference and len(prepared) > 1:
            return torch.cat([self([one]) for one in prepared])
        images, prompts, starts = zip(*prepared)
        if len({one.points.shape[1] for one in prompts}) > 1:
            raise UnsegError("Expected the same number of points for all images of a batch; use batches of one.")
        prompts = Prompts(*map(torch.cat, zip(*(vars(one).values() for one in prompts)))).to(self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            noise = self.generator(torch.cat(images).to(self.device, non_blocking=True), prompts).float().cpu()
        return begun_at(noise, starts) if self.generator.shifted else noise

    def noise(self, image: np.ndarray, **prompt) -> Tensor:
        """What `Generator.noise` returns for one image, this way."""
        return self([self.prepare(image, **prompt)])[0]


# Noise twice as fine, for objects of a few cells; not in the paper. Each quarter of an image's padded square becomes an
# image of its own. An image whose noise would have more cells than it has pixels is not divided.


def quarters(image: np.ndarray, mask: np.ndarray, grid: int) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Quarters of an image uint8 `(H,W,3)` and its mask bool `(H,W)`, padded black to squares, row by row; None without
    a protected pixel. Of an image of less than 2 `grid` pixels a side, only it itself.
    """
    if max(mask.shape) < 2 * grid:
        return [(image, mask)]
    side, found = -(-max(mask.shape) // 2), []
    for place in (np.s_[y : y + side, x : x + side] for y in (0, side) for x in (0, side)):
        missing = [(0, side - length) for length in mask[place].shape]
        part = np.pad(image[place], [*missing, (0, 0)]), np.pad(mask[place], missing)
        found.append(part if part[1].any() else None)
    return found


def joined(noises: Sequence[Tensor | None]) -> Tensor:
    """The noise `(3,2g,2g)` of an image from those `(3,g,g)` of its `quarters`, 0 where none; one stays as it is."""
    if len(noises) == 1:
        return noises[0]
    empty = torch.zeros_like(next(noise for noise in noises if noise is not None))
    cells = [empty if noise is None else noise for noise in noises]
    return torch.cat([torch.cat(cells[:2], dim=2), torch.cat(cells[2:], dim=2)], dim=1)


class Quartered:
    """An `Inference` that takes every quarter of an image for itself, each shown its part of the mask."""

    def __init__(self, inference: Inference):
        self.inference, self.device, self.large = inference, inference.device, inference.large

    def prepare(self, image: np.ndarray, *, mask: np.ndarray, **prompts: None) -> list[Prepared | None]:
        parts = quarters(image, mask, self.inference.generator.layout.grid)
        return [part and self.inference.prepare(part[0], mask=part[1], **prompts) for part in parts]

    def __call__(self, prepared: list[list[Prepared | None]]) -> list[Tensor]:
        noises = iter(self.inference([part for parts in prepared for part in parts if part]))
        return [joined([part and next(noises) for part in parts]) for parts in prepared]


def square_of_bytes(image: np.ndarray, size: int) -> Tensor:
    """`square_of_image`, but padded as bytes and divided by 255 when small: equal to rounding, and faster."""
    side = max(image.shape[:2])
    padded = F.pad(torch.from_numpy(np.array(image)), (0, 0, 0, side - image.shape[1], 0, side - image.shape[0]))
    return resize(padded.permute(2, 0, 1)[None].float(), size).contiguous() / 255
