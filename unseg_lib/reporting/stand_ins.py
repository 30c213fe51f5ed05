"""The paper's systems as small stand-ins, a line each: what the profile `systems` found."""

from pathlib import Path

from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.published import nearest
from unseg_lib.reporting.scores import (
    Experiment,
    Score,
    main_metric,
    percent_of_clean,
    plain_only,
    read_rows,
    scores_of,
)
from unseg_lib.reporting.tables import blocks_of, find, mean_of, number, recipes_of

LEARNT = {"AP": 5.0, "PQ": 5.0}  # percent; below it, or what is asked of other metrics, a clean victim knows nothing
LEAST = 10.0
CLASSES = ("iou:", "AP:", "PQ:")  # metrics of one class
NAMES = {"miou": "mIoU", "iou": "IoU", "iou_object": "IoU", "iou_protected": "IoU of the protected classes", "AP": "AP"}
NAMES |= {"miou_pictures": "IoU, mean of images"}
CAPTION = "Trained from random weights; “paper” is what the model named beside it kept of its clean score in the paper."
COLUMNS = ("task", "data set", "stand-in", "metric", "clean", "random", "UnSeg", "generator", "of clean", "paper", "")


def stand_ins_beside(results: str | Path) -> list[Score]:
    """The scores of the profile `systems`, in whichever profile's folder they are asked for; [] where it never ran."""
    folder = Path(results).resolve().parent / "systems"
    return scores_of(read_rows(folder)) if (folder / "rows.csv").exists() else []


def stand_in_table(scores: list[Score], base: str = "") -> Table:
    """Clean-, random- and UnSeg-trained scores in percent; "paper" is what UnSeg left of clean in the paper.

    Where some classes are protected, only they count. A victim that learns too little from clean images is judged by
    the one class that it knows best from them; where that is none, nothing is said of what is left.
    """
    usual, _ = plain_only(scores)
    judged = {experiment: metric for experiment, metric in blocks_of(usual)}  # the protected classes come last
    rows = [row for experiment, metric in judged.items() for row in _rows(experiment, metric, usual, base)]
    return Table(COLUMNS, tuple(rows), "llllrrrlrrl", CAPTION)


def _rows(experiment: Experiment, metric: str, scores: list[Score], base: str) -> list[tuple[Cell, ...]]:
    """The lines of one stand-in: one for each generator whose noise it was trained on."""
    recipes = recipes_of(experiment, scores)
    metric, learnt = _learnt(experiment, metric, scores)
    clean = find(scores, experiment, "clean", metric)
    random = next((name for name in recipes if name.startswith("random")), "")
    paper = nearest(experiment.task, experiment.dataset, experiment.victim, main_metric(experiment), "unseg")
    rows = []
    for recipe in [name for name in recipes if name.startswith("unseg")] or [""]:
        score = find(scores, experiment, recipe, metric)
        share = percent_of_clean(score, scores) if score and learnt else None
        shown = (_cell(one, base) for one in (clean, find(scores, experiment, random, metric), score))
        rows.append(
            (
                *(experiment.task, experiment.dataset.rpartition(":")[2], experiment.way, _name(metric), *shown),
                "colour" if "colour" in recipe else "small" if recipe else "–",
                f"{number(share[0], 0)} %" if share else "–",
                f"{number(paper['percent'], 0)} %" if paper else "–",
                _remark(paper, learnt),
            )
        )
    return rows


def _remark(paper: dict | None, learnt: bool) -> str:
    """What the paper's number is of, where it is of something else, and that a victim knows nothing."""
    found = [f"paper: {paper['note']}"] if paper and not paper["same"] else []
    if not learnt:
        found.append("learns too little even from clean images: shows nothing")
    return "; ".join(found)


def _learnt(experiment: Experiment, metric: str, scores: list[Score]) -> tuple[str, bool]:
    """The metric to judge by, and whether the victim knows enough from clean images."""
    clean = find(scores, experiment, "clean", metric)
    if clean and clean.mean >= LEARNT.get(metric, LEAST):
        return metric, True
    own = [s for s in scores if (s.experiment, s.poison) == (experiment, "clean") and s.metric.startswith(CLASSES)]
    best = max(own, key=lambda score: score.mean, default=None)
    return (best.metric, True) if best and best.mean >= LEAST else (metric, False)


def _name(metric: str) -> str:
    score, _, name = metric.partition(":")
    return f"{NAMES.get(score, score)} of {name}, which it knows best" if name else NAMES.get(metric, metric)


def _cell(score: Score | None, base: str) -> Cell:
    if score is None:
        return "not run"
    return Link(mean_of(score), base + score.runs[0]["notebook"])
