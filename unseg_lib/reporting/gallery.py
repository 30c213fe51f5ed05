"""Figures over several runs: learning curves and what victims predict, from the files that runs leave behind."""

from pathlib import Path
from statistics import fmean

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.reporting.scores import Experiment, Score, main_metric
from unseg_lib.reporting.tables import find, notebook_of, recipes_of

PHOTOGRAPH = "test picture"  # the column that shows a data set's picture
NPZ = "predictions.npz"


def curves_of(results: Path, experiment: Experiment, metric: str, scores: list[Score]) -> dict[str, list[float]]:
    """Clean test score by epoch for every recipe, mean over its seeds: {recipe: [percent]}."""
    found = {}
    for poison in recipes_of(experiment, scores):
        score = find(scores, experiment, poison, metric)
        runs = [_metrics(results / Path(run["notebook"]).parent) for run in score.runs]
        found[poison] = [fmean(epoch) for epoch in zip(*(run["curves"][metric] for run in runs))]
    return found


def _metrics(folder: Path) -> dict:
    if not (folder / "metrics.json").is_file():
        raise UnsegError(
            f"Expected the curves of a run in {folder / 'metrics.json'}, found no such file; run it again."
        )
    return read_json(folder / "metrics.json")


def predictions_of(results: Path, experiment: Experiment, scores: list[Score], count: int = 3) -> list[dict]:
    """Rows {name: array} of picture, truth, and the predictions after clean and after UnSeg's recipes (at most three).

    All of the same test pictures; [] where the files are missing.
    """
    metric = main_metric(experiment)
    poisons = [name for name in recipes_of(experiment, scores) if name == "clean" or name.startswith("unseg")][:4]
    chosen = [score for poison in poisons if (score := find(scores, experiment, poison, metric))]
    files = [notebook_of(results, score) / NPZ for score in chosen]
    if len(chosen) < 2 or not all(file.exists() for file in files):
        return []
    seen = [np.load(file) for file in files]
    if any((one["truth"] != seen[0]["truth"]).any() for one in seen):
        raise UnsegError(f"Expected the predictions of one set of test pictures in {files[0]} and its neighbours.")
    rows = []
    for i in _telling(seen[0]["truth"], seen[0]["prediction"], count):
        row = {PHOTOGRAPH: seen[0]["picture"][i], "truth": seen[0]["truth"][i]}
        rows.append(row | {f"trained on\n{s.poison}": one["prediction"][i] for s, one in zip(chosen, seen)})
    return rows


def _telling(truth: np.ndarray, prediction: np.ndarray, count: int) -> list[int]:
    """The pictures that the clean-trained victim gets best, by pixel accuracy on the object, in their own order."""
    objects = (truth > 0) & (truth < 255)
    right = [(t[o] == p[o]).mean() if o.any() else -1 for t, p, o in zip(truth, prediction, objects)]
    return sorted(sorted(range(len(right)), key=lambda i: -right[i])[:count])
