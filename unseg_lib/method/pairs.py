"""Image-mask pairs as a stream of jittered batches that can start at any step (§ 4.1, 4.2)."""

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from unseg_lib.errors import UnsegError
from unseg_lib.method.sam import LAYOUTS
from unseg_lib.seeds import torch_rng


def resize(x: Tensor, size: int) -> Tensor:
    """Bilinear, `(N,C,S,S)` -> `(N,C,size,size)`; antialiased when it shrinks (official code: it is not)."""
    if x.shape[-1] == size:
        return x
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=x.shape[-1] > size)


def large_scale_jitter(image: Tensor, mask: Tensor, size: int, rng: torch.Generator, scales=(0.1, 2.0)) -> tuple:
    """Flip, rescale by a large factor, crop, pad: one image and its mask to `size` x `size` (SAM-HQ's, § 4.2).

    image uint8 `(3,H,W)`, mask uint8 `(H,W)` of 0..255 -> image `(3,size,size)` and mask `(1,size,size)` with soft
    edges, in [0,1]. The long side becomes s * size with s uniform in `scales`; what is larger is cropped at random, and
    what is smaller padded right and below with 0. Shrinking is antialiased (official code: it is not).
    """
    both = torch.cat([image, mask[None]])[None].float() / 255
    if torch.rand((), generator=rng) < 0.5:
        both = both.flip(3)
    # rescale
    s = scales[0] + (scales[1] - scales[0]) * torch.rand((), generator=rng).item()
    ratio = s * size / max(both.shape[2:])
    height, width = (max(1, round(side * ratio)) for side in both.shape[2:])
    both = F.interpolate(both, (height, width), mode="bilinear", align_corners=False, antialias=ratio < 1)
    # crop and pad
    top, left = (int(torch.randint(max(0, side - size) + 1, (), generator=rng)) for side in (height, width))
    both = both[0, :, top : top + size, left : left + size]
    both = F.pad(both, (0, size - both.shape[2], 0, size - both.shape[1]))
    return both[:3], both[3:]


class JitteredPairs(Dataset):
    """Item (epoch, i) -> image i, jittered in a way that depends on (seed, epoch, i) alone."""

    def __init__(self, pairs, config):
        self.pairs, self.config, self.size = pairs, config, LAYOUTS[config.layout].image_size

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        epoch, i = key
        image, mask = self.pairs[i]
        if mask.shape != image.shape[:2]:
            raise UnsegError(f"Expected mask {i} of size {image.shape[:2]}, found {mask.shape}.")
        x, y = torch.from_numpy(np.array(image)).permute(2, 0, 1), torch.from_numpy(np.array(mask))
        y = 255 * y.byte() if y.dtype == torch.bool else y
        rng = torch_rng(self.config.seed, "jitter", epoch, i)
        return large_scale_jitter(x, y, self.size, rng, self.config.scales)


def steps_per_epoch(images: int, config, world_size: int = 1) -> int:
    """Full batches in one pass over the images; the rest is dropped, as published (§ 4.5)."""
    batch = config.batch_size * world_size
    if images < batch:
        remedy = "lower batch_size or add images."
        raise UnsegError(f"Expected at least {batch} images (one batch), found {images}; {remedy}")
    return images // batch


def keys_of(images: int, config, start: int, total: int, rank: int, world_size: int) -> Iterator[list]:
    """Batches of (epoch, image) keys of one rank, from step `start` to `total`."""
    per_epoch = steps_per_epoch(images, config, world_size)
    for step in range(start, total):
        epoch, within = divmod(step, per_epoch)
        order = torch.randperm(images, generator=torch_rng(config.seed, "order", epoch)).tolist()
        first = (within * world_size + rank) * config.batch_size
        yield [(epoch, i) for i in order[first : first + config.batch_size]]


def batches(pairs, config, start: int, total: int, fabric, workers: int = 0) -> DataLoader:
    """A loader of (x `(N,3,S,S)`, y `(N,1,S,S)`), both in [0,1], for steps start..total-1."""
    keys = list(keys_of(len(pairs), config, start, total, fabric.global_rank, fabric.world_size))
    loader = DataLoader(JitteredPairs(pairs, config), batch_sampler=keys, num_workers=workers)
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)


def ahead(items: Iterable) -> Iterator:
    """The same items, the next one made in a thread meanwhile."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, iterator, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, iterator, end)
            yield item


def digest(*parts: np.ndarray | str | None) -> str:
    """SHA-256 of arrays (with their shapes and types) and words, as hex."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(part.tobytes())
        else:
            sha.update(repr(part).encode())
    return sha.hexdigest()
