"""WideResNet-38, "model A1" of Wu, Shen and van den Hengel, "Wider or Deeper" (arXiv 1611.10080), and DeepLabV1 on it.

Residual units that normalise first; levels 5 to 7 are dilated instead of strided, so features have 1/8 of the
image's size, and 4096 channels.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

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

    def __init__(
        self, entering, channels, kernels, *, stride=1, first_dilation=1, dilation=1, dropout=0.0, plain=False
    ):
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
