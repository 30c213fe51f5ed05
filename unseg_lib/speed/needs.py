"""What the stages of a profile need of this machine, in hours and memory: from some steps of each that are run here.

    unseg bench needs --profile paper

Nothing is downloaded for it: images and first weights are made up, since only their sizes matter. Stages that differ
by their noise or seed alone are measured once. Tests after each epoch, and reading the images, come on top.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, redirect_stderr
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from unseg_lib.datasets import CLASSES, COUNTS, SegmentationSet, data_root, load_dataset, write_scenes
from unseg_lib.defenses import defenses_of
from unseg_lib.errors import UnsegError
from unseg_lib.method import BilevelConfig, Inference
from unseg_lib.pipeline import Profile, Stage, load_profile
from unseg_lib.poisons import POISONS
from unseg_lib.runtime import progress, provenance, usable_precision
from unseg_lib.speed.ladder import mean_step, step_of
from unseg_lib.speed.measure import Cost, cost, flop_counter, forget_peak, generator_of, image, peak, resident
from unseg_lib.victims import one_object, train_victim

# training images and classes of the official sets, for those that are not on this machine
OFFICIAL = {
    "voc": (10_582, 21),
    "lung": (563, 2),
    "kvasir": (800, 2),
    "ade20k": (20_210, 150),
    "cityscapes": (2_975, 19),
    "coco": (118_287, 80),
    "coco-panoptic": (118_287, 133),
    "hqseg44k": (44_320, 2),
    "whu": (4_736, 2),
    "nwpu": (520, 11),
    "ssdd": (928, 2),
}
SIDE = 128  # pixels of the scenes, which a training then brings to its own size
UNKNOWN = dict.fromkeys(("samples_per_second", "hours_a_stage", "hours", "megabytes", "flop", "tflop"))


def measured_needs(profile: str, device: str, batch: int) -> dict:
    """What `needs` finds for a profile, by name or path, with the machine it was found on and the code that did it."""
    plan = load_profile(profile)
    rows, origin = needs(plan, device, batch=batch), provenance(plan.root)
    machine = origin["gpus"][0] if device == "cuda" else f"{origin['cpu']}, {torch.get_num_threads()} threads"
    return {"profile": plan.name, "machine": machine, "rows": rows, "provenance": origin}


def needs(profile: Profile, device: str, *, batch: int = 0, steps: int = 2) -> list[dict]:
    """A row for each kind of training: hours a stage, of all its stages, MB.

    batch: as many images in a step at most, where the planned ones are too many for this machine; 0: as planned. Then
    `megabytes` is that of the smaller step, and a planned one needs more. steps: that are timed, after two others.
    flop: of a sample, in matrix products, convolutions and attention, whatever the machine. problem: "", or why there
    are no numbers.
    """
    rows, plan = [], trials(profile)
    for trial, stages in progress(plan.items(), f"needs of {profile.name}", total=len(plan)):
        here, samples = min(batch or trial.batch_size, trial.batch_size), sum(number for _, number in stages)
        row = {"training": trial.name, "stages": len(stages), "samples": samples}
        row |= {"planned_batch": trial.batch_size, "batch": here, "problem": "", **UNKNOWN}
        found = alone(trial, here, steps, device)
        if isinstance(found, str):
            row["problem"] = found
        else:
            speed = here * trial.devices / found.seconds
            hours = samples / speed / 3600
            row |= {"samples_per_second": speed, "hours_a_stage": hours / len(stages), "hours": hours}
            row |= {"megabytes": found.megabytes, "flop": found.flop / here, "tflop": 1e-12 * found.flop / here}
        rows.append(row)
    return rows


@dataclass(frozen=True)
class Trial:
    """One kind of training; a step of it costs `measure(batch, steps, device, *given)`."""

    name: str
    batch_size: int
    measure: Callable[..., Cost]
    given: tuple
    devices: int = 1


def victim_step(
    batch: int, steps: int, device: str, victim: str, task: str, classes: int, size: tuple[int, int], *how: object
) -> Cost:
    """A step of a victim on scenes whose labels could have so many classes: the fastest of `steps`, after two others.

    how: learning rate, precision and defence, see `train_victim`.
    """

    def scenes(split: str) -> SegmentationSet:
        if task in ("object", "interactive"):
            found = load_dataset("scenes", folder, split, task="object")
            return one_object(found) if task == "interactive" else found
        found = load_dataset("scenes", folder, split)
        more = range(len(found.classes), classes)
        return replace(found, classes=(*found.classes, *(f"class {i}" for i in more)))

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_scenes(folder, SIDE, {"train": (2 + steps) * batch, "test": 2})
        given = {"epochs": 1, "batch_size": batch, "seed": 0, "size": size, "task": task, "device": device}
        given |= zip(("lr", "precision", "defense"), how)
        work = partial(train_victim, victim, scenes("train"), scenes("test"), folder / "victim", **given)
        return cost_of_steps(work, steps, torch.device(device))


def game_step(batch: int, steps: int, device: str, config: BilevelConfig, frozen: bool, precision: str) -> Cost:
    """A step of the bilevel game, as a mean over the turns of both players.

    frozen: only the noise head of the generator learns, as with SAM's weights.
    """
    config = replace(config, batch_size=batch, sam_weights="", mae_weights="")
    step = step_of(config, torch.device(device), frozen, precision=usable_precision(precision, device))
    return mean_step(step, config, torch.device(device), steps, counted=True)[1]


def noise_step(batch: int, steps: int, device: str, generator: str) -> Cost:
    """An image, always one, through a generator (a layout, or a shipped one) by the reference path of poison stages."""
    way, (pixels, mask) = Inference(generator_of(generator, torch.device(device)), reference=True), image(0, 512, 512)
    return cost(partial(way, [way.prepare(pixels, mask=mask)]), torch.device(device), steps, counted=True)


class _Enough(Exception):
    """Ends what is watched."""


def cost_of_steps(work: Callable[[], object], steps: int, device: torch.device) -> Cost:
    """The fastest of `steps` steps that any optimiser takes in `work`, whoever wrote its loop, and which then ends.

    Between two steps lies all that a training does, reading its next batch included. A first step, with whatever comes
    before it, is left out; a second one is counted.
    """
    moments, counter, counting = [], flop_counter(), ExitStack()

    def note(*_: object) -> None:
        torch.get_device_module(device).synchronize()
        moments.append(time.perf_counter())
        if len(moments) == 1:
            counting.enter_context(counter)
        if len(moments) == 2:
            counting.close()
        if len(moments) == 2 + steps:
            raise _Enough

    forget_peak(device)
    watching = register_optimizer_step_post_hook(note)
    try:
        work()
    except _Enough:
        pass
    finally:
        watching.remove()
        counting.close()
    if len(moments) < 3:
        raise RuntimeError(f"Expected {2 + steps} steps of an optimiser, found {len(moments)}.")
    timed = min(after - before for before, after in pairwise(moments[1:]))
    return Cost(timed, peak(device), counter.get_total_flops())


def alone(trial: Trial, batch: int, steps: int, device: str) -> Cost | str:
    """A trial in a process of its own; a sentence where that cannot be done here.

    So its memory is nobody else's, and one that is too large for the machine ends that process, not the measurement.
    """
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, trial, batch, steps, device).result()
        except BrokenProcessPool:
            return "too large for this machine: the system ended it"
        except torch.OutOfMemoryError:
            return "too large for this GPU"
        except (UnsegError, RuntimeError, ValueError) as error:
            return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _measured(trial: Trial, batch: int, steps: int, device: str) -> Cost:
    """Memory as more than this process held before; on a GPU as torch had it there."""
    before = 0.0 if torch.device(device).type == "cuda" else resident()
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # the bars of what is tried
        found = trial.measure(batch, steps, device, *trial.given)
    return replace(found, megabytes=found.megabytes and found.megabytes - before)


def trials(profile: Profile) -> dict[Trial, list[tuple[Stage, int]]]:
    """Every kind of training of a profile with its stages, and how many samples each of them sees."""
    found, makers = defaultdict(list), {"generator": _generator, "poison": _noise, "victim": _victim}
    for stage in profile.stages.values():
        if stage.kind in makers and (made := makers[stage.kind](stage)):
            found[made[0]].append((stage, made[1]))
    return dict(found)


def _generator(stage: Stage) -> tuple[Trial, int]:
    values = stage.values
    chosen = {field.name: values[field.name] for field in fields(BilevelConfig)}
    config = BilevelConfig(**(chosen | {"scales": tuple(values["scales"]), "seed": 0}))
    sets = [name.strip().partition("@")[0] for name in values["data"].split(",")]
    samples = config.steps * config.batch_size * values["devices"]
    samples = samples or config.epochs * sum(_set(name, values["limit"])[0] for name in sets)
    frozen, devices = bool(config.sam_weights), values["devices"]
    name = f"generator {config.layout}{' (noise head)' * frozen}, surrogate {config.surrogate}"
    name += f" on {devices} devices" if devices > 1 else ""
    return Trial(name, config.batch_size, game_step, (config, frozen, values["precision"]), devices), samples


def _noise(stage: Stage) -> tuple[Trial, int] | None:
    """Only of poisons that ask a generator; the others take milliseconds an image."""
    values = stage.values
    if not POISONS[values["poison"]].needs_generator:
        return None
    layout = next((need.values["layout"] for need in stage.needs if need.kind == "generator"), values["generator"])
    return Trial(f"noise of {layout}", 1, noise_step, (layout,)), _set(values["dataset"], values["limit"])[0]


def _victim(stage: Stage) -> tuple[Trial, int]:
    values = stage.values
    task, defense = values.get("task", "interactive"), values["defense"]
    images, classes = _set(values["dataset"], values["limit"])
    if not values["poisoned"] and values["clean_fraction"]:  # the clean part of a mixture alone
        images = round(values["clean_fraction"] * images)
    # a defence that changes the images once takes no part in the steps
    if not any(one.batch or one.prepare or one.loss for one in defenses_of(defense, 0)):
        defense = "none"
    classes, size = 2 if task in ("object", "interactive") else classes, tuple(values["size"])
    given = (values["victim"], task, classes, size, values["lr"], values["precision"], defense)
    name = f"{values['victim']}, {task}, {size[0]} x {size[1]}, {classes} classes"
    name += f", {defense}" if defense != "none" else ""
    return Trial(name, values["batch_size"], victim_step, given), images * values["epochs"]


def _set(name: str, limit: int) -> tuple[int, int]:
    """Training images and classes of a data set, at most `limit` images unless that is 0."""
    images, classes = _whole_set(name, data_root())
    return min(limit or images, images), classes


@cache
def _whole_set(name: str, root: Path) -> tuple[int, int]:
    """As it is below `root`, or as it is officially; read once for the hundreds of stages of a profile."""
    if name == "scenes":  # reading them would draw them
        return COUNTS["train"], len(CLASSES)
    try:
        found = load_dataset(name, root, "train")
        return len(found), len(found.classes)
    except UnsegError:
        if name not in OFFICIAL:
            raise
        return OFFICIAL[name]
