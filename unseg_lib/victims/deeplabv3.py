"""DeepLabV3 (Chen et al., arXiv 1706.05587) on ResNet-50 by the recipe of DDC-AT (Xu et al., ICCV 2021), whose
baselines on VOC the paper's Table 4 repeats; its numbers, and what differs: docs/recipes.md.

"deeplabv3:resnet50", "deeplabv3:tiny", and with the fields of `Variant` as options: "deeplabv3:resnet50 colour=True".
`size` is the crop. Images keep their ratio; the longer side becomes 500/473 of the crop's in training, VOC's own at the
published crop, and 512/473 in the test, which is scored at the labels' own size.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE, SegmentationSet
from unseg_lib.errors import UnsegError, first_line
from unseg_lib.evaluation import confusion
from unseg_lib.images import MEAN
from unseg_lib.method import load_weights, read_foreign
from unseg_lib.options import with_options
from unseg_lib.victims import deeplabv1, training
from unseg_lib.victims.data import normalise
from unseg_lib.victims.deeplabv1 import Data
from unseg_lib.victims.mask2former.data import recolour
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import Recipe, Rng, own_randomness

LONGER_SIDE, LONGER_IN_TEST = 500 / 473, 512 / 473  # of an image, over that of the crop
SCALE, DEGREES = (0.5, 2.0), 10.0
HALF = 0.5  # of the images are turned, of them blurred, of them flipped
BLUR = {"kernel_size": [5, 5], "sigma": [1.1, 1.1]}  # OpenCV's sigma for five pixels
MOMENTUM, DECAY, HEAD_LR = 0.9, 1e-4, 10.0
RATES, CHANNELS, DROPOUT, AUX_WEIGHT = (6, 12, 18), 256, 0.1, 0.4
STRIDE = 2 / 3  # from window to window in the test, over the crop's side
GRAY = [round(255 * mean) for mean in MEAN]

# timm's names; tiny is for tests and processors
ENCODERS = {"resnet50": "resnet50s", "tiny": "test_resnet"}


@dataclass(frozen=True)
class Variant:
    """colour: whether colours are changed, too, as SSD does, which is a defence of its own; published: not."""

    colour: bool = False


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    name, variant = with_options(run.name, dict.fromkeys(ENCODERS, Variant()), "DeepLabV3 encoder")
    recipe = Recipe(read, sgd, partial(batch_loss, variant), test=scores, keep=keep)
    return training.fit(run, build(name, len(run.train.classes), run.init, run.seed), recipe)


def build(name: str, classes: int, init: str, seed: int) -> "DeepLabV3":
    """The model with seeded first weights, ImageNet's from timm's hub, or a file's: of all, or of the encoder."""
    import timm

    with own_randomness("cpu", seed, "first weights"):
        try:
            how = {"pretrained": init == "imagenet", "features_only": True, "out_indices": (3, 4)}
            encoder = timm.create_model(ENCODERS[name], **how)
        except Exception as error:  # hub and network errors
            found = f"no {init} weights could be loaded; without a network use init=random or a file"
            raise UnsegError(f"Could not build the victim {name}: {found} ({first_line(error)}).") from error
        for layer, rate in ((encoder["layer3"], 2), (encoder["layer4"], 4)):
            dilate(layer, rate)
        model = DeepLabV3(encoder, classes)
    if init not in ("random", "imagenet"):
        found = read_foreign(init)
        whole = "head.4.bias" in found
        found = found if whole else {name: value for name, value in found.items() if not name.startswith("fc.")}
        load_weights(model if whole else encoder, found, init, "this DeepLabV3", head="head.4.bias")
    return model


def dilate(layer: nn.Module, rate: int) -> None:
    """Every convolution without a stride, those of 3 x 3 with holes instead; in place."""
    for conv in layer.modules():
        if isinstance(conv, nn.Conv2d):
            conv.stride = (1, 1)
            if conv.kernel_size == (3, 3):
                conv.dilation = conv.padding = (rate, rate)
        elif isinstance(conv, nn.AvgPool2d):  # tiny's shortcut
            conv.kernel_size = conv.stride = 1


class DeepLabV3(nn.Module):
    """float `(N,3,H,W)` -> logits `(N,C,H,W)`: ASPP and a head on the last features, another on those before them."""

    def __init__(self, encoder: nn.Module, classes: int):
        super().__init__()
        before, last = encoder.feature_info.channels()
        self.encoder, self.decoder = encoder, Decoder(last)
        self.head = head(CHANNELS * (len(RATES) + 2), classes)
        self.auxiliary = head(before, classes)

    def forward(self, x: Tensor) -> Tensor:
        return enlarged(self.head(self.decoder(self.encoder(x))), x)

    def weighted(self, x: Tensor) -> list[tuple[float, Tensor]]:
        """Weights and logits `(N,C,H,W)` whose losses are summed, see `training.plain_loss`."""
        features = self.encoder(x)
        parts = (1.0, self.head(self.decoder(features))), (AUX_WEIGHT, self.auxiliary(features[-2]))
        return [(weight, enlarged(logits, x)) for weight, logits in parts]


class Decoder(nn.Module):
    """The five branches of ASPP on the last features, side by side: `(N,1280,h,w)`."""

    def __init__(self, channels: int):
        from torchvision.models.segmentation.deeplabv3 import ASPP

        super().__init__()
        self.aspp = ASPP(channels, list(RATES), CHANNELS)
        self.aspp.project = nn.Identity()  # the head does it

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.aspp(features[-1])


def head(channels: int, classes: int) -> nn.Sequential:
    """Two 1x1 convolutions, channels -> at most 256 -> classes."""
    middle = min(channels, CHANNELS)
    first = (nn.Conv2d(channels, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.ReLU(inplace=True))
    return nn.Sequential(*first, nn.Dropout2d(DROPOUT), nn.Conv2d(middle, classes, 1))


def enlarged(logits: Tensor, x: Tensor) -> Tensor:
    return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=True)


sgd = partial(training.sgd, head_lr=HEAD_LR, momentum=MOMENTUM, weight_decay=DECAY)


def read(run: VictimRun, source: SegmentationSet, what: str) -> Data:
    """All images and label maps, as DeepLabV1's; in the test labels keep their size."""
    learnt = what == "training"
    return deeplabv1.read(run, source, what, LONGER_SIDE if learnt else LONGER_IN_TEST, full=not learnt)


def batch_loss(variant: Variant, run: VictimRun, model: nn.Module, data: Data, chosen: Tensor, rng: Rng) -> Tensor:
    """The loss on crops of the images numbered `chosen`, defended."""
    draw = rng("augmentation")
    cut = [crop(data[0][i], data[1][i], run.size, draw) for i in chosen.tolist()]
    x, y = (torch.stack(column).to(run.device) for column in zip(*cut))
    x = training.defended_batch(run, x, rng("defence"))
    x = 255 * recolour(x.float() / 255, rng("colour")) if variant.colour else x
    return training.loss_function(run)(run, model, normalise(x), y.long())


def crop(x: Tensor, y: Tensor, size: tuple[int, int], rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scale, turn, blur, flip and cut an image uint8 `(3,h,w)` and its label `(h,w)`, in the published order; what is
    around the image is mean gray and ignored.
    """
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    def draw(low: float, high: float) -> float:
        return float(torch.empty(1).uniform_(low, high, generator=rng))

    y, nearest = y[None], InterpolationMode.NEAREST
    scale = draw(*SCALE)
    scaled = [max(1, int(scale * side)) for side in y.shape[1:]]
    x, y = T.resize(x, scaled, antialias=False), T.resize(y, scaled, interpolation=nearest)
    angle = draw(-DEGREES, DEGREES)
    if draw(0, 1) < HALF:
        x = T.rotate(x, angle, InterpolationMode.BILINEAR, fill=GRAY)
        y = T.rotate(y, angle, nearest, fill=[IGNORE])
    x = T.gaussian_blur(x, **BLUR) if draw(0, 1) < HALF and min(scaled) > 2 else x
    x, y = (T.horizontal_flip(x), T.horizontal_flip(y)) if draw(0, 1) < HALF else (x, y)
    x, y = padded(x, size, GRAY), padded(y, size, [IGNORE])
    top, left = (int(draw(0, 1) * (side - own + 1)) for side, own in zip(y.shape[1:], size))
    window = slice(top, top + size[0]), slice(left, left + size[1])
    return x[:, *window], y[0, *window]


def padded(x: Tensor, size: tuple[int, int], fill: list[int]) -> Tensor:
    """`(C,h,w)` in the middle of at least `size`."""
    from torchvision.transforms.v2.functional import pad

    high, wide = (max(0, wanted - own) for wanted, own in zip(size, x.shape[1:]))
    return pad(x, [wide // 2, high // 2, wide - wide // 2, high - high // 2], fill=fill)


@torch.inference_mode()
def predict(run: VictimRun, model: nn.Module, x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Class of every pixel, int64 of `shape`, of an image uint8 `(3,h,w)`: the mean over overlapping windows of the
    crop's size, each also mirrored.
    """
    model.eval()
    whole = normalise(padded(x.to(run.device), run.size, GRAY)[None])
    total, count = [], whole.new_zeros(whole.shape[2:])
    for window in windows(whole.shape[2:], run.size):
        seen = whole[:, :, *window]
        with training.autocast(run):
            one, mirrored = model(torch.cat([seen, seen.flip(3)])).float().softmax(dim=1)
        total = total if len(total) else one.new_zeros(len(one), *whole.shape[2:])
        total[:, *window] += (one + mirrored.flip(2)) / 2
        count[window] += 1
    top, left = (max(0, wanted - own) // 2 for wanted, own in zip(run.size, x.shape[1:]))
    mean = (total / count)[:, top : top + x.shape[1], left : left + x.shape[2]]
    return F.interpolate(mean[None], shape, mode="bilinear", align_corners=False)[0].argmax(dim=0)


def windows(shape: tuple[int, int], size: tuple[int, int]) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of windows of `size` that cover `shape`, the last ones at its end."""
    ends = []
    for whole, side in zip(shape, size):
        step = math.ceil(side * STRIDE)
        ends.append([min(start + side, whole) for start in range(0, whole - side + step, step)])
    for bottom in ends[0]:
        for right in ends[1]:
            yield slice(bottom - size[0], bottom), slice(right - size[1], right)


def scores(run: VictimRun, model: nn.Module, data: Data) -> dict:
    """{"miou", "iou": [C]} in [0,1] at the labels' own size."""
    found = (confusion(predict(run, model, x, y.shape).cpu(), y, len(run.test.classes)) for x, y in zip(*data))
    return training.scores_of(sum(found))


def keep(run: VictimRun, model: nn.Module, data: Data) -> None:
    """Write predictions.npz of some test images."""
    some = training.shown(len(run.test))
    training.keep_label_maps(run, (predict(run, model, data[0][i], data[1][i].shape) for i in some))
