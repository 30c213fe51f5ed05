"""DeepLabV1 (Chen et al., ICLR 2015) on WideResNet-38, the paper's victim on VOC, as its released code trains it.

"deeplabv1:wideresnet38", "deeplabv1:wideresnet38-tiny", and with the fields of `Variant` as options:
"deeplabv1:wideresnet38 label_padding=ignore weight_decay=meant". `size` is the training crop. Images keep their ratio;
the longer side becomes 500/321 of the crop's, VOC's own at the published crop, and at that size they are tested whole.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.errors import UnsegError, pick
from unseg_lib.images import MEAN
from unseg_lib.options import with_options
from unseg_lib.runtime import progress
from unseg_lib.victims import training
from unseg_lib.victims.data import normalise, resized_image, resized_label
from unseg_lib.victims.deeplabv1.model import WIDTHS, DeepLabV1
from unseg_lib.victims.deeplabv1.weights import load_deeplab
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import Recipe, Rng, own_randomness

LONGER_SIDE = 500 / 321  # of an image, over that of the crop
SCALE = (0.7, 1.3)  # one for a whole batch
HEAD_LR = 10.0  # of the head's learning rate over the encoder's
DECAY = 1e-5

# what lies around an image in its crop is labelled so; class 0 is VOC's background
LABEL_PADDINGS = {"background": 0, "ignore": IGNORE}
# the released code hands SGD its weight decay where the momentum is expected
WEIGHT_DECAYS = {
    "misplaced": {"momentum": DECAY, "weight_decay": 0.0},
    "meant": {"momentum": 0.0, "weight_decay": DECAY},
}


@dataclass(frozen=True)
class Variant:
    """What the released code does, or what it should have done; see LABEL_PADDINGS and WEIGHT_DECAYS."""

    label_padding: str = "background"
    weight_decay: str = "misplaced"

    def __post_init__(self):
        pick(LABEL_PADDINGS, self.label_padding, "label_padding of DeepLabV1")
        pick(WEIGHT_DECAYS, self.weight_decay, "weight_decay of DeepLabV1")


Data = tuple[list[Tensor], list[Tensor]]  # images uint8 (3,h,w) and labels uint8 (h,w), sizes differ


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    name, variant = with_options(run.name, dict.fromkeys(WIDTHS, Variant()), "DeepLabV1 encoder")
    recipe = Recipe(read, partial(sgd, variant), partial(batch_loss, variant))
    return training.fit(run, build(name, len(run.train.classes), run.init, run.seed), recipe)


def build(name: str, classes: int, init: str, seed: int) -> DeepLabV1:
    """The model with seeded first weights, or those of a file and its stem and normalisation frozen, as published.

    The head starts as published from Xavier's weights; of "-tiny" as Chen et al. their last layer, and its stem learns.
    """
    if init == "imagenet":
        raise UnsegError(
            "Expected init=random or a file for DeepLabV1, found imagenet, which no hub has for WideResNet-38; "
            "get ilsvrc-cls_rna-a1_cls1000_ep-0001.params and write its path."
        )
    with own_randomness("cpu", seed, "first weights"):
        model = DeepLabV1(WIDTHS[name](), classes)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        if model.encoder.plain:
            nn.init.normal_(model.head.weight, std=0.01)
        for layer in (model.decoder.conv, model.head):
            nn.init.zeros_(layer.bias) if model.encoder.plain else nn.init.xavier_uniform_(layer.weight)
    if init != "random":
        load_deeplab(model, Path(init))
        model.encoder.stem.requires_grad_(model.encoder.plain)
        for layer in model.encoder.modules():
            if isinstance(layer, nn.BatchNorm2d):
                training.kept_as_it_is(layer)
    return model


def sgd(variant: Variant, run: VictimRun, model: nn.Module) -> torch.optim.Optimizer:
    return training.sgd(run, model, HEAD_LR, **WEIGHT_DECAYS[variant.weight_decay])


def read(run: VictimRun, source: SegmentationSet, what: str, longer: float = LONGER_SIDE, full: bool = False) -> Data:
    """All images and label maps; for VOC at the published size that is 8 GB.

    longer: side of an image, over that of the crop. full: labels stay as large as they are.
    """
    longer, images, labels = round(max(run.size) * longer), [], []
    for id in progress(source.ids, f"reading {what} images"):
        pixels, label = source.image(id), source.label(id)
        size = tuple(max(1, round(side * longer / max(label.shape))) for side in label.shape)
        images.append(resized_image(pixels, size))
        labels.append(resized_label(label, label.shape if full else size))
    return images, labels


def batch_loss(variant: Variant, run: VictimRun, model: nn.Module, data: Data, chosen: Tensor, rng: Rng) -> Tensor:
    """The loss on crops of the images numbered `chosen`, defended."""
    some = ([column[i].to(run.device) for i in chosen.tolist()] for column in data)
    x, y = crops(*some, run.size, LABEL_PADDINGS[variant.label_padding], rng("augmentation"))
    return training.loss_function(run)(run, model, normalise(training.defended_batch(run, x, rng("defence"))), y)


def crops(
    images: list[Tensor], labels: list[Tensor], size: tuple[int, int], padding: int, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Scale images uint8 `(3,h,w)` alike, flip each or not, and cut `size` out of each, with its label `(h,w)`: float
    `(N,3,H,W)`, 0 to 255, and int64 `(N,H,W)`. What a small image does not fill is mean gray, and labelled `padding`.
    """
    scale = float(torch.empty(1).uniform_(*SCALE, generator=rng))
    mean = 255 * torch.tensor(MEAN, device=images[0].device).view(1, 3, 1, 1)
    crop, cut = torch.tensor([size[1], size[0]]), []  # width first, as in a grid
    for x, y in zip(images, labels):
        seen = crop / (scale * torch.tensor([y.shape[1], y.shape[0]]))  # side of the crop over that of the image
        shift = (torch.rand(2, generator=rng) * 2 - 1) * (1 - seen).abs()
        flip = -1.0 if torch.rand(1, generator=rng) < 0.5 else 1.0
        theta = torch.tensor([[[flip * seen[0], 0, shift[0]], [0, seen[1], shift[1]]]], device=x.device)
        grid = F.affine_grid(theta, [1, 1, *size], align_corners=False)
        # grid_sample pads with 0: what is sampled is moved there and back
        x = F.grid_sample(x[None].float() - mean, grid, mode="bilinear", align_corners=False) + mean
        y = F.grid_sample(y[None, None].float() - padding, grid, mode="nearest", align_corners=False) + padding
        cut.append((x[0], y[0, 0].long()))
    return tuple(torch.stack(column) for column in zip(*cut))
