"""Protect one image from Python: numpy arrays, PIL images and tensors in, the same kind out."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.method import Box, Region, measure, region_of
from unseg_lib.protection.gray import gray_remark
from unseg_lib.protection.placing import add_raw_noise

if TYPE_CHECKING:
    import torch

    from unseg_lib.method import Prepared

SHORTEST = 16  # pixels; below, an image is smaller than the noise's own grain
LARGEST = 4096  # pixels; a longer side is shrunk before the generator looks, which sees a few hundred anyway


@dataclass(frozen=True)
class Protected:
    """A protected image and what was done to it.

    image: of the kind, shape and value range that was given. noise: change in whole steps over 255, int16 `(H,W,3)`.
    region: bool `(H,W)`, where the full budget holds; found_by: "mask", "box", "points", "salient objects" or "whole
    image". measured: linf_inside, linf_outside, rms (steps over 255), psnr (dB), ssim. remark: "", or why this is
    known not to protect (`protection.gray`).
    """

    image: Any
    noise: np.ndarray
    region: np.ndarray
    found_by: str
    measured: dict[str, float]
    remark: str = ""


class Protector:
    """A loaded generator that protects any number of images; to be made once, e.g. in a data loader's worker.

    generator: "small", "texture", "colour", "vit_b" (the paper's own, see `weights.released_path`), or a path.
    eps, eps_bg: the largest change inside and outside the region, in steps over 255; fractions are rounded down, and an
    eps that leaves nothing of it, such as 8/255, is refused. prompt: how the generator is shown the region: "mask",
    its "box", ten "points" in it, or several joined by "+"; the budget follows the region itself. seed: of those
    points; the rest draws nothing at random. device: "auto", "cpu", "cuda", "mps".
    reference: run it as the paper's numbers were made, fp32 and one image at a time, and slower; pixels then differ
    by at most one step (`inference.Inference`). compiled: by torch.compile, which takes minutes at first.
    """

    def __init__(
        self,
        generator: str = "small",
        *,
        eps: float = 8,
        eps_bg: float = 2,
        prompt: str = "mask",
        seed: int = 0,
        device: str = "auto",
        reference: bool = False,
        compiled: bool = False,
    ):
        from unseg_lib.method import Inference
        from unseg_lib.poisons import PoisonSettings, open_generator

        self.settings = PoisonSettings(eps, eps_bg, seed, str(generator), prompt, device)  # checks budget and prompt
        if 0 < eps < 1:
            raise UnsegError(f"Expected eps in steps of 255, say 8 and not 8/255, found {eps:g}: nothing would change.")
        self.eps, self.eps_bg = eps, eps_bg
        generator, self.sha256 = open_generator(self.settings)
        self.inference = Inference(generator, reference=reference, compiled=compiled)

    def __call__(
        self, image: Any, mask: Any = None, *, box: Box | None = None, points: Sequence[Box] | None = None
    ) -> Protected:
        """Protect one image, see `protect`. Warns where that is known not to protect (`Protected.remark`)."""
        pixels, gray = pixels_of(image)
        region = region_of(pixels, None if mask is None else array_of(mask), box, points)
        done = self.protected(pixels, region, gray=gray)
        remark = gray_remark(pixels, gray, self.settings.generator) if region.mask.any() else ""
        if remark:
            warnings.warn(f"Beware: {remark}.", stacklevel=2)
        return Protected(
            image=like(image, done),
            noise=done.astype(np.int16) - pixels,
            region=region.mask,
            found_by=region.found_by,
            measured=measure(pixels, done, region.mask),
            remark=remark,
        )

    def protected(self, pixels: np.ndarray, region: Region, *, gray: bool = False) -> np.ndarray:
        """uint8 `(H,W,3)` with noise around its region; an empty region leaves it as it is, as in the released code."""
        if not region.mask.any():
            return pixels
        raw = self.raw_noise(pixels, region)
        return add_raw_noise(pixels, raw, region.mask, self.eps, self.eps_bg, gray=gray)

    def raw_noise(self, pixels: np.ndarray, region: Region) -> "torch.Tensor":
        """The generator's noise `(3,g,g)` in [-1,1] on the padded square."""
        return self.raw_noises([self.prepare(pixels, region.mask)])[0]

    def prepare(self, pixels: np.ndarray, mask: np.ndarray) -> "Prepared":
        """The processor's share of `raw_noise`, for any thread; very large images are shrunk first, for memory."""
        from PIL import Image

        ratio = LARGEST / max(mask.shape)
        if ratio < 1:
            size = tuple(max(1, round(side * ratio)) for side in mask.shape[::-1])
            pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2))
            mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        from unseg_lib.poisons import Sample, digest, prompt_of

        name = digest(pixels) if "points" in self.settings.prompt else ""  # each image has points of its own
        return self.inference.prepare(pixels, **prompt_of(Sample(name, pixels, mask, mask), self.settings))

    def raw_noises(self, prepared: "list[Prepared]") -> "torch.Tensor":
        """The generator's share for N images, `(N,3,g,g)`."""
        return self.inference(prepared)


def protect(
    image: Any,
    mask: Any = None,
    *,
    box: Box | None = None,
    points: Sequence[Box] | None = None,
    eps: float = 8,
    eps_bg: float = 2,
    generator: str = "small",
    prompt: str = "mask",
    seed: int = 0,
    device: str = "auto",
) -> Protected:
    """Protect one image: no value changes by more than `eps` of 255 steps inside the region, `eps_bg` outside.

    image: numpy uint8 or float in [0,1], `(H,W,3)`, `(H,W,1)` or `(H,W)`; a PIL image; or a tensor `(3,H,W)` or
    `(1,H,W)`, uint8 or float in [0,1]. At least 16 pixels a side. A float image is rounded to 255 steps first, as a
    file would. One-channel images, and PIL images that are gray, stay gray, which protects nothing where we measured
    it and gets a warning: give them as RGB, with the generator "colour".
    mask `(H,W)`, anything but 0 = protect; or box x0,y0,x1,y1 (one or several); or points `(k,2)` x, y; or nothing:
    then what stands out by its colour, at last the whole image.

    generator, prompt, seed, device: see `Protector`. The same image and settings give the same result, and torch's
    own randomness is left alone. For many images make a `Protector` once. Raises `UnsegError` in one sentence on
    anything else.
    """
    protector = Protector(generator, eps=eps, eps_bg=eps_bg, prompt=prompt, seed=seed, device=device)
    return protector(image, mask, box=box, points=points)


def protect_batch(images: Iterable[Any], masks: Iterable[Any] | None = None, **options: Any) -> list[Protected]:
    """`protect` for several images, of any sizes, with one loaded generator; options as there, without prompts.

    masks: one for every image, None for those without. A tensor `(N,3,H,W)` counts as N images.
    """
    if getattr(images, "ndim", 4) != 4:
        raise UnsegError(
            f"Expected a list of images or a tensor (N,3,H,W), found the shape {tuple(images.shape)}; for one "
            "image use protect."
        )
    protector = Protector(options.pop("generator", "small"), **options)
    images = list(images)
    masks = [None] * len(images) if masks is None else list(masks)
    if len(masks) != len(images):
        raise UnsegError(f"Expected a mask for each of {len(images)} images, found {len(masks)}; use None for none.")
    return [protector(image, mask) for image, mask in zip(images, masks)]


def array_of(value: Any) -> np.ndarray:
    """A tensor, PIL image or array as numpy."""
    if not hasattr(value, "detach"):
        return np.asarray(value)
    if str(value.dtype) == "torch.bfloat16":
        raise UnsegError("Expected uint8 or float32, found bfloat16, which cannot tell 255 steps apart; convert it.")
    try:
        return value.detach().cpu().numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:  # sparse, quantised, without data
        raise UnsegError(f"Expected a tensor that numpy can read, found {value.dtype}, {value.layout}.") from error


def pixels_of(image: Any) -> tuple[np.ndarray, bool]:
    """An image of any kind as uint8 `(H,W,3)`, and whether its noise must be gray."""
    from PIL import Image

    if isinstance(image, Image.Image):
        if image.mode not in ("1", "L", "RGB"):
            raise UnsegError(
                f"Expected a PIL image of mode RGB or L, found {image.mode}; convert it, e.g. image.convert('RGB')."
            )
        pixels, gray = np.asarray(image.convert("RGB")), image.mode != "RGB"
    else:
        values = array_of(image)
        values = values.transpose(1, 2, 0) if hasattr(image, "detach") and values.ndim == 3 else values
        values = values[..., None] if values.ndim == 2 else values
        if values.ndim != 3 or values.shape[2] not in (1, 3):
            raise UnsegError(
                "Expected one image, numpy (H,W,3) or (H,W) or a tensor (3,H,W), found shape "
                f"{tuple(np.shape(image))}; for several use protect_batch."
            )
        gray = values.shape[2] == 1
        pixels = np.ascontiguousarray(np.broadcast_to(_as_bytes(values), (*values.shape[:2], 3)))
    if min(pixels.shape[:2]) < SHORTEST:
        raise UnsegError(f"Expected at least {SHORTEST} pixels a side, found {pixels.shape[1]}x{pixels.shape[0]}.")
    return pixels, gray


def _as_bytes(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    low, high = values.min(initial=0), values.max(initial=0)
    if values.dtype.kind != "f" or not (low >= 0 and high <= 1):  # also refuses NaN
        raise UnsegError(f"Expected uint8, or floats from 0 to 1, found {values.dtype} from {low} to {high}.")
    return np.rint(values * 255).astype(np.uint8)


def like(image: Any, pixels: np.ndarray) -> Any:
    """Pixels uint8 `(H,W,3)` as the kind of image that `image` is."""
    from PIL import Image

    if isinstance(image, Image.Image):
        return Image.fromarray(pixels[..., 0] if image.mode != "RGB" else pixels)
    tensor = hasattr(image, "detach")
    channels = 1 if image.ndim == 2 else image.shape[0 if tensor else 2]
    values = pixels[..., :channels]
    values = values[..., 0] if image.ndim == 2 else values.transpose(2, 0, 1) if tensor else values
    if not tensor:
        return values.copy() if image.dtype == np.uint8 else (values / 255).astype(image.dtype)
    import torch

    found = torch.from_numpy(np.ascontiguousarray(values)).to(image.device)
    return found if image.dtype == torch.uint8 else (found / 255).to(image.dtype)
