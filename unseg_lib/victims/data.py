"""Pictures for victims: resized once, kept in memory as bytes, augmented a batch at a time."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation.metrics import IGNORE
from unseg_lib.progress import progress
from unseg_lib.seeds import torch_rng

if TYPE_CHECKING:
    from unseg_lib.datasets import SegmentationSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet: what pretrained encoders expect
SCALE = (0.75, 1.25)


def tensors(source: "SegmentationSet", size: tuple[int, int], what: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Read a data set at `size`: pictures uint8 `(N,3,H,W)` and labels uint8 `(N,H,W)`, 255 = ignore.

    Pictures are resized bilinearly with antialiasing, labels to the nearest pixel. `what` names the progress.
    """
    height, width = size
    x = torch.empty(len(source), 3, height, width, dtype=torch.uint8)
    y = torch.empty(len(source), height, width, dtype=torch.uint8)
    for i, name in enumerate(progress(source.ids, f"reading {what} pictures")):
        picture = Image.fromarray(source.picture(name)).resize((width, height), Image.Resampling.BILINEAR)
        label = Image.fromarray(checked_label(source, name)).resize((width, height), Image.Resampling.NEAREST)
        x[i] = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        y[i] = torch.from_numpy(np.array(label))
    return x, y


def checked_label(source: "SegmentationSet", name: str) -> np.ndarray:
    """The label map of a picture, uint8 `(H,W)`, holding only classes of the set and 255."""
    label = source.label(name).astype(np.uint8, copy=False)
    highest = label[label != IGNORE].max(initial=0)
    if highest >= len(source.classes):
        raise UnsegError(
            f"Expected labels below {len(source.classes)} or 255 in {source.name}, found {highest} in {name}; "
            "is it a label map of this data set?"
        )
    return label


def clean_ids(ids: tuple[str, ...], fraction: float, seed: int) -> set[str]:
    """The pictures that stay clean in a mixture; those of a smaller fraction are among those of a larger one."""
    order = torch.randperm(len(ids), generator=torch_rng(seed, "clean pictures"))
    return {ids[i] for i in order[: round(fraction * len(ids))].tolist()}


def batches(pictures: int, batch_size: int, seed: int, epoch: int) -> torch.Tensor:
    """Picture numbers of one epoch's batches, int64 `(steps,batch)`.

    What does not fill a batch is left for another epoch. A set smaller than a batch is one batch, at least
    two pictures long (batch normalisation), so a single picture comes twice.
    """
    batch = min(batch_size, max(2, pictures))
    order = torch.randperm(pictures, generator=torch_rng(seed, "order", epoch))
    steps = max(1, pictures // batch)
    return torch.cat([order, order])[: steps * batch].view(steps, batch)


def normalise(x: torch.Tensor) -> torch.Tensor:
    """uint8 `(N,3,H,W)` to float, zero mean and unit variance over ImageNet."""
    mean, std = (x.new_tensor(value, dtype=torch.float32).view(3, 1, 1) for value in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def augment(x: torch.Tensor, y: torch.Tensor, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Flip and scale-crop every picture of a batch: x float `(N,3,H,W)`, y uint8 `(N,H,W)` -> same, y int64.

    Scaled up by s, a random window of the picture is seen; scaled down, the picture lies somewhere in the
    window, and what is around it is mean gray and ignored.
    """
    n = len(x)
    flip = torch.where(torch.rand(n, generator=rng) < 0.5, -1.0, 1.0)
    seen = 1 / torch.empty(n).uniform_(*SCALE, generator=rng)  # side of the window over that of the picture
    shift = (torch.rand(n, 2, generator=rng) * 2 - 1) * (1 - seen).abs()[:, None]
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = flip * seen, seen, shift
    grid = F.affine_grid(theta.to(x.device), list(x.shape), align_corners=False)
    x = F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # grid_sample pads with 0, so labels are moved to make 0 mean "ignore"
    y = F.grid_sample(y[:, None].float() - IGNORE, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    return x, (y[:, 0] + IGNORE).long()
