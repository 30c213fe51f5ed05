"""What one victim's training is: its settings, its folder, its result.

A folder is one training's: `training.json` says which, the checkpoint how far it is, `result.json` that it is done.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from unseg_lib import files, runtime
from unseg_lib.datasets import SegmentationSet
from unseg_lib.defenses import Defense
from unseg_lib.errors import UnsegError

INIT = ("random", "imagenet")
LABEL_TASKS = ("", "semantic", "object")  # learnt from label maps, as the sets were read


@dataclass(frozen=True)
class VictimRun:
    """The settings of one training, see `train_victim`."""

    name: str  # without the family: "unet-resnet18"
    train: SegmentationSet
    test: SegmentationSet
    out: Path
    size: tuple[int, int]  # height, width
    epochs: int
    batch_size: int
    lr: float
    seed: int
    init: str  # "random", "imagenet", or a file or folder of weights
    clean_fraction: float  # already mixed into `train`; kept for the note in the folder
    threads: int
    device: str  # "cpu", "cuda", "mps"
    precision: str  # "32" or "bf16", as asked for
    defenses: tuple[Defense, ...] = ()  # changes of images are already in `train`, see `defended`
    task: str = ""  # "" is that of the label maps, "semantic" or "object"

    @property
    def bf16(self) -> bool:
        """Whether it computes in bf16: where that was asked for, and the device can."""
        return self.precision == "bf16" and runtime.has_bf16(self.device)

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"


def check(run: VictimRun) -> None:
    """Refuse settings that cannot be trained with, before anything is read."""
    counted = "{} for training and {} for the test".format
    classes, images = counted(len(run.train.classes), len(run.test.classes)), counted(len(run.train), len(run.test))
    numbers = {"epochs": run.epochs, "lr": run.lr, "height": run.size[0], "width": run.size[1]}
    for what, met, found in (
        *((f"{name} above 0", value > 0, value) for name, value in numbers.items()),
        ("a batch size of at least 2 (batch normalisation needs it)", run.batch_size >= 2, run.batch_size),
        ("precision to be one of 32, bf16", run.precision in ("32", "bf16"), f"'{run.precision}'"),
        ("one list of classes", run.train.classes == run.test.classes, f"{classes}; load both with the same task"),
        ("images", len(run.train) and len(run.test), images),
    ):
        if not met:
            raise UnsegError(f"Expected {what}, found {found}.")


def claim(run: VictimRun, victim: str, defense: str) -> None:
    """Note in the folder what is trained there, or refuse; threads and device change only a number's last bits."""
    mine = {
        "victim": victim,
        "defense": defense,
        **{k: getattr(run, k) for k in ("epochs", "batch_size", "lr", "seed", "clean_fraction", "precision")},
        "init": run.init if run.init in INIT else f"{Path(run.init).name} {weights_digest(Path(run.init))}",
        "size": list(run.size),
        "train": fingerprint(run.train),
        "test": fingerprint(run.test),
    }
    files.claim(run.out, mine | ({} if run.task in LABEL_TASKS else {"task": run.task}), "training")


def fingerprint(source: SegmentationSet) -> dict:
    """Tell data sets apart by what they hold, not by where they lie: a poisoned copy differs in its bytes."""
    digest = hashlib.sha256("\n".join(source.classes).encode())
    for name in source.ids:
        digest.update(f"\n{name} {files.sha256_of(source.image_path(name))}".encode())
    for file in source.annotation_files:
        digest.update(files.sha256_of(source.root / file).encode())
    size = {"working_size": list(source.working_size)} if source.working_size else {}
    return {"name": source.name, "split": source.split, "images": len(source), "sha256": digest.hexdigest()} | size


def weights_digest(path: Path) -> str:
    """What a file of weights, or a folder of them, holds."""
    parts = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
    return hashlib.sha256("".join(files.sha256_of(file) for file in parts).encode()).hexdigest()


def summary(classes: tuple[str, ...], epochs: list[dict], minutes: float, device: str) -> dict:
    """The result of a training: every epoch, the last one, and of every score the best one."""
    if "scores" in epochs[-1]:
        final = epochs[-1]["scores"]
        peak = {metric: _best(epoch["scores"][metric] for epoch in epochs) for metric in final}
    else:
        final = {name: epochs[-1][name] for name in ("miou", "iou")}
        by_class = [_best(column) for column in zip(*(epoch["iou"] for epoch in epochs))]
        peak = {"miou": _best(epoch["miou"] for epoch in epochs), "iou": by_class}
    result = {"classes": list(classes), "epochs": epochs, "final": final, "peak": peak}
    return result | {"minutes": minutes, "device": device}


def _best(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
