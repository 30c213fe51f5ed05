"""What the stages of a profile need of this machine, in hours and memory: from some steps of each that are run here.

    unseg bench needs --profile paper

Nothing is downloaded for it: images and first weights are made up. Stages that differ by their noise or seed alone
are measured once. Tests after each epoch, and reading the images, come on top.
"""

from collections import defaultdict
from dataclasses import fields
from functools import cache
from pathlib import Path

from unseg_lib.datasets import CLASSES, COUNTS, data_root, load_dataset
from unseg_lib.defenses import defenses_of
from unseg_lib.errors import UnsegError
from unseg_lib.method import BilevelConfig
from unseg_lib.pipeline import Profile, Stage
from unseg_lib.runtime import progress
from unseg_lib.speed.trial import GeneratorTrial, NoiseTrial, Trial, VictimTrial, alone
from unseg_lib.speed.watched import Found

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


def needs(profile: Profile, device: str, *, batch: int = 0, steps: int = 2) -> list[dict]:
    """A row for each kind of training: hours a stage, of all its stages, MB.

    batch: as many images in a step at most, where the planned ones are too many for this machine; 0: as planned. Then
    `megabytes` is that of the smaller step, and a planned one needs more. steps: that are timed, after two others.
    flop: of a sample, in matrix products, convolutions and attention, whatever the machine. problem: "", or why there
    are no numbers.
    """
    rows, plan = [], trials(profile)
    for trial, stages in progress(plan.items(), f"needs of {profile.name}", total=len(plan)):
        here = min(batch or trial.batch_size, trial.batch_size)
        found = alone(trial, here, steps, device)
        rows.append(_row(trial, [samples for _, samples in stages], here, found))
    return rows


def _row(trial: Trial, samples: list[int], batch: int, found: Found | str) -> dict:
    row = {"training": str(trial), "stages": len(samples), "samples": sum(samples)}
    row |= {"planned_batch": trial.batch_size, "batch": batch}
    if isinstance(found, str):
        nothing = ("samples_per_second", "hours_a_stage", "hours", "megabytes", "flop")
        return row | dict.fromkeys(nothing) | {"problem": found}
    speed = batch * getattr(trial, "devices", 1) / found.seconds
    hours = sum(samples) / speed / 3600
    row |= {"samples_per_second": speed, "hours_a_stage": hours / len(samples), "hours": hours}
    return row | {"megabytes": found.megabytes, "flop": found.flop / batch, "problem": ""}


def trials(profile: Profile) -> dict[Trial, list[tuple[Stage, int]]]:
    """Every kind of training of a profile with its stages, and how many samples each of them sees."""
    found = defaultdict(list)
    makers = {"generator": _generator, "poison": _noise, "victim": _victim}
    for stage in profile.stages.values():
        if stage.kind in makers and (made := makers[stage.kind](stage)):
            trial, samples = made
            found[trial].append((stage, samples))
    return dict(found)


def _generator(stage: Stage) -> tuple[Trial, int]:
    values = stage.values
    chosen = {field.name: values[field.name] for field in fields(BilevelConfig)}
    config = BilevelConfig(**(chosen | {"scales": tuple(values["scales"]), "seed": 0}))
    devices = values["devices"]
    samples = config.steps * config.batch_size * devices or config.epochs * sum(
        _set(name.strip().partition("@")[0], values["limit"])[0] for name in values["data"].split(",")
    )
    return GeneratorTrial(config, bool(config.sam_weights), values["precision"], devices), samples


def _noise(stage: Stage) -> tuple[Trial, int] | None:
    """Only of poisons that ask a generator; the others take milliseconds an image."""
    values = stage.values
    if not values["poison"].startswith("unseg"):
        return None
    layout = next((need.values["layout"] for need in stage.needs if need.kind == "generator"), values["generator"])
    return NoiseTrial(layout), _set(values["dataset"], values["limit"])[0]


def _victim(stage: Stage) -> tuple[Trial, int]:
    values = stage.values
    task = values.get("task", "interactive")
    images, classes = _set(values["dataset"], values["limit"])
    if not values["poisoned"] and values["clean_fraction"]:  # the clean part of a mixture alone
        images = round(values["clean_fraction"] * images)
    trial = VictimTrial(
        values["victim"],
        task,
        2 if task in ("object", "interactive") else classes,
        tuple(values["size"]),
        values["batch_size"],
        values["lr"],
        values["precision"],
        values["defense"] if _takes_part(values["defense"]) else "none",
    )
    return trial, images * values["epochs"]


def _takes_part(defense: str) -> bool:
    """Whether a defence does something in every step, instead of changing the images once."""
    return any(one.batch or one.prepare or one.loss for one in defenses_of(defense, 0))


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
