"""Images for victims: resized once, kept as bytes, augmented a batch at a time."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.images import MEAN, STD, resize_image, resize_label
from unseg_lib.runtime import progress
from unseg_lib.seeds import torch_rng

SCALE = (0.75, 1.25)
MEMORY = 8 << 30  # bytes of decoded images that are held in memory: more, as COCO's are, lie in a file


def room(shape: tuple[int, ...], folder: str | Path | None = None) -> Tensor:
    """An uint8 tensor of this shape, to be filled.

    One of more than `MEMORY` bytes lies in a file without a name below `folder` (default: where temporary files go),
    of which the system holds in memory what is used; the file is gone when the process is.
    """
    size = prod(shape)
    if size <= MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    folder = folder or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # at once: a disk that fills up later would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
    except (OSError, AttributeError) as error:
        reason = getattr(error, "strerror", None) or "this system cannot reserve it"
        raise UnsegError(
            f"Expected {size / 1e9:.0f} GB of disk below {folder} for decoded images, found no such room ({reason}); "
            "free it, or take fewer or smaller images."
        ) from error


def tensors(
    source: SegmentationSet, size: tuple[int, int], what: str, folder: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Images uint8 `(N,3,H,W)` and labels uint8 `(N,H,W)`, 255 = ignore, of a set at `size`; folder: see `room`."""
    x, y = room((len(source), 3, *size), folder), room((len(source), *size), folder)
    for i, name in enumerate(progress(source.ids, f"reading {what} images")):
        x[i], y[i] = resized_image(source.image(name), size), resized_label(source.label(name), size)
    return x, y


def resized_image(pixels: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Pixels uint8 `(h,w,3)` to `(3,H,W)`, bilinearly with antialiasing."""
    return torch.from_numpy(resize_image(pixels, size)).permute(2, 0, 1)


def resized_label(label: np.ndarray, size: tuple[int, int]) -> Tensor:
    """A map or mask `(h,w)` to `(H,W)`, each pixel from the nearest one."""
    return torch.from_numpy(resize_label(label, size))


def mixed(
    train: SegmentationSet, clean: SegmentationSet | None, fraction: float, seed: int, *, clean_only: bool = False
) -> SegmentationSet:
    """`train` with this share of its images as they are in `clean`; the labels stay those of `train`.

    The images of a smaller share are among those of a larger one. clean_only: only they are left, which is
    what the paper compares a mixture with; a share of 0 leaves `train` as it is.
    """
    if not 0 <= fraction <= 1:
        raise UnsegError(f"Expected clean_fraction between 0 and 1, found {fraction}.")
    if fraction == 0:
        return train
    if missing := sorted(set(train.ids) - set(clean.ids if clean else ())):
        raise UnsegError(
            f"Expected every training image also among the clean ones with a clean_fraction of {fraction}, found no "
            f"{missing[0]} there; pass the same split of the clean data set as clean."
        )
    order = torch.randperm(len(train), generator=torch_rng(seed, "clean pictures"))
    chosen = {train.ids[i] for i in order[: round(fraction * len(train))].tolist()}
    ids = tuple(id for id in train.ids if id in chosen or not clean_only)
    paths = {id: (clean if id in chosen else train).image_path(id).absolute() for id in ids}
    # the very files: by stem, a part of HQSeg would give the mask that lies beside the clean image
    return replace(train, ids=ids, originals=paths)


def batches(images: int, batch_size: int, seed: int, epoch: int) -> Tensor:
    """Image numbers of one epoch's batches, int64 `(steps,batch)`; what does not fill a batch waits for another epoch.

    A set smaller than a batch is one batch of at least two (batch normalisation): a single image comes twice.
    """
    batch = min(batch_size, max(2, images))
    order = torch.randperm(images, generator=torch_rng(seed, "order", epoch))
    steps = max(1, images // batch)
    return torch.cat([order, order])[: steps * batch].view(steps, batch)


def normalise(x: Tensor) -> Tensor:
    """uint8 `(N,3,H,W)`, or float from 0 to 255, to float with zero mean and unit variance over ImageNet."""
    mean, std = (x.new_tensor(value, dtype=torch.float32).view(3, 1, 1) for value in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def augment(x: Tensor, y: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Flip and scale-crop x float `(N,3,H,W)`, y uint8 `(N,H,W)` -> same, y int64; outside is gray and ignored."""
    grid = random_windows(x, SCALE, rng)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # grid_sample pads with 0, so labels are moved to make 0 mean "ignore"
    y = F.grid_sample(y[:, None].float() - IGNORE, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return x, (y[:, 0] + IGNORE).long()


def random_windows(
    x: Tensor,
    scale: tuple[float, float],
    rng: torch.Generator,
    crop: float = 1.0,
    size: tuple[int, int] | None = None,
    shapes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """Grids `(N,h,w,2)` for `grid_sample`: of each image, enlarged by one of `scale`, a window `crop` times as high.

    size: what the window is a part of, where it is not that of x. shapes: the images are only these upper left parts.
    """
    n, (height, width) = len(x), size or x.shape[2:]
    flip = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    seen = crop / torch.empty(n).uniform_(*scale, generator=rng)
    # width and height: sides of the window over those of the image, and of the image over those of x
    own = torch.tensor(shapes or [x.shape[2:]] * n).flip(1)
    seen, part = seen[:, None] * (torch.tensor([width, height]) / own), own / torch.tensor(x.shape[:1:-1])
    shift = (torch.rand(n, 2, generator=rng) * 2 - 1) * (1 - seen).abs()
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = flip * seen[:, 0] * part[:, 0], seen[:, 1] * part[:, 1]
    theta[:, :, 2] = shift * part + (part - 1)
    return F.affine_grid(theta.to(x.device), [n, 3, round(crop * height), round(crop * width)], align_corners=False)
