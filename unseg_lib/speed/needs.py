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

from unseg_lib.datasets import CLASSES, COUNTS, SegmentationSet, data_root, load_dataset, write_scenes
from unseg_lib.defenses import defenses_of
from unseg_lib.errors import UnsegError
from unseg_lib.images import image_size
from unseg_lib.method import BilevelConfig, Inference
from unseg_lib.pipeline import Profile, Stage, load_profile
from unseg_lib.poisons import POISONS
from unseg_lib.runtime import forget_peak, keep_freed_memory, peak, progress, provenance, resident, usable_precision
from unseg_lib.speed.ladder import DATA, mean_step, step_of
from unseg_lib.speed.measure import Cost, cost, flop_counter, generator_of, image
from unseg_lib.victims import MEMORY, one_object, train_victim

OFFICIAL = DATA["official"]  # name -> training images, classes, megapixels
DECODED = ("smp", "mask2former", "rsprompter")  # families that hold all images decoded, beyond `MEMORY` in a file
SAMPLED = 50  # images of a set whose size is read from their headers
SIDE = 128  # pixels of the scenes, which a training then brings to its own size
UNKNOWN = dict.fromkeys(("samples_per_second", "hours_a_stage", "hours", "megabytes", "flop", "tflop"))


def measured_needs(profile: str, device: str, batch: int = 0, steps: int = 2) -> dict:
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
    machine = origin["gpus"][0] if device == "cuda" else f"{origin['cpu']}, {torch.get_num_threads()} threads"
    tables = [table_row(name, stages, hours_of) for name, stages in wanted.items()]
    return {"profile": plan.name, "machine": machine, "rows": rows, "tables": tables, "provenance": origin}


def table_row(table: str, stages: dict[str, Stage], measured: dict[str, tuple[float, float | None]]) -> dict:
    """What a table needs; measured: hours and megabytes of stages by key. disk_gb: of all poisoned copies, and of the
    decoded images of the one training that has most of them, which are gone when it ends."""
    kinds = lambda *of: [stage for stage in stages.values() if stage.kind in of]  # noqa: E731
    known, trained = [measured[key] for key in stages if key in measured], kinds("generator", "victim")
    copies, missing = kinds("poison"), sum(stage.key not in measured for stage in trained)
    disk = sum(map(_copy, copies)) + max(map(_decoded, kinds("victim")), default=0)
    memory = max((megabytes for _, megabytes in known if megabytes), default=None)
    hours = sum(hours for hours, _ in known) if known or not trained else None
    row = {"table": table, "trainings": len(trained), "copies": len(copies), "hours": hours, "megabytes": memory}
    return row | {"disk_gb": disk / 1e9, "problem": f"without {missing} that could not be measured" * bool(missing)}


def _copy(stage: Stage) -> float:
    """About how many bytes a poisoned copy takes, beside annotations."""
    values = stage.values
    images, _, pixels = _set(values["dataset"], values["limit"])
    pixels = prod(values["working_size"]) if values.get("working_size") else pixels
    return images * pixels * DATA["bytes_a_pixel"]["jpeg" if values["file_format"].startswith("jp") else "png"]


def _decoded(stage: Stage) -> float:
    """Bytes of the file in which a victim's training holds its images, 0 where they fit in memory."""
    values = stage.values
    family = values["victim"].partition(":")[0] if ":" in values["victim"] else "smp"
    held = 3 * _set(values["dataset"], values["limit"])[0] * prod(values["size"])
    return held if family in DECODED and held > MEMORY else 0


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
    """A step of a victim on scenes whose labels could have so many classes; how: learning rate, precision, defence."""

    def scenes(split: str) -> SegmentationSet:
        kind = {"task": "object"} if task in ("object", "interactive") else {}
        found = load_dataset("scenes", folder, split, **kind)
        more = () if kind else (f"class {i}" for i in range(len(found.classes), classes))
        found = replace(found, classes=(*found.classes, *more))
        return one_object(found) if task == "interactive" else found

    with tempfile.TemporaryDirectory() as place:
        write_scenes(folder := Path(place), SIDE, {"train": (2 + steps) * batch, "test": 2})
        given = {"epochs": 1, "batch_size": batch, "seed": 0, "size": size, "task": task, "device": device}
        given |= zip(("lr", "precision", "defense"), how)
        work = partial(train_victim, victim, scenes("train"), scenes("test"), folder / "victim", **given)
        return cost_of_steps(work, steps, torch.device(device))


def game_step(batch: int, steps: int, device: str, config: BilevelConfig, frozen: bool, precision: str) -> Cost:
    """A step of the bilevel game, as a mean over the turns of both players; frozen: see `step_ladder`."""
    config = replace(config, batch_size=batch, sam_weights="", mae_weights="")
    keep_freed_memory()
    step = step_of(config, torch.device(device), frozen, precision=usable_precision(precision, device))
    return mean_step(step, config, torch.device(device), steps, True)[1]


def noise_step(batch: int, steps: int, device: str, generator: str) -> Cost:
    """An image, always one, through a generator (a layout, or a shipped one) by the reference path of poison stages."""
    way, (pixels, mask) = Inference(generator_of(generator, torch.device(device)), reference=True), image(0, 512)
    return cost(partial(way, [way.prepare(pixels, mask=mask)]), torch.device(device), steps, counted=True)


class _Enough(Exception):
    """Ends what is watched."""


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
            raise _Enough

    forget_peak(device)
    with ExitStack() as watching, counting, suppress(_Enough):
        watching.callback(register_optimizer_step_post_hook(note).remove)
        work()
    if len(moments) < 3:
        raise RuntimeError(f"Expected {2 + steps} steps of an optimiser, found {len(moments)}.")
    timed = min(after - before for before, after in pairwise(moments[1:]))
    return Cost(timed, peak(device), counter.get_total_flops())


def alone(trial: Trial, batch: int, steps: int, device: str) -> tuple[Cost | None, str]:
    """A trial in a process of its own, which it may end if it is too large; or why it cannot be done here."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(_measured, trial, batch, steps, device).result(), ""
        except BrokenProcessPool:
            return None, "too large for this machine: the system ended it"
        except torch.OutOfMemoryError:
            return None, "too large for this GPU"
        except (UnsegError, RuntimeError, ValueError) as error:
            return None, f"{type(error).__name__}: {' '.join(str(error).split())}"


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
    return found


def _generator(stage: Stage) -> tuple[Trial, int]:
    values = stage.values
    chosen = {field.name: values[field.name] for field in fields(BilevelConfig)}
    config = BilevelConfig(**chosen | {"scales": tuple(values["scales"]), "seed": 0})
    sets = [name.strip().partition("@")[0] for name in values["data"].split(",")]
    frozen, devices, limit = bool(config.sam_weights), values["devices"], values["limit"]
    samples = config.steps * config.batch_size * devices or config.epochs * sum(_set(one, limit)[0] for one in sets)
    name = f"generator {config.layout}{' (noise head)' * frozen}, surrogate {config.surrogate}"
    name += f" on {devices} devices" * (devices > 1)
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
    images, classes, _ = _set(values["dataset"], values["limit"])
    if not values["poisoned"] and values["clean_fraction"]:  # the clean part of a mixture alone
        images = round(values["clean_fraction"] * images)
    # a defence that changes the images once takes no part in the steps
    if not any(one.batch or one.prepare or one.loss for one in defenses_of(defense, 0)):
        defense = "none"
    classes, size = 2 if task in ("object", "interactive") else classes, tuple(values["size"])
    given = (values["victim"], task, classes, size, values["lr"], values["precision"], defense)
    name = f"{values['victim']}, {task}, {size[0]} x {size[1]}, {classes} classes"
    name += f", {defense}" * (defense != "none")
    return Trial(name, values["batch_size"], victim_step, given), images * values["epochs"]


def _set(name: str, limit: int) -> tuple[int, int, float]:
    """Training images, classes and mean pixels of a data set, at most `limit` images unless that is 0."""
    images, classes, pixels = _whole_set(name, data_root())
    return min(limit or images, images), classes, pixels


@cache  # read once for the hundreds of stages of a profile
def _whole_set(name: str, root: Path) -> tuple[int, int, float]:
    if name == "scenes":  # reading them would draw them
        return COUNTS["train"], len(CLASSES), SIDE**2
    try:
        found = load_dataset(name, root, "train")
    except UnsegError:
        if name not in OFFICIAL:
            raise
        images, classes, megapixels = OFFICIAL[name]
        return images, classes, 1e6 * megapixels
    sizes = [prod(image_size(found.image_path(id))) for id in found.ids[:: max(1, len(found) // SAMPLED)]]
    return len(found), len(found.classes), sum(sizes) / len(sizes)
