"""Hand-made sets for the tests of victims, and small victims that learn from them in a few steps.

`boxes` are bright on a dark ground; `shapes` are boxes and discs on ground below sky, with instance masks.
"""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from unseg_lib.datasets import Instance, SegmentationSet
from unseg_lib.images import write_image
from unseg_lib.victims import VictimRun, sam_hq, train_victim, training

# a victim that learns them in seconds, and how
VICTIM = "unet-tu-mobilenetv3_small_050"
SMALL_MMSEG = (
    "mmseg:deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512 model.backbone.depth=18 model.backbone.base_channels=8 "
    "model.decode_head.in_channels=64 model.decode_head.channels=8 "
    "model.auxiliary_head.in_channels=32 model.auxiliary_head.channels=8"
)
HOW = {"size": (32, 32), "epochs": 2, "batch_size": 4, "lr": 2e-3, "seed": 0, "device": "cpu"}
CLASSES = ("ground", "sky", "box", "disc")
MASK2FORMER = "mask2former:tiny points=64 queries=8 layers=1"
RSPROMPTER = "rsprompter:tiny points=64 queries=6 layers=1 width=16"
SAM_HQ = "sam-hq:tiny"
FFN = "layer_cfg.ffn_cfg.feedforward_channels=32"
DINO = (
    "dino:dino-4scale_r50_8xb2-12e_coco model.backbone.depth=18 model.backbone.base_channels=8 "
    "model.neck.in_channels=[16,32,64] model.num_queries=10 model.dn_cfg.group_cfg.num_dn_queries=4 "
    f"model.encoder.num_layers=1 model.encoder.{FFN} model.decoder.num_layers=1 model.decoder.{FFN}"
)
COLOURS = np.array([(40, 90, 40), (120, 160, 220), (220, 60, 50), (240, 220, 60)])


def boxes(root: Path, split: str, count: int, shape=(32, 48), dim: int = 0) -> SegmentationSet:
    """`count` images of one box each, `shape` (height, width), the first row ignored; `dim` darkens them."""
    rng, labels = np.random.default_rng([count, len(split)]), {}
    for i in range(count):
        label = np.zeros(shape, np.uint8)
        row, column = rng.integers(2, shape[0] // 2), rng.integers(0, shape[1] // 2)
        label[row : row + shape[0] // 2, column : column + shape[1] // 2] = 1
        label[0] = 255
        colour = np.where(label[..., None] == 1, (220, 200, 60), (30, 60, 90)) + rng.integers(-20, 20, (*shape, 3))
        write_image(root / "im" / f"{split}{i}.png", (colour - dim).clip(0, 255).astype(np.uint8))
        labels[f"{split}{i}"] = label
    images = {name: Path("im") / name for name in labels}
    return SegmentationSet("boxes", root, split, ("background", "object"), tuple(labels), images, labels.__getitem__)


def shapes(root: Path, split: str, count: int, shape=(48, 64), crowd: bool = False, dim: int = 0) -> SegmentationSet:
    """`count` images, `shape` (height, width), each with one to three things apart; `dim` darkens them.

    The last image has no thing; with `crowd` the first thing of every image is a crowd.
    """
    rng, labels, objects = np.random.default_rng([count, len(split)]), {}, {}
    for i in range(count):
        id, drawn = f"{split}{i}", np.zeros(shape, np.uint8)
        drawn[: shape[0] // 3] = 1
        things = _things(rng, shape, rng.integers(1, 4) if i < count - 1 else 0)
        objects[id] = [Instance(mask, index, crowd and n == 0) for n, (mask, index) in enumerate(things)]
        labels[id] = drawn.copy()
        for one in objects[id]:
            drawn[one.mask] = one.class_index
            labels[id][one.mask] = 255 if one.crowd else one.class_index
        colour = COLOURS[drawn] + rng.integers(-20, 20, (*shape, 3)) - dim
        write_image(root / "im" / f"{id}.png", colour.clip(0, 255).astype(np.uint8))
    images, reads = {id: Path("im") / id for id in labels}, (labels.__getitem__, objects.__getitem__)
    place = {"name": "shapes", "root": root, "split": split, "ids": tuple(labels), "images": images}
    what = {"classes": CLASSES, "background": None, "things": (2, 3), "annotation_files": ()}
    return SegmentationSet(**place, **what, read_label=reads[0], read_instances=reads[1])


def _things(rng: np.random.Generator, shape: tuple[int, int], count: int) -> list[tuple[np.ndarray, int]]:
    found, (rows, columns) = [], np.mgrid[: shape[0], : shape[1]]
    while len(found) < count:
        radius = rng.uniform(0.1, 0.2) * shape[0]
        row, column = (rng.uniform(radius, length - radius) for length in shape)
        if rng.random() < 0.5:
            mask, index = np.maximum(abs(rows - row), abs(columns - column)) <= radius, 2
        else:
            mask, index = (rows - row) ** 2 + (columns - column) ** 2 <= radius**2, 3
        if not any((mask & other).any() for other, _ in found):
            found.append((mask, index))
    return found


def run_of(victim: str, sets: tuple[SegmentationSet, SegmentationSet], **changes) -> VictimRun:
    """What `train_victim` hands to the family of a victim."""
    how = {"epochs": 2, "batch_size": 3, "lr": 1e-3, "seed": 0, "device": "cpu", "precision": "32", "init": "random"}
    how |= {"name": victim.partition(":")[2], "train": sets[0], "test": sets[1], "out": None}
    return VictimRun(**(how | {"clean_fraction": 0.0, "threads": 0} | changes))


def save_sam(path: Path) -> None:
    """A tiny SAM in the official format."""
    state = sam_hq.build("tiny", (32, 32), "random", 5).state_dict()
    sam = {name: value for name, value in state.items() if name.split(".")[1] not in sam_hq.ADDED}
    torch.save(sam | {"pixel_mean": torch.zeros(3, 1, 1)}, path)


def mae_checkpoint(encoder: torch.nn.Module, side: int) -> dict:
    """What MAE publishes: timm's ViT keys, class token first in the position embedding, a decoder beside."""
    state = {k.replace("mlp.lin", "mlp.fc"): v + 1 for k, v in encoder.state_dict().items() if "rel_pos" not in k}
    state = {k: v for k, v in state.items() if k.startswith(("blocks", "patch_embed"))}
    width = encoder.pos_embed.shape[-1]
    ramp = torch.arange(side * side, dtype=torch.float32).reshape(1, -1, 1).repeat(1, 1, width)
    state["pos_embed"] = torch.cat([torch.full((1, 1, width), -99.0), ramp], dim=1)
    return state | {"cls_token": torch.zeros(1), "norm.weight": torch.zeros(1), "decoder_blocks.0.x": torch.zeros(1)}


def after_saving(act):
    """`training._save` that calls `act` after each checkpoint it writes."""
    save = training._save

    def save_and_act(*arguments):
        save(*arguments)
        act()

    return save_and_act


def interrupt():
    raise KeyboardInterrupt


@contextmanager
def interrupted_after_saving(monkeypatch):
    """The training inside ends, like one that is stopped by hand, once its first checkpoint is written."""
    from unseg_lib.victims.openmmlab.runner import Book

    save = Book.after_val_epoch
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "_save", after_saving(interrupt))
        patch.setattr(Book, "after_val_epoch", lambda *arguments, **more: (save(*arguments, **more), interrupt()))
        yield


def train_and_die(sets, out, defense="none"):
    """For a process of its own: train the toy victim and be killed once its first epoch is saved."""
    training._save = after_saving(lambda: os.kill(os.getpid(), signal.SIGKILL))
    train_victim(VICTIM, *sets, out, **HOW, defense=defense)


def only_on_a_cpu():
    """Skip where mmengine would take a GPU: it asks nobody, and these tests are about exact numbers."""
    from mmengine.device import get_device

    if get_device() != "cpu":
        pytest.skip("mmengine takes this machine's GPU, these tests are about exact numbers on a CPU")
