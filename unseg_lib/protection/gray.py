"""Gray images: what is known not to protect them, said to whoever protects some.

The noise of the shipped generators is one of colours, and an image without colours leaves little room for it. Both
cases were measured on chest X-rays (profile small, Lung): with either, a victim learns as from clean images.
"""

import numpy as np

from unseg_lib.images import has_colours

# of the shipped generators those whose noise has no mean, which gray images need
UNFIT = ("small", "texture")
ONE_CHANNEL = "one channel keeps only the gray part of the noise"
NO_COLOURS = "an image without colours, for which generator colour is better"


def gray_remark(pixels: np.ndarray, gray: bool, generator: str) -> str:
    """A few words where noise of this generator is known not to protect such an image, else "".

    pixels: uint8 `(H,W,3)`. gray: whether the protected image has one channel.
    """
    if gray:
        return ONE_CHANNEL
    return NO_COLOURS if generator in UNFIT and not has_colours(pixels) else ""


def gray_warnings(remarks: list[str]) -> list[str]:
    """Sentences about the images of a batch that have such a remark among theirs."""
    one_channel = sum(ONE_CHANNEL in remark for remark in remarks)
    no_colours = sum(NO_COLOURS in remark for remark in remarks)
    said = []
    if one_channel:
        said.append(
            f"In {one_channel} the file has one channel and keeps only the gray part of the noise, which protected "
            "nothing where we measured it: take --rgb and --generator colour."
        )
    if no_colours:
        said.append(
            f"In {no_colours} there are no colours; where we measured it, this generator protected nothing of that "
            "kind: take --generator colour."
        )
    return said
