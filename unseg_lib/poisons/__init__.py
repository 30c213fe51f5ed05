"""Poisons: each makes of one image its unlearnable copy. One file each; adding one is one line below.

A poison is called once with the settings and returns a function from `Sample` to the poisoned pixels,
uint8 `(H,W,3)`. It reads no global randomness: the same seed and image give the same bytes.
One that has to see the whole set first has a second line, in `FITTED`: its fit is called with the images and
the settings, returns arrays, and finds them again in the file `settings.fitted`.
"""

import lazy_loader

from unseg_lib.poisons.autoregressive import ar
from unseg_lib.poisons.clean import clean
from unseg_lib.poisons.colour_grating import colour_grating
from unseg_lib.poisons.constant_offset import colour_offset, gray_offset
from unseg_lib.poisons.cuda import cuda, cuda_blur
from unseg_lib.poisons.error_min import error_min, error_min_class, fit_samples, fit_tiles
from unseg_lib.poisons.fixed_tile import fixed_tile
from unseg_lib.poisons.random_class import random_class
from unseg_lib.poisons.random_noise import random_noise
from unseg_lib.poisons.settings import PoisonSettings, Sample
from unseg_lib.poisons.synper import synper
from unseg_lib.poisons.unseg import unseg
from unseg_lib.poisons.unseg_by_class import unseg_by_class
from unseg_lib.poisons.unseg_regions import unseg_box, unseg_points, unseg_salient
from unseg_lib.poisons.untrained import untrained

POISONS = {
    "clean": clean,
    "random": random_noise,
    "random_class": random_class,
    "fixed_tile": fixed_tile,
    "colour_offset": colour_offset,
    "gray_offset": gray_offset,
    "colour_grating": colour_grating,
    "synper": synper,
    "ar": ar,
    "cuda": cuda,
    "cuda_blur": cuda_blur,
    "error_min": error_min,
    "error_min_class": error_min_class,
    "untrained": untrained,
    "unseg": unseg,
    "unseg_by_class": unseg_by_class,
    "unseg_box": unseg_box,
    "unseg_points": unseg_points,
    "unseg_salient": unseg_salient,
}
OWN_REGION = ("unseg_box", "unseg_points", "unseg_salient")  # keep to eps, but in a region of their own
WITH_GENERATOR = ("unseg", "unseg_by_class", "untrained", *OWN_REGION)  # their result depends on the generator's file
BY_CLASS = ("synper", "ar", "cuda", "cuda_blur")  # keep to no eps: they follow classes, see `include_background`
UNBOUNDED = (*BY_CLASS, *OWN_REGION)  # may change more than eps_bg outside the mask
FITTED = {"error_min": fit_samples, "error_min_class": fit_tiles}  # learn from the whole set first

__all__ = ["BY_CLASS", "FITTED", "OWN_REGION", "POISONS", "UNBOUNDED", "WITH_GENERATOR", "PoisonSettings", "Sample"]

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "ar_search": ["RESPONSE", "neighbourhoods", "response", "search"],
        "autoregressive": ["ar_noise", "coefficients", "process", "recursion"],
        "class_noise": ["box_of", "regions"],
        "cuda": ["filtered", "kernel_of"],
        "dataset": ["COLUMNS", "poison_dataset", "protected_classes", "read_rows"],
        "error_min_game": ["open_game"],
        "fitting": ["with_fit"],
        "fixed_tile": ["cell_of"],
        "manifest": ["Manifest", "read_lines", "sweep"],
        "noise_cache": ["cached_noise", "digest"],
        "speed": ["benchmark_image", "milliseconds"],
        "synper": ["class_vector", "cluster", "synper_noise"],
        "unseg": ["open_generator", "prompt_of", "raw_noise"],
        "untrained": ["match_amplitude", "on_grid", "random_twin"],
    },
)
