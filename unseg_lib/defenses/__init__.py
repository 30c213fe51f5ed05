"""Defences: what the owner of a victim can do against poisons. Adding one is one line in `DEFENSES`.

Stopping early needs no defence: every result has the peak beside the final score.
"""

# ruff: noqa: F401 - this is the face of the package, too: what others import from it

from collections.abc import Callable
from dataclasses import dataclass
from pkgutil import resolve_name

from unseg_lib.defenses import batches, fitted, images
from unseg_lib.defenses.defense import Defense, cost, defended, need, noise_left, seen
from unseg_lib.errors import UnsegError
from unseg_lib.options import keywords_of, parse_options

TRAINING = "unseg_lib.victims.defended_training"


@dataclass(frozen=True)
class Maker:
    """How a defence is made: (seed, *, its options) -> `Defense`, or "package.module:name" of such a function, loaded
    when it is asked for; and what it does, in words, for tables."""

    make: Callable[..., Defense] | str
    words: str = ""

    @property
    def function(self) -> Callable[..., Defense]:
        return resolve_name(self.make) if isinstance(self.make, str) else self.make


DEFENSES: dict[str, Maker] = {
    "none": Maker(lambda seed: Defense(), "no defence"),
    # every victim shrinks what is larger than it sees; the name is for tables, beside sets poisoned at a working size
    "shrunk": Maker(lambda seed: Defense(), "published large, shrunk to the victim's size"),
    # each image for itself, the same in every epoch
    "gaussian_blur": Maker(images.gaussian_blur, "blurred"),
    "gaussian_noise": Maker(images.gaussian_noise, "Gaussian noise on every image"),
    "median": Maker(images.median, "median filter"),
    "jpeg": Maker(images.jpeg, "saved as JPEG"),
    "grayscale": Maker(images.grayscale, "gray images"),
    "bit_depth": Maker(images.bit_depth, "fewer bits a channel"),
    "down_up": Maker(images.down_up, "shrunk and enlarged again"),
    "coin": Maker(images.coin, "every pixel fetched from nearby"),
    "wiener": Maker(images.wiener, "Wiener's filter"),
    "median_cut": Maker(images.median_cut, "a palette of few colours"),
    "elastic": Maker(images.elastic, "elastically distorted"),
    "purify": Maker(images.purify, "a purifier of one's own"),
    # fitted to all training images
    "orthogonal_projection": Maker(fitted.orthogonal_projection, "without what a linear classifier goes by"),
    "universal_component": Maker(fitted.universal_component, "the noise that all images share subtracted"),
    # drawn anew in every step
    "sharpen_frequency": Maker(batches.sharpen_frequency, "sharpened at random, then the lowest frequencies"),
    "ueraser": Maker(batches.ueraser, "strong photometric augmentation"),
    # another training, which is the victims' matter: their package lies above this one and imports it
    "pgd_at": Maker(f"{TRAINING}:pgd_at", "adversarial training"),
    "segpgd_at": Maker(f"{TRAINING}:segpgd_at", "adversarial training against SegPGD"),
    "ddc_at": Maker(f"{TRAINING}:ddc_at", "adversarial training with divided heads"),
    "frozen_encoder": Maker(f"{TRAINING}:frozen_encoder", "the encoder keeps its first weights"),
}


def defenses_of(text: str, seed: int = 0) -> tuple[Defense, ...]:
    """The defences that a text names, in its order: "jpeg quality=50", "median size=5+grayscale", "none"."""
    found = []
    for part in text.split("+"):
        _, maker, values = parse_options(part, DEFENSES, "defence", lambda m: keywords_of(m.function), "the defence ")
        found.append(maker.function(seed, **values))
    if sum(defense.loss is not None for defense in found) > 1:
        raise UnsegError(f"Expected at most one defence that trains in its own way, found several in '{text}'.")
    return tuple(found)
