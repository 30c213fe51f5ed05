"""Which runs belong to an arm of `questions.QUESTIONS`, and which profile's rows answer a trial."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unseg_lib.reporting.questions import QUESTIONS, VARIANTS, Arm, Question, Trial
from unseg_lib.reporting.scores import Experiment, Score, main_metric, planned, read_rows, scores_of
from unseg_lib.reporting.visibility import visibility

LABELS = {arm.way for question in QUESTIONS.values() for trial in question.trials for arm in trial.arms} - {""}


@dataclass(frozen=True)
class Source:
    """The rows of one profile: scores, what it plans, what its poisons did to the files; `base` starts its links."""

    name: str
    base: str
    scores: list[Score]
    plan: list[dict]
    seen: dict[str, dict]


def sources_of(folders: Sequence[str | Path], place: str | Path) -> list[Source]:
    """The folders of results that have rows, in this order; links start at the folder `place`."""
    found = []
    for folder in map(Path, folders):
        if (folder / "rows.csv").is_file():
            base = os.path.relpath(folder.resolve(), Path(place).resolve())
            base = "" if base == "." else base + "/"
            scores = scores_of(read_rows(folder))
            found.append(Source(folder.resolve().name, base, scores, planned(folder), visibility(folder)))
    return found


def is_variant(experiment: Experiment, poison: str) -> bool:
    """Whether a run belongs to a question alone: the main tables would drown in one-setting variants."""
    return (experiment.setting, poison) in VARIANTS or _is_labelled(experiment)


def missing(source: Source) -> list[str]:
    """The planned runs of a profile that have no result, with their state."""
    return [f"{run['name']}: {run['state']}" for run in source.plan if run["state"] != "done"]


def fits(arm: Arm, setting: str, experiment: Experiment, poison: str) -> bool:
    """Whether a run is of this arm: recipe, data set, defence, share of clean images, and label of its grid entry."""
    own = (setting, arm.recipe, arm.defense, arm.clean_fraction)
    if own != (experiment.setting, poison, experiment.defense, experiment.clean_fraction):
        return False
    if arm.way:
        return experiment.way.endswith(f"-{arm.way}")
    return not _is_labelled(experiment)


def _is_labelled(experiment: Experiment) -> bool:
    """Whether the grid entry of a run has the label of some arm."""
    return any(experiment.way.endswith(f"-{label}") for label in LABELS)


def score_of(arm: Arm, trial: Trial, source: Source) -> Score | None:
    """The score of an arm, of the first victim that was trained so; None where it was not run."""
    for score in source.scores:
        metric = trial.metric or main_metric(score.experiment)
        if score.metric == metric and fits(arm, trial.setting, score.experiment, score.poison):
            return score
    return None


def source_of(trial: Trial, sources: Sequence[Source]) -> Source | None:
    """The source that knows most arms of a trial, then most seeds, the first of equals: two are never mixed."""

    def known(source: Source) -> tuple[int, int]:
        found = [score for arm in trial.arms if (score := score_of(arm, trial, source))]
        return len(found), sum(len(score.runs) for score in found)

    return max(sources, key=known, default=None)


def asked(question: Question, sources: Sequence[Source]) -> bool:
    """Whether something else than the reference of one of its trials was run."""
    return any(
        score_of(arm, trial, source)
        for trial in question.trials
        if (source := source_of(trial, sources))
        for arm in trial.arms[1:]
    )
