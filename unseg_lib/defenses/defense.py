"""What a defence is: up to five functions, each of which may be missing."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError

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

    @property
    def changes_training(self) -> bool:
        """Whether it needs the kit's own training loop; otherwise it only changes the images."""
        return any((self.batch, self.prepare, self.loss))


def none(seed: int) -> Defense:
    """No defence."""
    return Defense()


@dataclass(frozen=True, eq=False)
class DefendedSet(SegmentationSet):
    """A data set whose images are changed as they are read; ids, labels and files are those of `inner`."""

    inner: SegmentationSet | None = None
    change: Change | None = None

    def image(self, id: str) -> np.ndarray:
        before = self.inner.image(id)
        after = self.change(before, id)
        if not isinstance(after, np.ndarray) or (after.shape, after.dtype) != (before.shape, before.dtype):
            found = f"{after.dtype} {after.shape}" if isinstance(after, np.ndarray) else type(after).__name__
            raise UnsegError(f"Expected a defence to return pixels uint8 {before.shape} for {id}, found {found}.")
        return after


def defended(source: SegmentationSet, defenses: tuple[Defense, ...]) -> SegmentationSet:
    """`source` with the images that a training under these defences sees; a fitted one reads all images here."""
    for defense in defenses:
        for change in (defense.image, defense.fit and defense.fit(source)):
            if change:
                own = {field.name: getattr(source, field.name) for field in fields(SegmentationSet)}
                source = DefendedSet(**own, inner=source, change=change)
    return source


def need(name: str, value: float, low: float, high: float) -> None:
    """Refuse an option that is not from `low` to `high`, both allowed."""
    if not low <= value <= high:  # also refuses NaN
        raise UnsegError(f"Expected {name} from {low:g} to {high:g} for this defence, found {value:g}.")


def as_pixels(values: np.ndarray) -> np.ndarray:
    """Float values of an image to uint8, rounded and clipped."""
    return values.round().clip(0, 255).astype(np.uint8)
