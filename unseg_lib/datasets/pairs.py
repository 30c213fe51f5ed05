"""Image-mask pairs for training a generator, from any data sets: class-agnostic, without class labels."""

from bisect import bisect_right
from itertools import accumulate

import numpy as np
from PIL import Image

from unseg_lib.errors import UnsegError
from unseg_lib.runtime import progress


class MaskPairs:
    """Pairs (image uint8 `(H,W,3)`, mask uint8 `(H,W)` of 0 and 255) from data sets read with task "object".

    long_side > 0: images are shrunk to it once and kept in memory, and those without an object are
    left out; it should be the generator's input times the largest scale of its jitter. 0: every image
    is decoded each time it is asked for, which suits loaders with worker processes.
    Ignored pixels (255) count as background.
    """

    def __init__(self, sets: list, long_side: int = 0):
        self.sets = sets
        self.ends = list(accumulate(len(one) for one in sets))
        self.kept = None
        if long_side:
            everything = (self._read(i) for i in progress(range(self.ends[-1]), "reading pairs"))
            shrunk = (_shrink(image, mask, long_side) for image, mask in everything)
            self.kept = [pair for pair in shrunk if pair[1].any()]
            if not self.kept:
                raise UnsegError("Expected images with at least one object, found only empty masks.")

    def __len__(self) -> int:
        return self.ends[-1] if self.kept is None else len(self.kept)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self._read(i) if self.kept is None else self.kept[i]

    def _read(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        which = bisect_right(self.ends, i)
        image, label = self.sets[which][i - (self.ends[which - 1] if which else 0)]
        return image, np.where(label == 1, 255, 0).astype(np.uint8)


def _shrink(image: np.ndarray, mask: np.ndarray, long_side: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = mask.shape
    ratio = long_side / max(height, width)
    if ratio >= 1:
        return image, mask
    size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
    return tuple(np.asarray(Image.fromarray(x).resize(size, Image.Resampling.BILINEAR)) for x in (image, mask))
