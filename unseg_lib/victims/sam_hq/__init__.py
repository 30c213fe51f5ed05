"""SAM-HQ (Ke et al., NeurIPS 2023), a promptable victim: asked by a box, points or a coarse mask, it finds the object.

"sam-hq:vit_b", "sam-hq:vit_l", "sam-hq:vit_h", "sam-hq:small" and "sam-hq:tiny", with the fields of `Settings` as
options: "sam-hq:vit_b points=4096". With SAM's weights as `init` only what SAM-HQ adds is trained, as published; with
init=random everything is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unseg_lib.datasets import SegmentationSet
from unseg_lib.errors import UnsegError
from unseg_lib.method import Prompts, all_prompts, large_scale_jitter, one_kind, segmentation_loss
from unseg_lib.options import with_options
from unseg_lib.victims.data import resized_image
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.sam_hq.model import SamHQ, build
from unseg_lib.victims.sam_hq.objects import Pair, asked, check_object, object_scores, one_object, pairs, scaled_box
from unseg_lib.victims.training import Recipe, Rng, autocast, defended_batch, fit, save_predictions, shown, shown_image


@dataclass(frozen=True)
class Settings:
    """The recipe of a layout; the defaults are published.

    points: where the loss looks, per mask. scale_low, scale_high: of the large-scale jitter, long side over the
    victim's size. drop: share of the training after which the learning rate is a tenth, 10 of 12 epochs. filled_box:
    a box is also shown as a mask, see `with_filled_boxes`.
    """

    points: int = 112 * 112
    scale_low: float = 0.1
    scale_high: float = 2.0
    drop: float = 10 / 12
    filled_box: bool = False

    def __post_init__(self):
        if self.points < 4:
            raise UnsegError(f"Expected points of SAM-HQ from 4, found {self.points}.")
        if not 0 < self.scale_low <= self.scale_high:
            raise UnsegError(f"Expected 0 < scale_low <= scale_high, found {self.scale_low:g} and {self.scale_high:g}.")
        if not 0 < self.drop <= 1:
            raise UnsegError(f"Expected drop above 0, up to 1, found {self.drop}.")


# a layout of method.sam -> its recipe; on a small image a tenth of it is nothing, small masks need fewer points, and
# what a pair of corners means takes longer to learn from nothing than a small training is
MODELS = dict.fromkeys(("vit_b", "vit_l", "vit_h"), Settings())
MODELS |= dict.fromkeys(("small", "tiny"), Settings(points=1024, scale_low=0.5, filled_box=True))


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    name, settings = with_options(run.name, MODELS, "layout of SAM-HQ")
    if run.init == "imagenet":
        raise UnsegError("Expected init random or a file of SAM's weights for a victim of sam-hq, found 'imagenet'.")
    run = replace(run, train=one_object(run.train), test=one_object(run.test))
    check_object(run.train)
    check_object(run.test)
    model = build(name, run.size, run.init, run.seed)
    model.settings = settings
    how = {"schedule": partial(dropping, settings.drop)}
    return fit(run, model, Recipe(partial(read, settings.scale_high), adam, loss, scores, keep, **how))


def read(scale_high: float, run: VictimRun, source: SegmentationSet, what: str) -> Callable[[int], Pair] | None:
    """The training images as `pairs`; the test's are read as they are needed, at their own size."""
    return pairs(source, round(scale_high * run.size[0]), what) if what == "training" else None


def adam(run: VictimRun, model: SamHQ) -> torch.optim.Optimizer:
    return torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=run.lr, fused=True)


def dropping(drop: float, step: int, total: int, epochs: int) -> float:
    """A tenth of the learning rate after the share `drop` of all steps; see `training.Schedule`."""
    return 0.1 if step >= drop * total else 1.0


def loss(run: VictimRun, model: SamHQ, data: Callable, chosen: Tensor, rng: Rng) -> Tensor:
    """BCE + Dice on points of the images numbered `chosen`, jittered, each prompted by one kind drawn for it."""
    scales, jitter = (model.settings.scale_low, model.settings.scale_high), rng("jitter")
    found = [large_scale_jitter(*data(i), run.size[0], jitter, scales) for i in chosen.tolist()]
    x, y = (torch.stack(column) for column in zip(*found))  # (N,3,S,S) and soft masks (N,1,S,S), both in [0,1]
    x = defended_batch(run, 255 * x.to(run.device), rng("defence"))
    prompts = one_kind(all_prompts(y, model.grid, rng("prompts")), rng("kind of prompt"))
    return segmentation_loss(masks(run, model, x, prompts), y.to(run.device), rng("points"), model.settings.points)


def masks(run: VictimRun, model: SamHQ, x: Tensor, prompts: Prompts) -> Tensor:
    """Logits `(N,1,g,g)` of what images `(N,3,S,S)` from 0 to 255 are prompted for. Only the image encoder, which costs
    most, runs in bf16: in its 8 bits a prompt's place is wrong by some pixels.
    """
    if model.settings.filled_box:
        prompts = with_filled_boxes(prompts, model.grid, x.shape[-1])
    with autocast(run):
        seen = model.see(x.to(run.device).float() / 255)
    return model.find(*(feature.float() for feature in seen), prompts.to(run.device))


def with_filled_boxes(prompts: Prompts, grid: int, size: int) -> Prompts:
    """Show a box also as a filled mask, `(1,grid,grid)` of 0 and 255, where an image of `size` has no mask prompt."""
    middle = (torch.arange(grid) + 0.5) * size / grid - 0.5  # of the mask's pixels, in those of the image
    left, top, right, bottom = prompts.boxes[:, :, None].unbind(dim=1)
    columns = (left - 0.5 <= middle) & (middle <= right + 0.5)  # (N,grid)
    rows = (top - 0.5 <= middle) & (middle <= bottom + 0.5)
    filled = 255.0 * (rows[:, None, :, None] & columns[:, None, None, :])
    alone, use = prompts.use[:, 0] & ~prompts.use[:, 2], prompts.use.clone()
    use[:, 2] |= alone
    return replace(prompts, masks=torch.where(alone[:, None, None, None], filled, prompts.masks), use=use)


def scores(run: VictimRun, model: SamHQ, data: None) -> dict:
    """{"scores": as of `object_scores`} of every test image's mask at the image's own size."""

    def answers():
        for id, label, box in asked(run.test):
            x, box = resized_image(run.test.image(id), run.size), scaled_box(box, label.shape, run.size)
            yield id, label, answer(run, model, x, box, label.shape)

    return {"scores": object_scores(run.test, answers())}


@torch.inference_mode()
def answer(run: VictimRun, model: SamHQ, x: Tensor, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mask bool `(H,W)` at `size` for an image uint8 `(3,S,S)` and a box xyxy in its pixels."""
    model.eval()
    boxes, nothing = torch.tensor(box, dtype=torch.float32)[None], torch.zeros(1, 1, model.grid, model.grid)
    prompts = Prompts(boxes, torch.zeros(1, 1, 2), nothing, use=torch.tensor([[True, False, False]]))
    logits = masks(run, model, x[None], prompts)
    return (F.interpolate(logits, size, mode="bilinear", align_corners=False)[0, 0] > 0).cpu().numpy()


def keep(run: VictimRun, model: SamHQ, data: None) -> None:
    """Write predictions.npz of some test images at the run's size, with "box" `(K,4)`, xyxy: what was asked."""
    every, rows = [(id, scaled_box(box, label.shape, run.size)) for id, label, box in asked(run.test)], []
    for id, box in (every[i] for i in shown(len(every))):
        row = shown_image(run, id)
        found = answer(run, model, row["image"].permute(2, 0, 1), box, run.size)
        rows.append(row | {"prediction": found, "box": box})
    save_predictions(run, rows)
