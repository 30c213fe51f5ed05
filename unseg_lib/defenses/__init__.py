"""Defences: what the owner of a victim can do against poisons. One file each; adding one is one line below.

A maker is called with a seed and its options, which are its keyword-only arguments, and returns a `Defense`.
Stopping early needs no defence: every result has the peak beside the final score.
"""

import lazy_loader

from unseg_lib.defenses.adversarial import pgd_at, segpgd_at
from unseg_lib.defenses.bit_depth import bit_depth
from unseg_lib.defenses.coin import coin
from unseg_lib.defenses.ddc_at import ddc_at
from unseg_lib.defenses.defense import Defense, defended, none
from unseg_lib.defenses.down_up import down_up
from unseg_lib.defenses.frozen_encoder import frozen_encoder
from unseg_lib.defenses.gaussian_blur import gaussian_blur
from unseg_lib.defenses.gaussian_noise import gaussian_noise
from unseg_lib.defenses.grayscale import grayscale
from unseg_lib.defenses.jpeg import jpeg
from unseg_lib.defenses.median import median
from unseg_lib.defenses.orthogonal_projection import orthogonal_projection
from unseg_lib.defenses.parse import parse
from unseg_lib.defenses.purify import purify
from unseg_lib.defenses.sharpen_frequency import sharpen_frequency
from unseg_lib.defenses.ueraser import ueraser
from unseg_lib.defenses.universal_component import universal_component

DEFENSES = {
    "none": none,
    # images, the same in every epoch
    "gaussian_blur": gaussian_blur,
    "gaussian_noise": gaussian_noise,
    "median": median,
    "jpeg": jpeg,
    "grayscale": grayscale,
    "bit_depth": bit_depth,
    "down_up": down_up,
    "coin": coin,
    "purify": purify,
    # fitted to all training images
    "orthogonal_projection": orthogonal_projection,
    "universal_component": universal_component,
    # drawn anew in every step
    "sharpen_frequency": sharpen_frequency,
    "ueraser": ueraser,
    # another training
    "pgd_at": pgd_at,
    "segpgd_at": segpgd_at,
    "ddc_at": ddc_at,
    "frozen_encoder": frozen_encoder,
}


def defenses_of(text: str, seed: int = 0) -> tuple[Defense, ...]:
    """Read a defence as notebooks and profiles name it: "jpeg quality=50", "median size=5+grayscale", "none"."""
    return parse(text, DEFENSES, seed)


__all__ = ["DEFENSES", "Defense", "defended", "defenses_of"]

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adversarial": ["attack", "cross_entropy_sum", "segpgd"],
        "ddc_at": ["DividedModel", "divided_loss", "flipped"],
        "defense": ["DefendedSet"],
        "effect": ["cost", "noise_left", "seen"],
        "frozen_encoder": ["freeze"],
        "orthogonal_projection": ["image_of", "sample", "separating", "tiles_of"],
        "sharpen_frequency": ["low_frequencies", "sharpen"],
        "ueraser": ["OPERATIONS", "operate", "plasma"],
        "universal_component": ["GRIDS", "PERIODS", "shared_tile"],
    },
)
