"""How well the surrogate segments noised images that it does not learn from, after every epoch (§ 4.1).

Published: IoU and boundary IoU on DIS5K-VD, COIFT, HRSOD and ThinObject5K-TE, asked by the tight box. Not published,
and so chosen here: the generator is shown the mask alone, as where data sets are poisoned, the budget is the
training's, and answers are judged at the image's own size. It only looks: neither weights nor random numbers of the
training change.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.datasets import SegmentationSet, data_root, load_dataset
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, write_csv
from unseg_lib.images import boundary_iou, mask_iou
from unseg_lib.method.generator import square
from unseg_lib.method.prompts import all_prompts, only
from unseg_lib.method.sam import LAYOUTS
from unseg_lib.seeds import torch_rng


class Validation:
    """The rows of validation.csv in `out`: step, set, images, iou and boundary_iou in [0,1], means over images.

    config: a `BilevelConfig`, of which `validation` names data sets as "dis5k@val,coift@test" ("": none); noised: puts
    noise on images, as in the game. start: the step to go on from. Raises `UnsegError` for sets that are not there.
    """

    def __init__(self, config, noised: Callable, out: Path, start: int = 0):
        self.config, self.noised, self.file = config, noised, out / "validation.csv"
        named = [one.strip().partition("@") for one in config.validation.split(",") if one.strip()]
        self.sets = {"@".join(filter(None, (name, split))): read(name, split or "test") for name, _, split in named}
        before = read_csv(self.file) if self.sets and start and self.file.exists() else []
        self.rows = [row for row in before if int(row["step"]) < start]

    def after(self, step: int, per_epoch: int, total: int, game, fabric) -> None:
        """Look, where `step` ends an epoch or the training. Of several processes each takes its share of the images."""
        if (step + 1) % per_epoch and step + 1 < total:
            return
        for name, source in self.sets.items():
            share = range(fabric.global_rank, len(source), fabric.world_size)
            found = [one for i in share if (one := self.scores(source, i, game, fabric))]
            sums = [float(one) for one in (len(found), *np.sum(found or [(0, 0)], axis=0))]
            sums = torch.tensor(sums, device=fabric.device)
            images, iou, border = fabric.all_reduce(sums, reduce_op="sum").tolist()
            row = {"step": step, "set": name, "images": round(images)}
            self.rows.append(row | {"iou": iou / images, "boundary_iou": border / images})
        if self.sets and fabric.is_global_zero:
            write_csv(self.file, self.rows)

    @torch.no_grad()
    def scores(self, source: SegmentationSet, number: int, game, fabric) -> tuple[float, float] | None:
        """IoU and boundary IoU of the surrogate's answer for one image with its noise; None where it has no object."""
        id, layout = source.ids[number], LAYOUTS[self.config.layout]
        mask = source.label(id) == 1
        if not mask.any():
            return None
        generator, surrogate = (game.bare(name).eval() for name in ("generator", "surrogate"))
        pixels = torch.from_numpy(np.array(source.image(id))).permute(2, 0, 1)[None].to(fabric.device)
        whole = torch.from_numpy(mask)[None, None].float().to(fabric.device)
        x, y = square(pixels.float() / 255, layout.image_size), square(whole, layout.image_size)

        # δ = G(x, mask), with no noise on the mask
        rng = torch_rng(self.config.seed, "validation", source.name, id)
        prompts = only(all_prompts(y, layout.grid, rng), "mask")
        prompts = replace(prompts, masks=255.0 * (F.interpolate(y, prompts.masks.shape[2:], mode="bilinear") > 0.5))
        with fabric.autocast():
            noise = generator(x, prompts)
            # S(x + δ, box)
            x, y = self.noised(self.config, x, y, noise, surrogate.size)
            logits = surrogate(x, only(all_prompts(y, surrogate.grid, rng), "box"))

        # at the image's own size
        side = max(mask.shape)
        answer = F.interpolate(logits.float(), (side, side), mode="bilinear", align_corners=False)[0, 0]
        answer = (answer[: mask.shape[0], : mask.shape[1]] > 0).cpu().numpy()
        return mask_iou(answer, mask), boundary_iou(answer, mask)


def read(name: str, split: str) -> SegmentationSet:
    """A set to look at; one without images is refused."""
    found = load_dataset(name, data_root(), split, task="object")
    if not any((found.label(id) == 1).any() for id in found.ids):
        raise UnsegError(f"Expected an object in some images of {name}, split {split}, found none.")
    return found
