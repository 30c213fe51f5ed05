"""DeepLabV1 (Chen et al., ICLR 2015) on WideResNet-38, the paper's victim on VOC, as its released code trains it.

"deeplabv1:wideresnet38", "deeplabv1:wideresnet38-tiny", and with the fields of `Variant` as options:
"deeplabv1:wideresnet38 label_padding=ignore weight_decay=meant". `size` is the training crop. Images keep their ratio;
the longer side becomes 500/321 of the crop's, VOC's own at the published crop, and at that size they are tested whole.
"""

import io
import math
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.errors import UnsegError, pick
from unseg_lib.images import MEAN
from unseg_lib.method import load_weights, read_foreign
from unseg_lib.options import with_options
from unseg_lib.runtime import progress
from unseg_lib.victims import training
from unseg_lib.victims.data import normalise, resized_image, resized_label
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import Recipe, Rng, own_randomness

LONGER_SIDE = 500 / 321  # of an image, over that of the crop
SCALE = (0.7, 1.3)  # one for a whole batch
HEAD_LR = 10.0  # of the head's learning rate over the encoder's
DECAY = 1e-5

# what lies around an image in its crop is labelled so; class 0 is VOC's background, and a set without one ignores it
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


def build(name: str, classes: int, init: str, seed: int) -> "DeepLabV1":
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
    padding = IGNORE if run.train.background is None else LABEL_PADDINGS[variant.label_padding]
    x, y = crops(*some, run.size, padding, rng("augmentation"))
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


# the network: WideResNet-38, "model A1" of Wu, Shen and van den Hengel, "Wider or Deeper" (arXiv 1611.10080), and
# DeepLabV1 on it. Residual units normalise first; levels 5 to 7 are dilated instead of strided, so features have 1/8 of
# the image's size, and 4096 channels.

HEAD_CHANNELS, HEAD_PLACE = 512, {"padding": 12, "dilation": 12}  # of DeepLabV1


def units(narrower: int = 1, lengths: Sequence[int] = (3, 3, 6, 3)) -> dict[str, dict]:
    """Arguments of the units of levels 2 to 7 by published names, 2a, 2b1, ...; lengths: of levels 2 to 5."""
    found = {}
    # channels, and stride and dilation of a level's units; the first unit of level 5 widens its view within itself
    levels = (((128, 128), 2, 1), ((256, 256), 2, 1), ((512, 512), 2, 1), ((512, 1024), 1, 2))
    for level, (length, (channels, stride, dilation)) in enumerate(zip(lengths, levels), start=2):
        for i in range(length):
            name, place = (f"{level}b{i}", {"first_dilation": dilation}) if i else (f"{level}a", {"stride": stride})
            found[name] = {"channels": channels, "kernels": (3, 3), "dilation": dilation, **place}
    for name, widest, dropout in (("6a", 2048, 0.3), ("7a", 4096, 0.5)):
        channels, place = (widest // 4, widest // 2, widest), {"first_dilation": 4, "dilation": 4}
        found[name] = {"channels": channels, "kernels": (1, 3, 1), "dropout": dropout, **place}
    return {name: unit | {"channels": [c // narrower for c in unit["channels"]]} for name, unit in found.items()}


class Residual(nn.Module):
    """A unit: (norm, ReLU, convolution) for each convolution, plus the shortcut.

    entering: channels of the image. channels, kernels: of each convolution. stride, first_dilation: of the first one.
    dilation: of the others. dropout: of whole channels, before all convolutions but the first; plain: of values, before
    the last alone.
    """

    def __init__(self, entering, channels, kernels, *, stride=1, first_dilation=1, dilation=1, dropout=0, plain=False):
        super().__init__()
        before = (entering, *channels)
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in before[:-1])
        self.convs = nn.ModuleList()
        for i, kernel in enumerate(kernels):
            its_stride, its_dilation = (1, dilation) if i else (stride, first_dilation)
            place = {"stride": its_stride, "dilation": its_dilation, "padding": its_dilation * (kernel // 2)}
            self.convs.append(nn.Conv2d(before[i], before[i + 1], kernel, bias=False, **place))
        same = entering == before[-1] and stride == 1
        self.shortcut = None if same else nn.Conv2d(entering, before[-1], 1, stride=stride, bias=False)
        self.dropout = nn.Dropout(dropout) if plain else nn.Dropout2d(dropout)
        self.first_dropped = len(kernels) if plain else 2

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.norms[0](x))
        # a shortcut that changes the shape starts after the first norm
        shortcut = x if self.shortcut is None else self.shortcut(first)
        x = self.convs[0](first)
        for i, (norm, conv) in enumerate(zip(self.norms[1:], self.convs[1:]), start=2):
            x = F.relu(norm(x))
            x = conv(self.dropout(x) if i >= self.first_dropped else x)
        return x + shortcut


class WideResNet38(nn.Module):
    """float `(N,3,H,W)` -> features of levels 4 to 7, the last `(N,4096,H/8,W/8)`; plain: see `Residual`."""

    def __init__(self, narrower: int = 1, lengths: Sequence[int] = (3, 3, 6, 3), plain: bool = False):
        super().__init__()
        self.plain, channels = plain, 64 // narrower
        self.stem = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.units = nn.ModuleDict()
        for name, unit in units(narrower, lengths).items():
            self.units[name] = Residual(channels, **unit, plain=plain)
            channels = unit["channels"][-1]
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        x, features = self.stem(x), {}
        for name, unit in self.units.items():
            x = features[name[0]] = unit(x)
        return [features["4"], features["5"], features["6"], F.relu(self.norm(x))]


# tiny is for tests and processors: a sixteenth of the channels, every level kept
WIDTHS = {"wideresnet38": WideResNet38, "wideresnet38-tiny": partial(WideResNet38, 16, (1, 1, 2, 1), plain=True)}


class DeepLabV1(nn.Module):
    """float `(N,3,H,W)` -> logits `(N,C,H,W)`: two dilated convolutions on the encoder's features, scaled up."""

    def __init__(self, encoder: WideResNet38, classes: int):
        super().__init__()
        self.encoder = encoder
        self.decoder = Decoder(encoder.norm.num_features)
        self.head = nn.Conv2d(HEAD_CHANNELS, classes, 3, **HEAD_PLACE)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.decoder(self.encoder(x)))
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


class Decoder(nn.Module):
    """The first convolution of the head, on the last features."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, HEAD_CHANNELS, 3, **HEAD_PLACE)

    def forward(self, features: list[Tensor]) -> Tensor:
        return F.relu(self.conv(features[-1]))


# first weights from a file: MXNet's as published, `ilsvrc-cls_rna-a1_cls1000_ep-0001.params` of
# github.com/itijyou/ademxapp, trained on ImageNet, whose classifier is left out; or a state dict, in which the arrays
# may have any of the names in `names_of`.

MXNET = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_var"}


def load_deeplab(model: nn.Module, path: Path) -> None:
    """Put the weights of a whole DeepLabV1, or of its encoder alone, into a model, in place."""
    found = read_params(path) if path.suffix == ".params" else read_foreign(path)
    if "head.bias" in found:
        hint = ", or the encoder's weights alone"
        return load_weights(model, found, path, "this DeepLabV1", head="head.bias", hint=hint)
    learnt = [name for name in model.encoder.state_dict() if not name.endswith("num_batches_tracked")]
    chosen = {name: found[there] for name in learnt for there in names_of(name)[::-1] if there in found}
    load_weights(model.encoder, chosen, path, "this WideResNet-38")


def names_of(name: str) -> tuple[str, ...]:
    """What "units.2b1.convs.0.weight" may be called in a file: that, as published "res2b1_branch2a_weight", in the
    weakly supervised community's conversion "b2_1.conv_branch2a.weight", or with "encoder." in front.
    """
    kind = name.rpartition(".")[2]
    if name.startswith("stem"):
        return name, "conv1a_weight", "conv1a.weight", f"encoder.{name}"
    if name.startswith("norm"):
        return name, f"bn7_{MXNET[kind]}", f"bn7.{kind}", f"encoder.{name}"
    unit, part, number = re.fullmatch(r"units\.(\w+)\.(norms|convs|shortcut)(?:\.(\d))?\.\w+", name).groups()
    branch = "branch1" if part == "shortcut" else f"branch2{f'b{number}' if int(number) else 'a'}"
    layer, published = ("bn", MXNET[kind]) if part == "norms" else ("res", kind)
    # the community numbers the units of levels 2 to 5 from 0 and has one unit in 6 and 7
    block = f"b{unit[0]}_{unit[2:]}".removesuffix("_")
    theirs = f"{block}.{layer.replace('res', 'conv')}_{branch}.{kind}"
    return name, f"{layer}{unit}_{branch}_{published}", theirs, f"encoder.{name}"


MAGIC = 0x112
VERSIONS = {0xF993FAC8: False, 0xF993FAC9: True, 0xF993FACA: True}  # -> whether a storage type follows
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}
Take = Callable[[str], Any]  # one value of struct's format, from where the last one ended


def read_params(path: Path) -> dict[str, Tensor]:
    """The arrays of a .params file by name, without the "arg:" or "aux:" in front."""
    content = io.BytesIO(path.read_bytes())

    def take(kind: str) -> Any:
        return struct.unpack(f"<{kind}", content.read(struct.calcsize(f"<{kind}")))[0]

    try:
        if take("Q") != MAGIC:
            raise ValueError("its first bytes are others")
        take("Q")
        arrays = [_array(take) for _ in range(take("Q"))]
        names = [take(f"{take('Q')}s").decode("utf-8", "replace").partition(":")[2] for _ in range(take("Q"))]
        if len(names) != len(arrays) or len(set(names)) < len(names):
            raise ValueError(f"it has {len(arrays)} arrays and {len(set(names))} names")
    except (struct.error, ValueError) as error:
        reason = f"it ends after {path.stat().st_size} bytes" if isinstance(error, struct.error) else error
        found = f"Expected weights that MXNet has saved in {path}, but {reason}; download it again."
        raise UnsegError(found) from error
    return dict(zip(names, arrays))


def _array(take: Take) -> Tensor:
    dimensions, wide = take("I"), False
    if dimensions in VERSIONS:
        if VERSIONS[dimensions] and take("i") != 0:
            raise ValueError("an array in it is sparse")
        dimensions, wide = take("I"), True
    if dimensions > 32:
        raise ValueError(f"an array in it has {dimensions} dimensions")
    shape = [take("q" if wide else "I") for _ in range(dimensions)]
    if not shape:
        return torch.zeros(0)  # MXNet's "no array": nothing follows
    take("8s")  # where it was computed
    if (kind := take("i")) not in TYPES or min(shape) < 0:
        raise ValueError(f"an array in it has type {kind} and shape {shape}")
    size = math.prod(shape) * np.dtype(TYPES[kind]).itemsize
    return torch.from_numpy(np.frombuffer(take(f"{size}s"), TYPES[kind]).reshape(shape).copy())
