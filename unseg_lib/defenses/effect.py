"""What a defence does to images and to the noise on them, measured without training anything."""

import numpy as np

from unseg_lib.datasets import SegmentationSet
from unseg_lib.defenses.defense import Defense, defended
from unseg_lib.seeds import torch_rng


def seen(source: SegmentationSet, defenses: tuple[Defense, ...], size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """The images as a victim's first step gets them, uint8 `(N,H,W,3)` at `size`, before flip and crop.

    What is drawn at random is drawn alike for two sets of the same ids, so that they can be compared.
    """
    from unseg_lib.victims import tensors

    x = tensors(defended(source, defenses), size, "defended")[0]
    for number, defense in enumerate(defenses):
        if defense.batch:
            x = (255 * defense.batch(x.float() / 255, torch_rng(seed, "effect", number))).round().byte()
    return x.permute(0, 2, 3, 1).numpy()


def noise_left(pair: tuple[np.ndarray, np.ndarray], defended_pair: tuple[np.ndarray, np.ndarray]) -> float:
    """How much of the noise between (clean, protected) is still between them after the defence: 1 all, 0 none.

    The projection on the noise before: what a defence rounds differently in the two is no noise that is left.
    """
    before, after = (b.astype(float) - a for a, b in (pair, defended_pair))
    energy = (before**2).sum()
    return float((after * before).sum() / energy) if energy else 0.0


def cost(clean: np.ndarray, after: np.ndarray) -> float:
    """PSNR in dB of defended clean images against what they were; infinite where nothing changed."""
    error = ((after.astype(float) - clean) ** 2).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")
