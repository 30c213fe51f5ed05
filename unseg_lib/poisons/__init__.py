"""Poisons: each makes of one image its unlearnable copy. Adding one is one line below.

A poison is made once with the settings and then is a function from `Sample` to the poisoned pixels, uint8 `(H,W,3)`.
It reads no global randomness: the same seed and image give the same bytes.
"""

# ruff: noqa: F401 - this is the face of the package, too: what others import from it

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import lazy_loader
import numpy as np

from unseg_lib.method import digest
from unseg_lib.poisons import autoregressive, by_class, error_min, simple, unseg
from unseg_lib.poisons.settings import Apply, PoisonSettings, Sample
from unseg_lib.poisons.simple import Grating
from unseg_lib.poisons.unseg import inference_of, open_generator, prompt_of

# of the writer of poisoned sets, which asks the registry below
__getattr__, _, _later = lazy_loader.attach(
    __name__,
    submod_attrs={
        "dataset": ["COLUMNS", "poison_dataset", "protected_classes", "protected_mask", "read_rows", "with_fit"],
        "manifest": ["Manifest", "read_lines", "sweep"],
    },
)


def __dir__() -> list[str]:
    return sorted({*globals(), *_later})


@dataclass(frozen=True)
class Poison:
    """One way to poison, and all that others must know of it.

    words: what it is, for the legend of a table. bounded: it changes at most eps inside and eps_bg outside the mask.
    fit: of one that has to see the whole set first; called with the images and the settings, it returns arrays, which
    `make` finds again in the file `settings.fitted`. needs_generator, needs_segmenter: its bytes depend on the
    generator's file, on the segmenter's. by_class: it gives the background a pattern, too, with `include_background`.
    """

    make: Callable[[PoisonSettings], Apply]
    words: str
    fit: Callable[[Iterable[Sample], PoisonSettings], dict[str, np.ndarray]] | None = None
    needs_generator: bool = False
    needs_segmenter: bool = False
    bounded: bool = True
    by_class: bool = False


CLASSES = {"bounded": False, "by_class": True}
GENERATOR = {"needs_generator": True}
REGION = GENERATOR | {"needs_segmenter": True, "bounded": False}  # keep to the budget, but in a region of their own

POISONS = {
    "clean": Poison(simple.clean, "images as they are"),
    "random": Poison(simple.random_noise, "fresh uniform noise"),
    "random_class": Poison(simple.random_class, "a random tile for each class"),
    "fixed_tile": Poison(simple.fixed_tile, "one random tile in every image"),
    "colour_offset": Poison(simple.offset(1, -1, 1), "a constant colour, stronger inside the mask"),
    "gray_offset": Poison(simple.offset(1, 1, 1), "a constant brightness, stronger inside the mask"),
    "colour_grating": Poison(simple.colour_grating, "two-coloured stripes"),
    "brightness_grating": Poison(simple.brightness_grating, "fine stripes of brightness, inside the mask alone"),
    "composite_grating": Poison(simple.composite_grating, "stripes of brightness, and of blue at a right angle"),
    "fine_grating": Poison(simple.fine_grating, "the same, its stripes of brightness finer"),
    "synper": Poison(by_class.synper, "coarse coloured cells for each class", **CLASSES),
    "ar": Poison(autoregressive.ar, "an autoregressive pattern for each class", **CLASSES),
    "ar_tiles": Poison(autoregressive.ar_tiles, "the same by the published criterion, in small tiles", **CLASSES),
    "cuda": Poison(by_class.cuda, "a blur for each class, and stretched brightness", **CLASSES),
    "cuda_blur": Poison(partial(by_class.cuda, stretched=False), "a blur for each class", **CLASSES),
    "error_min": Poison(error_min.error_min, "noise fitted to each image", error_min.fit_samples),
    "error_min_class": Poison(error_min.error_min_class, "a tile fitted to each class", error_min.fit_tiles),
    "untrained": Poison(unseg.untrained, "UnSeg's network before training, its noise scaled up", **GENERATOR),
    "unseg": Poison(unseg.unseg, "UnSeg", **GENERATOR),
    "unseg_quarters": Poison(unseg.unseg_quarters, "UnSeg, each quarter of an image for itself", **GENERATOR),
    "unseg_by_class": Poison(unseg.unseg_by_class, "UnSeg, a noise for each class", **GENERATOR),
    "unseg_box": Poison(unseg.unseg_box, "UnSeg, its budget in what is found in boxes around the mask", **REGION),
    "unseg_points": Poison(unseg.unseg_points, "UnSeg, its budget in what three points find", **REGION),
    "unseg_salient": Poison(unseg.unseg_salient, "UnSeg, its budget in what stands out as an object", **REGION),
}
