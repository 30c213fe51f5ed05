"""Poisons: each makes of one picture its unlearnable copy. One file each; adding one is one line below.

A poison is called once with the settings and returns a function from `Picture` to the poisoned pixels,
uint8 `(H,W,3)`. It reads no global randomness: the same seed and picture give the same bytes.
"""

from unseg_lib.poisons.clean import clean
from unseg_lib.poisons.constant_offset import colour_offset, gray_offset
from unseg_lib.poisons.fixed_tile import fixed_tile
from unseg_lib.poisons.random_noise import random_noise
from unseg_lib.poisons.settings import Picture, PoisonSettings
from unseg_lib.poisons.unseg import unseg
from unseg_lib.poisons.untrained import untrained

POISONS = {
    "clean": clean,
    "random": random_noise,
    "fixed_tile": fixed_tile,
    "colour_offset": colour_offset,
    "gray_offset": gray_offset,
    "untrained": untrained,
    "unseg": unseg,
}
WITH_GENERATOR = ("unseg", "untrained")  # their result depends on the generator's file

__all__ = ["POISONS", "WITH_GENERATOR", "Picture", "PoisonSettings"]
