"""Hand-made data sets for the tests of victims: bright boxes on a dark ground, learnt in a few steps."""

import os
import signal
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from unseg_lib.datasets import SegmentationSet
from unseg_lib.images import write_image
from unseg_lib.victims import train_victim, training

# a victim that learns them in seconds, and how
VICTIM = "unet-tu-mobilenetv3_small_050"
SMALL_MMSEG = (
    "mmseg:deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512 model.backbone.depth=18 model.backbone.base_channels=8 "
    "model.decode_head.in_channels=64 model.decode_head.channels=8 "
    "model.auxiliary_head.in_channels=32 model.auxiliary_head.channels=8"
)
HOW = {"size": (32, 32), "epochs": 2, "batch_size": 4, "lr": 2e-3, "seed": 0, "device": "cpu"}


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
