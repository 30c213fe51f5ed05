"""The paper's systems as small stand-ins, a line each: what the profile `systems` found."""

from pathlib import Path

from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.published import nearest
from unseg_lib.reporting.scores import Score, main_metric, percent_of_clean, plain_only, read_rows, scores_of
from unseg_lib.reporting.tables import blocks_of, find, number, recipes_of

LEARNT = {"AP": 5.0, "PQ": 5.0}  # percent; below it, or what is asked of other metrics, a clean victim knows nothing
LEAST = 10.0
NAMES = {"miou": "mIoU", "iou_object": "IoU", "iou_protected": "IoU of the protected classes", "AP": "AP"}
NAMES |= {"miou_pictures": "IoU, mean of pictures"}
CAPTION = "Trained from random weights; “paper” is what its own models, named in the tables below, keep of clean, in %."
COLUMNS = ("task", "data set", "stand-in", "metric", "clean", "random", "UnSeg", "generator", "of clean", "paper", "")


def stand_ins_beside(results: str | Path) -> list[Score]:
    """The scores of the profile `systems`, in whichever profile's folder they are asked for; [] where it never ran."""
    folder = Path(results).resolve().parent / "systems"
    return scores_of(read_rows(folder)) if (folder / "rows.csv").exists() else []


def stand_in_table(scores: list[Score], base: str = "") -> Table:
    """Clean-, random- and UnSeg-trained scores in percent; "paper" is what UnSeg left of clean in the paper.

    A victim that learns too little even from clean pictures is marked, and nothing is said of what is left.
    """
    usual, _ = plain_only(scores)
    rows = []
    for experiment, metric in blocks_of(usual):
        if metric == main_metric(experiment) and (experiment, "iou_protected") in blocks_of(usual):
            continue  # only some classes are protected there, so the others say nothing
        found = {name: find(usual, experiment, name, metric) for name in recipes_of(experiment, usual)}
        clean, random = found.get("clean"), next((s for name, s in found.items() if name.startswith("random")), None)
        own = {name: score for name, score in found.items() if name.startswith("unseg")} or {"": None}
        for recipe, score in own.items():
            learnt = clean is not None and clean.mean >= LEARNT.get(metric, LEAST)
            share = percent_of_clean(score, usual) if score and learnt else None
            paper = nearest(experiment.task, experiment.dataset, experiment.victim, main_metric(experiment), "unseg")
            rows.append(
                (
                    experiment.task,
                    experiment.dataset.rpartition(":")[2],
                    experiment.way,
                    NAMES.get(metric, metric),
                    *(_cell(one, base) for one in (clean, random, score)),
                    "colour" if "colour" in recipe else "small" if recipe else "–",
                    f"{number(share[0], 0)} %" if share else "–",
                    f"{number(paper['percent'], 0)} %" if paper else "–",
                    "" if learnt else "learns too little even from clean pictures: shows nothing",
                )
            )
    return Table(COLUMNS, tuple(rows), "llllrrrlrrl", CAPTION)


def _cell(score: Score | None, base: str) -> Cell:
    if score is None:
        return "not run"
    spread = f" ± {number(score.std)}" if score.std is not None else ""
    return Link(number(score.mean) + spread, base + score.runs[0]["notebook"])
