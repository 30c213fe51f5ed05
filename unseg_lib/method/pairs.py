"""Image-mask pairs as a stream of jittered batches that can start at any step."""

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from unseg_lib.errors import UnsegError, pick
from unseg_lib.method.jitter import large_scale_jitter
from unseg_lib.method.sam import LAYOUTS
from unseg_lib.seeds import torch_rng


def steps_per_epoch(images: int, config, world_size: int = 1) -> int:
    """Full batches in one pass over the images; the rest is dropped, as published."""
    steps = images // (config.batch_size * world_size)
    if steps == 0:
        raise UnsegError(
            f"Expected at least {config.batch_size * world_size} images (one batch), found {images}; "
            "lower batch_size or add images."
        )
    return steps


class JitteredPairs(Dataset):
    """Item (epoch, i) -> image i, jittered in a way that depends on (seed, epoch, i) alone."""

    def __init__(self, pairs, config):
        self.pairs, self.config, self.size = pairs, config, pick(LAYOUTS, config.layout, "layout").image_size

    def __getitem__(self, key: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, i = key
        image, mask = self.pairs[i]
        if mask.shape != image.shape[:2]:
            raise UnsegError(f"Expected mask {i} of size {image.shape[:2]}, found {mask.shape}.")
        mask = mask.astype(np.uint8) * 255 if mask.dtype == bool else mask
        x = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        rng = torch_rng(self.config.seed, "jitter", epoch, i)
        return large_scale_jitter(x, torch.from_numpy(np.array(mask)), self.size, rng, tuple(self.config.scales))


def _keys(images: int, config, start: int, total: int, rank: int, world: int):
    """Batches of (epoch, image) keys of one rank, from step `start` to `total`."""
    per_epoch = steps_per_epoch(images, config, world)
    for step in range(start, total):
        epoch, within = divmod(step, per_epoch)
        order = torch.randperm(images, generator=torch_rng(config.seed, "order", epoch)).tolist()
        first = (within * world + rank) * config.batch_size
        yield [(epoch, i) for i in order[first : first + config.batch_size]]


def batches(pairs, config, start: int, total: int, fabric, workers: int = 0) -> DataLoader:
    """A loader of (x `(N,3,S,S)`, y `(N,1,S,S)`), both in [0,1], for steps start..total-1."""
    keys = list(_keys(len(pairs), config, start, total, fabric.global_rank, fabric.world_size))
    loader = DataLoader(JitteredPairs(pairs, config), batch_sampler=keys, num_workers=workers)
    return fabric.setup_dataloaders(loader, use_distributed_sampler=False)
