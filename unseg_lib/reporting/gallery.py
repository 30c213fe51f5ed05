"""Figures over several runs: learning curves and what victims predict, from the files that runs leave behind."""

from pathlib import Path
from statistics import fmean

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.reporting.scores import Experiment, Score, main_metric
from unseg_lib.reporting.tables import find, recipes_of

PHOTOGRAPH = "test image"  # the column that shows a data set's image
NPZ = "predictions.npz"
MASKS = "masks.npz"  # the same without the images, which may not be passed on: see `publish.py`


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
    """Rows {name: array} of image, truth, and the predictions after clean and after UnSeg's recipes (at most three).

    All of the same test images; of a recipe the first run that shows any. Without the image where a run's masks
    alone were published; [] where less than the clean recipe and another one show theirs.
    """
    metric = main_metric(experiment)
    poisons = [name for name in recipes_of(experiment, scores) if name == "clean" or name.startswith("unseg")][:4]
    files = {poison: _shown_by(results, find(scores, experiment, poison, metric)) for poison in poisons}
    seen = {poison: np.load(file) for poison, file in files.items() if file}
    if "clean" not in seen or len(seen) < 2:
        return []
    truth = seen["clean"]["truth"]
    if any(one["truth"].shape != truth.shape or (one["truth"] != truth).any() for one in seen.values()):
        raise UnsegError(f"Expected the predictions of one set of test images in {files['clean']} and its neighbours.")
    images = next((one["image"] for one in seen.values() if "image" in one), None)
    rows = []
    for i in _telling(truth, seen["clean"]["prediction"], count):
        row = {} if images is None else {PHOTOGRAPH: images[i]}
        rows.append(
            row | {"truth": truth[i]} | {f"trained on\n{poison}": one["prediction"][i] for poison, one in seen.items()}
        )
    return rows


def _shown_by(results: Path, score: Score | None) -> Path | None:
    folders = [results / Path(run["notebook"]).parent for run in score.runs] if score else []
    return next((folder / name for folder in folders for name in (NPZ, MASKS) if (folder / name).is_file()), None)


def _telling(truth: np.ndarray, prediction: np.ndarray, count: int) -> list[int]:
    """The images that the clean-trained victim gets best, by pixel accuracy on the object, in their own order."""
    objects = (truth > 0) & (truth < 255)
    right = [(t[o] == p[o]).mean() if o.any() else -1 for t, p, o in zip(truth, prediction, objects)]
    return sorted(sorted(range(len(right)), key=lambda i: -right[i])[:count])
