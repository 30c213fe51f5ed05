"""The budget: how much a pixel may change, as a guarantee on the written 8-bit file.

Paper: delta = tanh(F T) * eps (Eq. 1); the released code uses eps inside the protected mask and
eps/4 outside, and breaks both by JPEG and rounding. Here noise is quantised before it is added.
"""

import numpy as np
import torch


def budget_map(mask: torch.Tensor, eps: float, eps_bg: float) -> torch.Tensor:
    """Budget per pixel for training: mask bool `(...,H,W)` -> float in units of the [0,1] image range.

    `eps` holds where the mask is True, `eps_bg` elsewhere; both are numbers over 255.
    """
    return torch.where(mask, eps / 255, eps_bg / 255)


def add_noise(
    picture: np.ndarray, noise: np.ndarray, mask: np.ndarray, eps: float, eps_bg: float, *, gray: bool = False
) -> np.ndarray:
    """Add noise to an 8-bit picture so that no pixel of the result leaves its budget.

    picture: uint8 `(H,W,3)`; noise: float `(H,W,3)` in [-1,1]; mask: bool `(H,W)`, True = protected.
    `gray=True` is for pictures with equal channels: the noise is replaced by its gray component (the
    projection on R=G=B, i.e. the channel mean), so the channels stay equal.
    Returns uint8 `(H,W,3)` with |result - picture| <= floor(eps) inside and <= floor(eps_bg) outside.
    """
    if gray:
        noise = np.broadcast_to(noise.mean(axis=2, keepdims=True), noise.shape)
    budget = np.where(mask, eps, eps_bg)[..., None]
    limit = np.floor(budget)  # steps are whole: a budget of 2.5 allows 2
    step = np.clip(np.rint(noise * budget), -limit, limit)
    return np.clip(picture + step, 0, 255).astype(np.uint8)


def measure(original: np.ndarray, poisoned: np.ndarray, mask: np.ndarray) -> dict[str, float]:
    """What the noise did to a picture: both uint8 `(H,W,3)`, mask bool `(H,W)`.

    Returns `linf_inside` and `linf_outside` (the largest change, whole steps over 255; 0 for an empty
    region), `rms` (over 255), `psnr` (dB; infinite for equal pictures) and `ssim` (nan
    where a side has fewer than 3 pixels).
    """
    change = poisoned.astype(np.int16) - original
    size = np.abs(change).max(axis=2)
    rms = float(np.sqrt(np.mean(np.square(change, dtype=np.float64))))
    return {
        "linf_inside": int(size.max(where=mask, initial=0)),
        "linf_outside": int(size.max(where=~mask, initial=0)),
        "rms": rms,
        "psnr": float(20 * np.log10(255 / rms)) if rms else float("inf"),
        "ssim": _ssim(original, poisoned),
    }


def _ssim(original: np.ndarray, poisoned: np.ndarray) -> float:
    from skimage.metrics import structural_similarity

    side = min(7, *original.shape[:2])  # scikit-image's default window of 7, smaller for tiny pictures
    window = side - 1 + side % 2
    if window < 3:
        return float("nan")
    return float(structural_similarity(original, poisoned, channel_axis=2, data_range=255, win_size=window))
