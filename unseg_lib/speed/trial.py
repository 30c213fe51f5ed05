"""Some steps of one training at its planned size, for their time and memory, without its data and its first weights.

Both are made up, since only their sizes matter. A trial runs in a process of its own (`alone`): its memory is nobody
else's, and one that is too large for the machine ends that process, not the measurement.
"""

import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from unseg_lib.datasets import SegmentationSet, load_dataset, write_scenes
from unseg_lib.errors import UnsegError
from unseg_lib.method import BilevelConfig
from unseg_lib.runtime import usable_precision
from unseg_lib.speed.machine import resident
from unseg_lib.speed.samples import generator_of, image
from unseg_lib.speed.watched import Found, cost_and_flop, cost_of_steps

SIDE = 128  # pixels of the scenes, which a training then brings to its own size


@dataclass(frozen=True)
class VictimTrial:
    """What decides the time of a victim's step, see `train_victim`; classes: how many its labels have."""

    victim: str
    task: str
    classes: int
    size: tuple[int, int]
    batch_size: int
    lr: float
    precision: str
    defense: str = "none"

    def __str__(self) -> str:
        what = f"{self.victim}, {self.task}, {self.size[0]} x {self.size[1]}, {self.classes} classes"
        return what if self.defense == "none" else f"{what}, {self.defense}"

    def run(self, batch: int, steps: int, device: str) -> Found:
        """What a step costs: the fastest of `steps`, after two others."""
        from unseg_lib.victims import train_victim

        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write_scenes(folder, SIDE, {"train": (2 + steps) * batch, "test": 2})
            train, test = (self._scenes(folder, split) for split in ("train", "test"))
            how = {"epochs": 1, "batch_size": batch, "lr": self.lr, "seed": 0, "size": self.size, "task": self.task}
            how |= {"defense": self.defense, "precision": self.precision, "device": device}
            work = lambda: train_victim(self.victim, train, test, folder / "victim", **how)  # noqa: E731
            return cost_of_steps(work, steps, torch.device(device))

    def _scenes(self, folder: Path, split: str) -> SegmentationSet:
        """Scenes whose labels could have all of the classes."""
        from unseg_lib.victims import one_object

        if self.task in ("object", "interactive"):
            found = load_dataset("scenes", folder, split, task="object")
            return one_object(found) if self.task == "interactive" else found
        found = load_dataset("scenes", folder, split)
        more = range(len(found.classes), self.classes)
        return replace(found, classes=(*found.classes, *(f"class {i}" for i in more)))


@dataclass(frozen=True)
class GeneratorTrial:
    """A step of the bilevel game; frozen: only the noise head of the generator learns, as with SAM's weights."""

    config: BilevelConfig
    frozen: bool
    precision: str
    devices: int = 1

    def __str__(self) -> str:
        players = f"generator {self.config.layout}{' (noise head)' * self.frozen}, surrogate {self.config.surrogate}"
        return f"{players} on {self.devices} devices" if self.devices > 1 else players

    @property
    def batch_size(self) -> int:
        return self.config.batch_size

    def run(self, batch: int, steps: int, device: str) -> Found:
        """What a step costs, as a mean over the turns of both players."""
        from unseg_lib.speed.step import PHASES, Rung, mean_of, step_of

        config = replace(self.config, batch_size=batch, sam_weights="", mae_weights="")
        on, how = torch.device(device), Rung("as planned", precision=usable_precision(self.precision, device))
        step = step_of(how, config, on, self.frozen)
        costs = {phase: cost_and_flop(partial(step, phase), on, steps) for phase in PHASES}
        seconds, flop = (
            mean_of({phase: getattr(one, name) for phase, one in costs.items()}, config) for name in ("seconds", "flop")
        )
        return Found(seconds, max((one.megabytes for one in costs.values() if one.megabytes), default=None), flop)


@dataclass(frozen=True)
class NoiseTrial:
    """An image through a generator, by the reference path, which poison stages take."""

    generator: str  # a layout, or a shipped generator
    batch_size: int = 1

    def __str__(self) -> str:
        return f"noise of {self.generator}"

    def run(self, batch: int, steps: int, device: str) -> Found:
        """What an image costs; always one at a time."""
        from unseg_lib.method import Inference

        on = torch.device(device)
        way = Inference(generator_of(self.generator, on), reference=True)
        pixels, mask = image(0, 512, 512)
        prepared = [way.prepare(pixels, mask=mask)]
        return cost_and_flop(lambda: way(prepared), on, steps)


Trial = VictimTrial | GeneratorTrial | NoiseTrial


def alone(trial: Trial, batch: int, steps: int, device: str) -> Found | str:
    """`trial.run` in a process of its own; a sentence where that cannot be done here."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, trial, batch, steps, device).result()
        except BrokenProcessPool:
            return "too large for this machine: the system ended it"
        except torch.OutOfMemoryError:
            return "too large for this GPU"
        except (UnsegError, RuntimeError, ValueError) as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _measured(trial: Trial, batch: int, steps: int, device: str) -> Found:
    """Memory as more than this process held before; on a GPU as torch had it there."""
    before = 0.0 if torch.device(device).type == "cuda" else resident()
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # the bars of what is tried
        found = trial.run(batch, steps, device)
    return replace(found, megabytes=found.megabytes and found.megabytes - before)
