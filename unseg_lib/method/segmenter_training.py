"""Train the segmenter on objects with masks, pointed at as a person would: a rough box, some clicks, or nothing.

Class-agnostic: an object is a connected part of one class. Everything random is derived from (seed, epoch, image): a
killed training continues from its last checkpoint with the same numbers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from scipy.ndimage import label as parts_of
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.files import claim, read_csv, whole_file, write_csv
from unseg_lib.images import IGNORE, resize_label
from unseg_lib.method.pairs import digest, keys_of
from unseg_lib.method.segmenter import SIDE, Segmenter, Window, around, box_of, maps_of, save_segmenter, seen, shrunk
from unseg_lib.method.surrogate import dice_loss
from unseg_lib.method.weights import load_lite0
from unseg_lib.runtime import keep_freed_memory, progress
from unseg_lib.seeds import numpy_rng, seed_for

SEGMENTER, CHECKPOINT = "segmenter.safetensors", "checkpoint.pt"
LARGEST = 480  # pixels; images are kept with this longer side
SMALLEST = 0.004  # share of the image; what is smaller is no object that somebody points at


@dataclass(frozen=True)
class Scene:
    """An image uint8 `(H,W,3)` and its objects as bool masks `(H,W)`; valid: bool `(H,W)`, False = nobody knows."""

    pixels: np.ndarray
    objects: list[np.ndarray]
    valid: np.ndarray

    @property
    def everything(self) -> np.ndarray:
        return np.any(self.objects, axis=0)


def scenes_of(source: SegmentationSet, longest: int = LARGEST) -> list[Scene]:
    """The images of a set that have objects: connected parts of one class, or, where there is one class, all of it."""
    scenes, divided = [], len(source.classes) > 2
    for pixels, label in progress(source, source.name):
        small = shrunk(pixels, longest)
        label, objects = resize_label(label, small.shape[:2]), []
        for index in sorted(set(np.unique(label).tolist()) - {0, IGNORE}):
            numbered, count = parts_of(label == index, np.ones((3, 3))) if divided else (label == index, 1)
            objects += [numbered == number + 1 for number in range(count)]
        # the largest first
        objects = sorted((one for one in objects if one.mean() >= SMALLEST), key=lambda one: -one.sum())
        scenes += [Scene(small, objects, label != IGNORE)] if objects else []
    return scenes


def rough_box(mask: np.ndarray, rng: np.random.Generator) -> Window:
    """The box of a mask as somebody draws it: each side is off by a few hundredths of the box."""
    x0, y0, x1, y1 = box_of(mask)
    dx0, dy0, dx1, dy1 = rng.normal(0, 0.04, 4).clip(-0.1, 0.1) * [x1 - x0, y1 - y0, x1 - x0, y1 - y0]
    height, width = mask.shape
    return max(0, x0 + dx0), max(0, y0 + dy0), min(width, x1 + dx1), min(height, y1 + dy1)


def clicks_in(mask: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`(count,2)` x, y in a mask, the more likely the farther from its border; none where it is empty."""
    depth = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1].ravel()
    if not depth.any():
        return np.zeros((0, 2))
    found = rng.choice(len(depth), count, p=depth / depth.sum())
    return np.stack([found % mask.shape[1], found // mask.shape[1]], axis=1).astype(float)


def drawn_example(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, Window, tuple]:
    """What is meant, bool `(H,W)`, a window on it, and a prompt for it, as `maps_of` takes it."""
    shape, everything = scene.valid.shape, scene.everything
    kind = rng.choice(["box", "points", "nothing"], p=[0.4, 0.4, 0.2])
    # somebody means one object, now and then several, and all of them where nobody says anything
    several = kind == "nothing" or rng.random() < 0.15
    wanted = everything if several else scene.objects[rng.integers(len(scene.objects))]
    if kind == "box":
        box = rough_box(wanted, rng)
        return wanted, around(box, rng.uniform(0.1, 0.5, 4), shape), (box, (), ())
    # a window: the whole image, or what is around the object
    whole = rng.random() < (0.6 if kind == "nothing" else 0.4)
    window = (0, 0, *shape[::-1]) if whole else around(box_of(wanted), rng.uniform(0.1, 1.2, 4), shape)
    if kind == "nothing":
        return wanted, window, (None, (), ())
    # clicks on it, and beside it: anywhere near, or on another object
    on_it = clicks_in(wanted, int(rng.choice([1, 2, 3, 4, 6, 10], p=[0.35, 0.15, 0.2, 0.1, 0.1, 0.1])), rng)
    near, (x0, y0, x1, y1) = np.zeros_like(wanted), np.array(window).astype(int)
    near[y0:y1, x0:x1] = True
    others = everything & near & ~wanted
    beside = others if others.any() and rng.random() < 0.6 else near & ~wanted & scene.valid
    off_it = clicks_in(beside, int(rng.choice([0, 1, 2, 4], p=[0.55, 0.2, 0.15, 0.1])), rng)
    return wanted, window, (None, np.concatenate([on_it, off_it]), np.repeat([1, 0], [len(on_it), len(off_it)]))


class Examples(Dataset):
    """Item (epoch, i) -> image `(3,S,S)`, maps `(3,S,S)`, target `(1,S,S)`, weight `(1,S,S)`, all in [0,1]."""

    def __init__(self, scenes: Sequence[Scene], seed: int, side: int):
        self.scenes, self.seed, self.side = scenes, seed, side

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        epoch, i = key
        scene, rng = self.scenes[i], numpy_rng(self.seed, "example", epoch, i)
        wanted, window, prompt = drawn_example(scene, rng)
        x = seen(scene.pixels, window, self.side).astype(np.float32) / 255
        target, weight = (
            seen(255 * one.astype(np.uint8), window, self.side)[None] / np.float32(255) for one in (wanted, scene.valid)
        )
        # other light, other colours, none at all; the other way round
        x = (x.clip(1e-3) ** rng.uniform(0.7, 1.4) * rng.uniform(0.85, 1.15, (1, 1, 3))).clip(0, 1)
        x = np.repeat(x.mean(axis=2, keepdims=True), 3, axis=2) if rng.random() < 0.1 else x
        parts = [torch.from_numpy(x).permute(2, 0, 1).float()]
        parts += [maps_of(window, *prompt, self.side)]
        parts += [torch.from_numpy(target), torch.from_numpy(weight)]
        return tuple(part.flip(2) for part in parts) if rng.random() < 0.5 else tuple(parts)


@dataclass(frozen=True)
class SegmenterConfig:
    """Settings of one training."""

    steps: int = 1500
    batch_size: int = 8
    lr: float = 1e-3  # the highest of one cycle, AdamW
    side: int = SIDE
    seed: int = 0
    data: str = ""  # which images, for the record


def mask_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """BCE + Dice of logits `(N,1,S,S)` where the weight is one; all maps in [0,1]."""
    bce = F.binary_cross_entropy_with_logits(logits, target, weight, reduction="sum") / weight.sum()
    guess, truth = ((one * weight).flatten(1) for one in (logits.sigmoid(), target))
    return bce + dice_loss(guess, truth)


def train_segmenter(config: SegmenterConfig, scenes: Sequence[Scene], out: str | Path, checkpoint_every=100) -> Path:
    """Train on scenes and return the path of the weights in `out`, beside log.csv (a row per step)."""
    out = Path(out)
    if not scenes:
        raise UnsegError("Expected images with objects, found none; name data sets with masks.")
    ends = digest(scenes[0].pixels, *scenes[0].objects, scenes[-1].pixels, *scenes[-1].objects)
    mine = asdict(config) | {"images": len(scenes), "data": ends}
    claim(out, mine, "training", later=("data",))
    if (out / SEGMENTER).exists():
        return out / SEGMENTER
    # the network starts from ImageNet's weights
    keep_freed_memory()
    with torch.random.fork_rng():
        torch.manual_seed(seed_for(config.seed, "weights"))
        model = Segmenter(start=load_lite0)
    model = model.to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=1e-4)
    # go on where a killed run stopped
    start, log = 0, []
    if (out / CHECKPOINT).exists():
        saved = torch.load(out / CHECKPOINT, weights_only=True)
        model.load_state_dict(saved["model"])
        optimiser.load_state_dict(saved["optimiser"])
        start, log = saved["step"], [row for row in read_csv(out / "log.csv") if int(row["step"]) < saved["step"]]
    keys = list(keys_of(len(scenes), config, start, config.steps, 0, 1))
    loader = torch.utils.data.DataLoader(Examples(scenes, config.seed, config.side), batch_sampler=keys)
    for step, batch in enumerate(progress(loader, "segmenter", total=config.steps, initial=start), start):
        # one cycle: a short rise, then half a cosine to zero
        share = step / config.steps
        rate = min(share / 0.05, 1) * (1 + np.cos(np.pi * max(0, (share - 0.05) / 0.95))) / 2
        optimiser.param_groups[0]["lr"] = config.lr * float(rate)
        x, maps, target, weight = (part.to(memory_format=torch.channels_last) for part in batch)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x, maps)
        loss = mask_loss(logits.float(), target, weight)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if not loss.isfinite():
            raise UnsegError(f"Expected a finite loss, found {loss.item():g} at step {step}; lower the learning rate.")
        log.append({"step": step, "loss": round(loss.item(), 4)})
        if (step + 1) % checkpoint_every == 0:
            write_csv(out / "log.csv", log)  # first the log: a checkpoint never knows more than it
            with whole_file(out / CHECKPOINT) as partial:
                state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
                torch.save(state, partial)
    write_csv(out / "log.csv", log)
    save_segmenter(model, out / SEGMENTER, asdict(config) | {"images": len(scenes)})
    (out / CHECKPOINT).unlink(missing_ok=True)
    return out / SEGMENTER
