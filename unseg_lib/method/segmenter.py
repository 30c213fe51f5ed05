"""The small promptable segmenter: from a box, clicks or nothing to the pixels of the object that is meant.

A U-Net on EfficientNet-Lite0 looks at a window of the image, stretched to a square, beside three maps: the box, the
clicks on the object, the clicks beside it. Who trained it, on what: `segmenter_training.py`. Not in the paper.
"""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import label as parts_of
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.images import resize_label
from unseg_lib.method.weights import LITE0, SHIFT, SPREAD, load_weights, read_own, read_sam, save_own

SIDE = 192  # pixels of the square window that the network sees
RADIUS = 4  # pixels in that window; how far a click shines
MARGIN = 0.25  # of the box's sides is seen around it
NEARER = 0.4  # of what was found at first sight is seen around it at second sight
LARGEST = 2048  # pixels; SAM is shown images of at most this longer side
CHANNELS = (128, 96, 64, 32, 24)  # of the decoder
SEGMENTER = Path(__file__).parent / "shipped/segmenter/segmenter.safetensors"
Window = tuple[float, float, float, float]  # x0, y0, x1, y1 in pixels; the far corner is outside


class Segmenter(nn.Module):
    """Images float `(N,3,S,S)` in [0,1] and prompt maps `(N,3,S,S)` in [0,1] -> logits `(N,1,S,S)`."""

    def __init__(self, start: Callable[[nn.Module], None] = lambda encoder: None):
        """start: gives timm's network its first weights, in place; else they are random."""
        import segmentation_models_pytorch as smp

        super().__init__()
        self.net = smp.Unet(f"tu-{LITE0}", encoder_weights=None, decoder_channels=CHANNELS)
        start(self.net.encoder.model)
        # room for three maps: of weight zero, so that what the encoder knows of images stays
        stem = self.net.encoder.model.conv_stem
        stem.in_channels += 3
        stem.weight = nn.Parameter(F.pad(stem.weight.detach(), (0, 0, 0, 0, 0, 3)))

    def forward(self, x: Tensor, maps: Tensor) -> Tensor:
        return self.net(torch.cat([(255 * x - SHIFT) / SPREAD, maps], dim=1))


def seen(pixels: np.ndarray, window: Window, side: int = SIDE) -> np.ndarray:
    """What a window of an image uint8 `(H,W,3)`, or of a mask `(H,W)`, shows: stretched to a square, uint8."""
    size = (side, side)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, box=window, reducing_gap=3))


def shrunk(pixels: np.ndarray, longest: int) -> np.ndarray:
    """The image uint8 `(H,W,3)` with its longer side at most `longest`."""
    ratio = min(1, longest / max(pixels.shape[:2]))
    size = tuple(max(1, round(side * ratio)) for side in pixels.shape[1::-1])
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2))


def around(box: Window, margins: float | np.ndarray, shape: tuple[int, int]) -> Window:
    """A window around a box (far corner outside) with margins of its sides (one, or for left, top, right, bottom).

    It ends at the border of the image of this shape, and is at least 16 pixels wide and high where there are as many.
    """
    x0, y0, x1, y1 = box
    space = np.multiply(margins, [x1 - x0, y1 - y0, x1 - x0, y1 - y0]).clip(8)
    height, width = shape
    return max(0, x0 - space[0]), max(0, y0 - space[1]), min(width, x1 + space[2]), min(height, y1 + space[3])


def maps_of(window: Window, box: Window | None, points: np.ndarray, labels: np.ndarray, side: int = SIDE) -> Tensor:
    """The prompt as maps `(3,side,side)` in [0,1]: the filled box, the positive and the negative points' Gaussians.

    box and points `(k,2)`: pixels of the image, of which only the window is seen; labels `(k,)`: 1 = on the object.
    """
    x0, y0, x1, y1 = window
    scale, maps = np.array([side / (x1 - x0), side / (y1 - y0)]), torch.zeros(3, side, side)
    if box is not None:
        left, top, right, bottom = ((np.reshape(box, (2, 2)) - [x0, y0]) * scale).round().astype(int).ravel()
        maps[0, max(0, top) : max(top + 1, bottom), max(0, left) : max(left + 1, right)] = 1
    cells = torch.arange(side) + 0.5
    for (x, y), label in zip((np.reshape(points, (-1, 2)) + 0.5 - [x0, y0]) * scale, labels):
        across, down = ((-((cells - at) ** 2) / (2 * RADIUS**2)).exp() for at in (x, y))
        maps[2 - label] = torch.maximum(maps[2 - label], down[:, None] * across)
    return maps


def save_segmenter(model: Segmenter, path: str | Path, about: dict) -> None:
    """Write the weights in half precision; `about` is kept as free metadata (data, steps, seed, ...)."""
    state = {key: value.half() for key, value in model.state_dict().items() if "num_batches" not in key}
    save_own(path, state, "unseg_segmenter", about)


@cache
def load_segmenter(path: Path = SEGMENTER) -> Segmenter:
    """The shipped segmenter, or another of `save_segmenter`, in eval mode."""
    _, state = read_own(path, "unseg_segmenter", "small, sam:FILE or a segmenter's file")
    with torch.random.fork_rng():  # construction draws first weights, which are then replaced
        model = Segmenter()
    load_weights(model, {key: value.float() for key, value in state.items()}, path, "the segmenter")
    return model.to(memory_format=torch.channels_last).eval()


def box_of(mask: np.ndarray) -> Window:
    """The tight box of a mask, far corner outside."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@torch.inference_mode()
def look(model: Segmenter, pixels: np.ndarray, window: Window, prompt: tuple, last: bool = False) -> np.ndarray:
    """The object in a window of an image uint8 `(H,W,3)`, bool `(H,W)`; prompt: box or None, points, labels. At last,
    of several parts only those that hold a point on the object are kept.
    """
    x0, y0, x1, y1 = (int(f(side)) for f, side in zip((np.floor, np.floor, np.ceil, np.ceil), window))
    x = torch.tensor(seen(pixels, (x0, y0, x1, y1))).permute(2, 0, 1) / 255
    maps = maps_of((x0, y0, x1, y1), *prompt)
    # the image and its mirror image, then the window's own size
    logits = model(*(torch.stack([part, part.flip(2)]) for part in (x, maps)))[:, 0]
    sure = (255 * (logits[0] + logits[1].flip(1)).div(2).sigmoid()).round().byte().numpy()
    if last:
        on_it = np.reshape(prompt[1], (-1, 2))[np.equal(prompt[2], 1)]
        sure *= touched(sure > 127, (on_it - [x0, y0]) / [x1 - x0, y1 - y0])
    found = np.zeros(pixels.shape[:2], bool)
    sure = Image.fromarray(sure).resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
    found[y0:y1, x0:x1] = np.asarray(sure) > 127
    return found


def by_small(model: Segmenter, pixels: np.ndarray, box: Window | None = None, points=(), labels=()) -> np.ndarray:
    """What the small segmenter finds; without a box it looks at the whole image, then at what it has found there."""
    prompt, shape = (box, points, labels), pixels.shape[:2]
    if box is not None:
        return look(model, pixels, around(box, MARGIN, shape), prompt)
    found = look(model, pixels, (0, 0, *shape[::-1]), prompt)
    for (x, y), label in zip(points, labels):
        found[int(y), int(x)] |= bool(label)
    return look(model, pixels, around(box_of(found), NEARER, shape), prompt, last=True) if found.any() else found


def touched(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The connected parts of a square mask that hold one of the points `(k,2)`, in shares of the side; else all."""
    parts = parts_of(mask, np.ones((3, 3)))[0]
    across, down = (points * len(mask)).astype(int).clip(0, len(mask) - 1).T
    held = set(parts[down, across]) - {0}
    return np.isin(parts, list(held)) if held else mask


@torch.inference_mode()
def by_sam(model: nn.Module, pixels: np.ndarray, box: Window | None = None, points=(), labels=()) -> np.ndarray:
    """What SAM finds by a predictor of segment-anything, one a call, as it holds an image: the mask it is surest of.
    Without a prompt: of its automatic masks the one that has most in common with what the small segmenter finds.
    """
    from segment_anything import SamAutomaticMaskGenerator, SamPredictor

    small = shrunk(pixels, LARGEST)
    if box is None and not len(points):
        salient = by_small(load_segmenter(), small)
        found = [one["segmentation"] for one in SamAutomaticMaskGenerator(model).generate(small)]
        mask = max(found, key=lambda one: (one & salient).sum() / max(1, (one | salient).sum()), default=salient)
    else:
        ratio = np.divide(small.shape[1::-1], pixels.shape[1::-1])
        (predictor := SamPredictor(model)).set_image(small)
        one_click = box is None and len(points) == 1  # may mean a part or the whole: three masks
        given = {"box": np.multiply(box, [*ratio, *ratio])} if box is not None else {}
        if len(points):
            given |= {"point_coords": np.multiply(points, ratio), "point_labels": np.asarray(labels)}
        masks, scores, _ = predictor.predict(**given, multimask_output=one_click)
        mask = masks[scores.argmax()]
    return resize_label(mask, pixels.shape[:2])


Segment = Callable[..., np.ndarray]  # image uint8 (H,W,3), box (far corner outside), points (k,2), labels (k,) -> mask


@cache
def segmenter_called(name: str) -> Segment:
    """The segmenter "small", the file of another one, or "sam:FILE": SAM's own checkpoint, of any of its sizes."""
    if name.startswith("sam:"):
        return partial(by_sam, read_sam(name.removeprefix("sam:")))
    return partial(by_small, load_segmenter(SEGMENTER if name == "small" else Path(name)))
