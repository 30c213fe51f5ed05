"""Mask2Former's architectures and first weights, on transformers' Mask2FormerForUniversalSegmentation."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unseg_lib.errors import UnsegError, first_line, pick
from unseg_lib.files import read_json
from unseg_lib.method import LITE0, load_lite0, load_weights, read_foreign, renormalise
from unseg_lib.victims.mask2former.data import FITS
from unseg_lib.victims.training import SCHEDULES, kept_as_it_is, own_randomness

STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}


@dataclass(frozen=True)
class Layout:
    """A model and what its training does its own way; what is not given is as in the published configs.

    backbone: class in transformers and its arguments. weights: the backbone's on Hugging Face's hub, trained on
    ImageNet, or `LITE0`, whose come with the kit. backbone_lr: factor of the backbone's learning rate. scale_low,
    scale_high: of random windows. crop: sides of these windows over the image's. colour: whether colours are changed.
    fit: of `data.FITS`. schedule: of `training.SCHEDULES`. norm: whether the batch norms of a ResNet that somebody has
    trained stay as they are, "frozen", or are "trained". threshold, overlap: see `outputs.segments`.
    """

    backbone: tuple[str, dict[str, Any]]
    weights: str | None = None
    width: int = 256
    feedforward: int = 2048
    pixel_layers: int = 6
    pixel_feedforward: int = 1024
    layers: int = 9
    heads: int = 8
    queries: int = 100
    points: int = 12544
    backbone_lr: float = 0.1
    scale_low: float = 0.5
    scale_high: float = 2.0
    crop: float = 1.0
    colour: bool = True
    fit: str = "squash"
    schedule: str = "poly"
    norm: str = "frozen"
    threshold: float = 0.8
    overlap: float = 0.8

    def __post_init__(self):
        check_layout(self, "Mask2Former", 32)
        pick(dict.fromkeys(("frozen", "trained")), self.norm, "norm of Mask2Former")
        if not 0 < self.crop <= 1:
            raise UnsegError(f"Expected crop of Mask2Former above 0 and to 1, found {self.crop:g}.")
        for name, value in {"threshold": self.threshold, "overlap": self.overlap}.items():
            if not 0 <= value <= 1:
                raise UnsegError(f"Expected {name} of Mask2Former from 0 to 1, found {value:g}.")


def check_layout(layout: Any, what: str, divisor: int) -> None:
    """Refuse counts below 1, a width that heads or positions do not divide, windows of no scale, unknown words."""
    pick(FITS, layout.fit, f"fit of {what}")
    pick(SCHEDULES, layout.schedule, f"schedule of {what}")
    for name, value in vars(layout).items():
        if isinstance(value, int) and not isinstance(value, bool) and value < 1:
            raise UnsegError(f"Expected {name} of {what} from 1, found {value}.")
    if layout.width % divisor or layout.width % layout.heads:
        raise UnsegError(f"Expected a width that {divisor} and heads={layout.heads} divide, found {layout.width}.")
    low, high = layout.scale_low, layout.scale_high
    if not 0 < low <= high:
        raise UnsegError(f"Expected 0 < scale_low <= scale_high, found {low:g} and {high:g}.")


LITE0_STAGES = {"backbone": LITE0, "out_indices": (1, 2, 3, 4), "use_pretrained_backbone": False}
SWIN_TINY = {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "drop_path_rate": 0.3}
RESNET_TINY = {"embedding_size": 16, "hidden_sizes": [16, 32, 64, 128], "depths": [1, 1, 1, 1], "layer_type": "basic"}
TINY = {"width": 64, "feedforward": 128, "pixel_layers": 1, "pixel_feedforward": 128, "heads": 4, "layers": 2}
TINY |= {"norm": "trained"}
DEMO = {"queries": 12, "backbone_lr": 1.0, "scale_low": 0.8, "scale_high": 1.25, "colour": False}

LAYOUTS = {
    "resnet50": Layout(("ResNetConfig", STAGES), "microsoft/resnet-50"),
    "swin-tiny": Layout(("SwinConfig", SWIN_TINY | STAGES), "microsoft/swin-tiny-patch4-window7-224"),
    # for tests and processors: never trained by others, so the backbone learns as fast as the rest
    "tiny": Layout(("ResNetConfig", RESNET_TINY | STAGES), **TINY, queries=20, points=1024, backbone_lr=1.0),
    # as small, on EfficientNet-Lite0, whose ImageNet weights come with the kit
    "lite0": Layout(("TimmBackboneConfig", LITE0_STAGES), LITE0, **TINY, queries=20, points=1024),
    # for a few minutes on small images with few objects, as of notebook 03b
    "lite0-demo": Layout(("TimmBackboneConfig", LITE0_STAGES), LITE0, **TINY, **DEMO, points=1024),
}


def build(layout: Layout, classes: int, init: str, seed: int) -> nn.Module:
    """The model, which knows its `layout`, with seeded first weights, or those that `init` names.

    init: "random"; "imagenet", the backbone's from the hub; a folder as transformers saves them, of a Mask2Former
    or of a backbone; or a file: of a Mask2Former, or torchvision's ResNet, which R50's published start was made of.
    """
    path = Path(init)
    if init == "imagenet" and not layout.weights:
        raise UnsegError("Expected init=random for this Mask2Former, nobody has trained its backbone on ImageNet.")
    with own_randomness("cpu", seed, "first weights"), quiet():
        model = untrained(layout, classes)
        pixels = model.model.pixel_level_module
        if init == "imagenet" or (path.is_dir() and read_json(path / "config.json").get("model_type") != "mask2former"):
            _load_backbone(pixels.encoder, layout.weights if init == "imagenet" else init)
        elif init != "random":
            path = path / "model.safetensors" if path.is_dir() else path
            own = {"criterion.empty_weight": model.criterion.empty_weight}  # no weight: how much "no object" counts
            words = {"head": "class_predictor.bias", "more": 1, "hint": ", or train from a backbone's"}
            found = read_foreign(path)
            if "layer1.0.conv1.weight" in found:
                _load_resnet(pixels.encoder, found, path)
            else:
                load_weights(model, found | own, path, "this Mask2Former", **words)
    if init != "random" and layout.norm == "frozen":
        for layer in pixels.encoder.modules():
            if isinstance(layer, nn.BatchNorm2d):
                kept_as_it_is(layer)
    if layout.weights == LITE0:
        renormalise(pixels.encoder._backbone)
    _keep_in_fp32(pixels.decoder)
    # by this name defences find it; set beside torch's book-keeping, which would save its weights twice
    object.__setattr__(model, "encoder", pixels.encoder)
    model.layout = layout
    return model


def untrained(layout: Layout, classes: int) -> nn.Module:
    """The model with first weights from torch's global generator."""
    import transformers

    kind, arguments = layout.backbone
    config = transformers.Mask2FormerConfig(
        backbone_config=getattr(transformers, kind)(**arguments),
        num_labels=classes,
        **dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), layout.width),
        dim_feedforward=layout.feedforward,
        encoder_layers=layout.pixel_layers,
        encoder_feedforward_dim=layout.pixel_feedforward,
        decoder_layers=layout.layers + 1,  # transformers counts the prediction before the first layer
        num_attention_heads=layout.heads,
        num_queries=layout.queries,
        train_num_points=layout.points,
    )
    return transformers.Mask2FormerForUniversalSegmentation(config)


def _load_backbone(encoder: nn.Module, place: str) -> None:
    if place == LITE0:
        return load_lite0(encoder._backbone)
    try:
        encoder.load_state_dict(type(encoder).from_pretrained(place, **STAGES).state_dict())
    except Exception as error:  # hub, network, file and shape errors of three libraries
        found = f"{place} ({first_line(error)})"
        hint = "without a network use init=random or a folder, or bring the file of `unseg weights list`"
        raise UnsegError(f"Could not load the backbone's weights {found}; {hint}.") from error


def _load_resnet(backbone: nn.Module, found: dict[str, Tensor], path: str | Path) -> None:
    """Load torchvision's ResNet into the backbone of transformers, in place: they differ in names alone."""
    chosen = {}
    for key, value in found.items():
        parts = re.fullmatch(r"(?:layer(\d)\.(\d+)\.)?(conv|bn|downsample\.)(\d)\.(\w+)", key)
        if parts:  # all but the classifier
            stage, block, kind, number, end = parts.groups()
            layer = "convolution" if kind == "conv" or (kind, number) == ("downsample.", "0") else "normalization"
            inner = "shortcut" if kind == "downsample." else f"layer.{int(number) - 1}"
            place = f"encoder.stages.{int(stage) - 1}.layers.{block}.{inner}" if stage else "embedder.embedder"
            chosen[f"{place}.{layer}.{end}"] = value
    load_weights(backbone, chosen, path, "this ResNet")


def _keep_in_fp32(decoder: nn.Module) -> None:
    """As the authors do: in 16 bits the places where deformable attention looks are too coarse."""
    forward = decoder.forward

    def in_fp32(features: list[Tensor], **options):
        with torch.autocast(features[0].device.type, enabled=False):
            return forward([feature.float() for feature in features], **options)

    decoder.forward = in_fp32


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' remarks, it warns of any backbone but Swin, and without its bars."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
