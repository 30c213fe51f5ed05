"""`unseg bench needs`: hours, memory and disk of a profile's stages and tables here, from some steps that are run.

Images and first weights are made up, since only their sizes matter; tests after each epoch come on top.
"""

import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, redirect_stderr, suppress
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from itertools import pairwise
from math import prod
from multiprocessing import get_context
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from unseg_lib.datasets import SegmentationSet, data_root, extent, load_dataset, write_scenes
from unseg_lib.defenses import defenses_of
from unseg_lib.errors import UnsegError
from unseg_lib.method import BilevelConfig, Inference
from unseg_lib.pipeline import Profile, Stage, load_profile
from unseg_lib.poisons import POISONS
from unseg_lib.runtime import forget_peak, keep_freed_memory, peak, progress, provenance, resident, usable_precision
from unseg_lib.speed.ladder import DATA, game_step
from unseg_lib.speed.measure import Cost, cost, flop_counter, generator_of, image
from unseg_lib.victims import MEMORY, one_object, train_victim

DECODED = ("mask2former", "rsprompter")  # they and smp hold all images decoded, beyond `MEMORY` in a file
OBJECT = ("object", "interactive")  # tasks of two classes
SIDE = 128  # pixels of the scenes, which a training then brings to its own size
extent = cache(extent)  # read once for the hundreds of stages of a profile
UNKNOWN = dict.fromkeys(("samples_per_second", "hours_a_stage", "hours", "megabytes", "flop", "tflop"))


def measured_needs(profile: str, device: torch.device, batch: int = 0, steps: int = 2) -> dict:
    """A row for each kind of training in a profile, by name or path, with at most `batch` images a step (0: as planned;
    else a planned step needs more); flop is of a sample, problem why there are no numbers."""
    plan, rows, hours_of = load_profile(profile), [], {}
    for trial, stages in progress(trials(plan).items(), f"needs of {plan.name}"):
        here, samples = min(batch or trial.batch_size, trial.batch_size), sum(number for _, number in stages)
        step, problem = alone(trial, here, steps, device)
        row = {"training": trial.name, "stages": len(stages), "samples": samples, "batch": here, **UNKNOWN}
        rows.append(row | {"planned_batch": trial.batch_size, "problem": problem})
        if step:
            speed, flop = here * trial.devices / step.seconds, step.flop / here
            hours = samples / speed / 3600
            rows[-1] |= {"samples_per_second": speed, "hours_a_stage": hours / len(stages), "hours": hours}
            rows[-1] |= {"megabytes": step.megabytes, "flop": flop, "tflop": 1e-12 * flop}
            hours_of |= {stage.key: (number / speed / 3600, step.megabytes) for stage, number in stages}
    # several tables may need the same stage, which counts once in all
    wanted = {purpose: plan.only(purpose) for purpose in plan.purposes} | {"in all": plan.stages}
    origin = provenance(plan.root)
    machine = origin["gpus"][0] if device.type == "cuda" else f"{origin['cpu']}, {torch.get_num_threads()} threads"
    tables = [table_row(name, stages, hours_of) for name, stages in wanted.items()]
    return {"profile": plan.name, "machine": machine, "rows": rows, "tables": tables, "provenance": origin}


def table_row(table: str, stages: dict[str, Stage], measured: dict[str, tuple[float, float | None]]) -> dict:
    """What a table needs; measured: hours and megabytes of stages by key. disk_gb: of all poisoned copies, and of the
    decoded images of the one training that has most of them, which are gone when it ends."""
    kinds = lambda *of: [stage for stage in stages.values() if stage.kind in of]  # noqa: E731
    known, trained = [measured[key] for key in stages if key in measured], kinds("generator", "victim")
    copies, missing = kinds("poison"), sum(stage.key not in measured for stage in trained)
    disk = sum(map(_bytes, copies)) + max(map(_bytes, kinds("victim")), default=0)
    memory = max((megabytes for _, megabytes in known if megabytes), default=None)
    hours = sum(hours for hours, _ in known) if known or not trained else None
    row = {"table": table, "trainings": len(trained), "copies": len(copies), "hours": hours, "megabytes": memory}
    return row | {"disk_gb": disk / 1e9, "problem": f"without {missing} that could not be measured" * bool(missing)}


def _bytes(stage: Stage) -> float:
    """About what a poisoned copy takes, beside annotations; of a victim the file in which its training holds its images
    decoded, 0 where they fit in memory."""
    values = stage.values
    images, _, pixels = _set(values)
    if stage.kind == "poison":
        pixels = prod(values["working_size"]) if values["working_size"] else pixels
        return images * pixels * DATA["bytes_a_pixel"]["jpeg" if values["file_format"].startswith("jp") else "png"]
    family, held = values["victim"].partition(":")[0], 3 * images * prod(values["size"])
    return held if (":" not in values["victim"] or family in DECODED) and held > MEMORY else 0


@dataclass(frozen=True)
class Trial:
    """One kind of training; a step of it costs `measure(batch, steps, device, **dict(given))`."""

    name: str
    batch_size: int
    measure: Callable[..., Cost]
    given: tuple[tuple[str, object], ...]
    devices: int = 1


def victim_step(batch: int, steps: int, device: torch.device, victim: str, task: str, classes: int, **how) -> Cost:
    """A step of a victim on scenes whose labels could have so many classes; how: size, lr, precision, defense."""

    def scenes(split: str) -> SegmentationSet:
        found = load_dataset("scenes", folder, split, **{"task": "object"} if task in OBJECT else {})
        more = (f"class {i}" for i in range(len(found.classes), classes))
        return one_object(found) if task == "interactive" else replace(found, classes=(*found.classes, *more))

    with tempfile.TemporaryDirectory() as place:
        write_scenes(folder := Path(place), SIDE, {"train": (2 + steps) * batch, "test": 2})
        how |= {"epochs": 1, "batch_size": batch, "seed": 0, "task": task, "device": str(device)}
        work = partial(train_victim, victim, scenes("train"), scenes("test"), folder / "victim", **how)
        return cost_of_steps(work, steps, device)


def mean_step(batch: int, steps: int, device: torch.device, config: BilevelConfig, precision: str, **how) -> Cost:
    """A step of the bilevel game, as a mean over the turns of both players; how: frozen, see `step_ladder`."""
    keep_freed_memory()
    config = replace(config, batch_size=batch, sam_weights="", mae_weights="")
    how |= {"precision": usable_precision(precision, device.type), "repeats": steps, "counted": True}
    found = game_step(config, device, fast=None, **how)
    return Cost(found["step"], found["megabytes"], found["flop"])


def noise_step(batch: int, steps: int, device: torch.device, generator: str) -> Cost:
    """An image, always one, through a generator (a layout, or a shipped one) by the reference path of poison stages."""
    way, (pixels, mask) = Inference(generator_of(generator, device), reference=True), image(0, 512)
    return cost(partial(way, [way.prepare(pixels, mask=mask)]), device, steps, counted=True)


def cost_of_steps(work: Callable[[], object], steps: int, device: torch.device) -> Cost:
    """The fastest of `steps` steps that any optimiser takes in `work`, after two others, of which one is counted."""
    moments, counter, counting = [], flop_counter(), ExitStack()

    def note(*_: object) -> None:
        torch.get_device_module(device).synchronize()
        moments.append(time.perf_counter())
        if len(moments) == 1:
            counting.enter_context(counter)
        if len(moments) == 2:
            counting.close()
        if len(moments) == 2 + steps:
            raise SystemExit  # ends what is watched

    forget_peak(device)
    with ExitStack() as watching, counting, suppress(SystemExit):
        watching.callback(register_optimizer_step_post_hook(note).remove)
        work()
    if len(moments) < 3:
        raise RuntimeError(f"Expected {2 + steps} steps of an optimiser, found {len(moments)}.")
    timed = min(after - before for before, after in pairwise(moments[1:]))
    return Cost(timed, peak(device), counter.get_total_flops())


def alone(trial: Trial, batch: int, steps: int, device: torch.device) -> tuple[Cost | None, str]:
    """A trial in a process of its own, which it may end if it is too large; or why it cannot be done here."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, trial, batch, steps, device).result(), ""
        except BrokenProcessPool:
            return None, "too large for this machine: the system ended it"
        except (UnsegError, RuntimeError, ValueError) as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return None, "too large for this GPU" if isinstance(error, torch.OutOfMemoryError) else said


def _measured(trial: Trial, batch: int, steps: int, device: torch.device) -> Cost:
    """Memory as more than this process held before; on a GPU as torch had it there."""
    before = 0.0 if device.type == "cuda" else resident()
    with open(os.devnull, "w") as nowhere, redirect_stderr(nowhere):  # the bars of what is tried
        found = trial.measure(batch, steps, device, **dict(trial.given))
    return replace(found, megabytes=found.megabytes and found.megabytes - before)


def trials(profile: Profile) -> dict[Trial, list[tuple[Stage, int]]]:
    """Every kind of training of a profile with its stages, and how many samples each of them sees."""
    found = defaultdict(list)
    for stage in profile.stages.values():
        if made := trial_of(stage):
            found[made[0]].append((stage, made[1]))
    return found


def trial_of(stage: Stage) -> tuple[Trial, int] | None:
    """None of poisons that ask no generator: they take milliseconds an image."""
    values = stage.values
    if stage.kind == "generator":
        chosen = {field.name: values[field.name] for field in fields(BilevelConfig)}
        config = BilevelConfig(**chosen | {"scales": tuple(values["scales"]), "seed": 0})
        sizes = (_set(values | {"dataset": name.strip().partition("@")[0]})[0] for name in values["data"].split(","))
        frozen, devices = bool(config.sam_weights), values["devices"]
        name = f"generator {config.layout}{' (noise head)' * frozen}, surrogate {config.surrogate}"
        name += f" on {devices} devices" * (devices > 1)
        given = {"config": config, "precision": values["precision"], "frozen": frozen}
        samples = config.steps * config.batch_size * devices or config.epochs * sum(sizes)
        return Trial(name, config.batch_size, mean_step, tuple(given.items()), devices), samples
    if stage.kind == "poison" and POISONS[values["poison"]].needs_generator:
        layout = next((need.values["layout"] for need in stage.needs if need.kind == "generator"), values["generator"])
        return Trial(f"noise of {layout}", 1, noise_step, (("generator", layout),)), _set(values)[0]
    if stage.kind == "victim":
        given = {name: values[name] for name in ("victim", "lr", "precision", "defense")}
        images, classes, _ = _set(values)
        if not values["poisoned"] and values["clean_fraction"]:  # the clean part of a mixture alone
            images = round(values["clean_fraction"] * images)
        # a defence that changes the images once takes no part in the steps
        if not any(one.batch or one.prepare or one.loss for one in defenses_of(given["defense"], 0)):
            given["defense"] = "none"
        task, (height, width) = values.get("task", "interactive"), values["size"]
        given |= {"task": task, "classes": 2 if task in OBJECT else classes, "size": (height, width)}
        name = f"{values['victim']}, {task}, {height} x {width}, {given['classes']} classes"
        name += f", {given['defense']}" * (given["defense"] != "none")
        return Trial(name, values["batch_size"], victim_step, tuple(given.items())), images * values["epochs"]
    return None


def _set(values: dict) -> tuple[int, int, float]:
    """Training images, classes and mean pixels of a stage's data set, at most `limit` images unless that is 0."""
    images, classes, pixels = extent(values["dataset"], data_root())
    return min(values["limit"] or images, images), classes, pixels
