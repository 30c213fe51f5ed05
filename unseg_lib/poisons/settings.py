"""What a poison is told, what it is given, and the one way in which noise meets an image."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Real
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError, closest
from unseg_lib.images import IGNORE
from unseg_lib.method import add_noise

PROMPTS = ("mask", "box", "points")


@dataclass(frozen=True)
class PoisonSettings:
    """Settings of a poison.

    eps, eps_bg: budget inside and outside the protected mask, over 255; fractions allowed. generator: name of a
    shipped one or path of a .safetensors file. prompt: "mask", "box" or "points", or several joined by "+". device:
    "auto", "cpu", "cuda", ... cache: folder for raw noise. include_background: whether poisons that know classes but
    no eps treat the background as one more class. fitted: the file that a poison with a `fit` has learnt from the set.
    """

    eps: float = 8
    eps_bg: float = 2
    seed: int = 0
    generator: str = "small"
    prompt: str = "mask"
    device: str = "auto"
    cache: Path | None = None
    include_background: bool = True
    fitted: Path | None = None

    def __post_init__(self):
        for name, value in (("eps", self.eps), ("eps_bg", self.eps_bg)):
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= 255:  # also refuses NaN
                raise UnsegError(f"Expected {name} from 0 to 255 (it is a number over 255), found {value!r}.")
        if not isinstance(self.prompt, str):
            raise UnsegError(f"Expected a text for prompt, {' or '.join(PROMPTS)}, found {self.prompt!r}.")
        for kind in self.prompt.split("+"):
            if kind not in PROMPTS:
                raise UnsegError(f"Unknown prompt '{kind}'; {closest(kind, list(PROMPTS))} Join several by '+'.")


@dataclass(frozen=True)
class Sample:
    """One image: pixels uint8 `(H,W,3)`; mask bool `(H,W)`, True = protect; label uint8 `(H,W)`, 255 = ignore.

    gray: it is (to be) stored as one channel; its channels are equal and its noise stays gray.
    background: index of the background class; None where every class is of interest.
    """

    id: str
    pixels: np.ndarray
    mask: np.ndarray
    label: np.ndarray
    gray: bool = False
    background: int | None = None


Apply = Callable[[Sample], np.ndarray]  # an image -> its poisoned pixels, uint8 (H,W,3)
Noise = Callable[[Sample, PoisonSettings], np.ndarray]  # an image, the settings -> its noise (H,W,3)


def within_budget(noise_of: Noise, *, ignored: bool = False) -> Callable[[PoisonSettings], Apply]:
    """The poison that adds `noise_of(image, settings)` in [-1,1] times eps inside the mask and eps_bg outside.

    An image with nothing to protect stays as it is, as in the released code. `ignored` says whether pixels labelled
    255 get background noise, as UnSeg's do; the simple noises leave them alone.
    """

    def apply(settings: PoisonSettings, image: Sample) -> np.ndarray:
        if not image.mask.any():
            return image.pixels
        noise = noise_of(image, settings)
        if not ignored:
            noise = np.where((image.label == IGNORE)[..., None], 0, noise)
        return add_noise(image.pixels, noise, image.mask, settings.eps, settings.eps_bg, gray=image.gray)

    return lambda settings: partial(apply, settings)
