"""What a defence is, how it enters a data set, and what it does to images and to the noise on them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.images import resize_image
from unseg_lib.seeds import torch_rng

Change = Callable[[np.ndarray, str], np.ndarray]  # pixels uint8 (H,W,3) and the image's id -> pixels, same size


@dataclass(frozen=True)
class Defense:
    """What the owner of a victim does against poisons, to the training images or to the training.

    image: changes a training image as it lies on the disk, before it is resized; the same in every epoch.
    fit: looks at the whole training set first and returns such a change.
    batch: changes float `(N,3,H,W)` in [0,1] at the victim's size, with a generator that differs in every step.
    prepare: (run, model) -> the model that is trained in its place.
    loss: (run, model, x, y) -> the loss of a step, x normalised float `(N,3,H,W)`, y int64 `(N,H,W)`, 255 = ignore.
    """

    image: Change | None = None
    fit: Callable[[SegmentationSet], Change] | None = None
    batch: Callable[[Any, Any], Any] | None = None
    prepare: Callable[[Any, Any], Any] | None = None
    loss: Callable[[Any, Any, Any, Any], Any] | None = None


def defended(source: SegmentationSet, defenses: tuple[Defense, ...]) -> SegmentationSet:
    """`source` with the images that a training under these defences sees; a fitted one reads all images here."""
    for defense in defenses:
        for change in (defense.image, defense.fit and defense.fit(source)):
            if change:
                source = replace(source, changes=(*source.changes, partial(_checked, change)))
    return source


def _checked(change: Change, pixels: np.ndarray, id: str) -> np.ndarray:
    """What a defence makes of an image; anything but pixels of the same size is refused."""
    found = change(pixels, id)
    shape, kind = getattr(found, "shape", type(found).__name__), getattr(found, "dtype", "")
    if (shape, kind) != (pixels.shape, pixels.dtype):
        what = f"{kind} {shape}".strip()
        raise UnsegError(f"Expected a defence to return pixels uint8 {pixels.shape} for {id}, found {what}.")
    return found


def need(name: str, value: float, low: float, high: float) -> None:
    """Refuse an option that is not from `low` to `high`, both allowed."""
    if not low <= value <= high:  # also refuses NaN
        raise UnsegError(f"Expected {name} from {low:g} to {high:g} for this defence, found {value:g}.")


# what a defence does, measured without training anything


def seen(source: SegmentationSet, defenses: tuple[Defense, ...], size: tuple[int, int]) -> np.ndarray:
    """The images as a victim's first step gets them, uint8 `(N,H,W,3)` at `size`, before flip and crop.

    What is drawn at random is drawn alike for two sets of the same ids, so that they can be compared.
    """
    import torch

    source = defended(source, defenses)
    images = [resize_image(source.image(id), size) for id in source.ids]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    for number, defense in enumerate(defenses):
        if defense.batch:
            x = (255 * defense.batch(x.float() / 255, torch_rng(0, "effect", number))).round().byte()
    return x.permute(0, 2, 3, 1).numpy()


def noise_left(pair: tuple[np.ndarray, np.ndarray], defended_pair: tuple[np.ndarray, np.ndarray]) -> float:
    """How much of the noise between (clean, protected) is still between them after the defence: 1 all, 0 none.

    It is a projection: what is only rounded differently in the two is no noise that is left.
    """
    before, after = (b.astype(float) - a for a, b in (pair, defended_pair))
    return float((after * before).sum() / ((before**2).sum() or 1))


def cost(clean: np.ndarray, after: np.ndarray) -> float:
    """PSNR in dB of defended clean images against what they were; infinite where nothing changed."""
    error = ((after.astype(float) - clean) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
