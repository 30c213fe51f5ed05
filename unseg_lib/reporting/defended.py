"""Poison x defence: what is left of the clean score under every defence, and the paper's Table 4 beside it."""

from dataclasses import replace

import numpy as np

from unseg_lib.reporting.drawing import INK, Drawing, draw
from unseg_lib.reporting.html import Table
from unseg_lib.reporting.published import value_of
from unseg_lib.reporting.scores import Experiment, Score, judged_by, main_metric, on_common_seeds, on_seeds
from unseg_lib.reporting.tables import number

Grid = dict[str, dict[str, float]]  # recipe -> defence -> percent of the clean-trained, undefended score
# our defences beside the columns of the paper's Table 4, whose settings are not published
PAPER = {
    "none": "unseg",
    "gaussian_blur": "unseg+gaussian",
    "jpeg": "unseg+jpeg",
    "pgd_at": "unseg+at",
    "ddc_at": "unseg+ddc-at",
}
TABLE_4 = ("4", "voc", "deeplabv3-resnet50")


def undefended(experiment: Experiment) -> Experiment:
    """What defended experiments of one data set and victim have in common."""
    return replace(experiment, way="", defense="none")


def defence_grids(scores: list[Score]) -> dict[Experiment, Grid]:
    """For every data set and victim that was run with a defence: what each recipe leaves under each defence.

    In percent of the score of the victim trained on clean images without a defence, over the seeds that both ran,
    so the recipe "clean" shows what a defence costs. A recipe's line, "none" too, is over the seeds that all its
    defences ran: compare within a recipe. Recipes that nobody defended against are left out.
    """
    own = [s for s in scores if not s.experiment.clean_fraction]
    asked = dict.fromkeys(undefended(s.experiment) for s in own if s.experiment.defense != "none")
    grids = {}
    for experiment in asked:
        metric = metric_of(experiment, own)
        same = [s for s in own if undefended(s.experiment) == experiment and s.metric == metric]
        full = [s for s in same if (s.poison, s.experiment.defense) == ("clean", "none")]
        if full and full[0].mean > 0:
            tried = dict.fromkeys(s.poison for s in same if s.experiment.defense != "none")
            grids[experiment] = {name: _line([s for s in same if s.poison == name], full[0]) for name in tried}
    return grids


def metric_of(experiment: Experiment, scores: list[Score]) -> str:
    """The metric of an experiment's grid: the protected classes' where every recipe in it protects only them.

    Else, and where nobody scored those classes, the one of its task.
    """
    own = [s for s in scores if undefended(s.experiment) == experiment and s.experiment.defense != "none"]
    metrics = {judged_by(s.poison, experiment) for s in own if s.poison != "clean"}
    return metrics.pop() if len(metrics) == 1 and metrics <= {s.metric for s in own} else main_metric(experiment)


def _line(scores: list[Score], clean: Score) -> dict[str, float]:
    """One recipe: what it leaves of `clean` under each defence, and without one, over the same seeds."""
    defended = [set(score.seeds) for score in scores if score.experiment.defense != "none"]
    shared = set.intersection(*defended) or set.union(*defended)
    line: dict[str, float] = {}
    for score in scores:
        own, full = on_common_seeds(on_seeds(score, shared) or score, clean)
        if full.mean > 0:
            line.setdefault(score.experiment.defense, 100 * own.mean / full.mean)
    return line


def axes_of(grid: Grid) -> tuple[list[str], list[str]]:
    """Recipes, "clean" first and UnSeg's last, and defences, "none" first: the order of every table and figure."""
    recipes = sorted(grid, key=lambda name: (name != "clean", name.startswith("unseg")))
    found = {defense for line in grid.values() for defense in line}
    return recipes, sorted(found, key=lambda name: (name != "none", name))


def heat_map(grid: Grid) -> Drawing:
    """One line per defence, one column per recipe: dark is a victim that learns, light one that does not."""
    recipes, defenses = axes_of(grid)
    values = np.array([[grid[recipe].get(defense, np.nan) for recipe in recipes] for defense in defenses])

    def plot(axes):
        axis = axes[0, 0]
        axis.imshow(values, cmap="Blues", vmin=0, vmax=120, aspect="auto")
        axis.set_xticks(range(len(recipes)), [name.replace("_", " ") for name in recipes])
        axis.xaxis.tick_top()
        axis.set_yticks(range(len(defenses)), [name.replace("_", " ") for name in defenses])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        for (row, column), value in np.ndenumerate(values):
            text = "" if np.isnan(value) else f"{value:.0f}"
            axis.text(column, row, text, ha="center", va="center", color="white" if value > 70 else INK)

    return draw(2.4 + 1.2 * len(recipes), 0.8 + 0.26 * len(defenses), "svg", plot)


def table_4(grids: dict[Experiment, Grid]) -> Table:
    """The paper's Table 4, and our share of the clean score for each defence of that kind, for UnSeg's recipes."""
    clean = value_of(*TABLE_4, "clean", "miou")
    rows = []
    for kind, method in PAPER.items():
        paper = value_of(*TABLE_4, method, "miou")
        rows.append((kind, number(paper), f"{number(100 * paper / clean)} %", "", "", ""))
        for experiment, grid in grids.items():
            own = [(recipe, *pair) for recipe in grid if recipe.startswith("unseg") for pair in grid[recipe].items()]
            for recipe, defense, share in own:
                if defense.split()[0] == kind:
                    cost = grid.get("clean", {}).get(defense)
                    where = f"{experiment.setting}, {recipe}, {experiment.victim}: {defense}"
                    rows.append(("", "", "", where, _percent(share), _percent(cost)))
    columns = ("defence", "paper, mIoU", "of clean", "ours", "UnSeg, of clean", "clean with it, of clean")
    return Table(columns, tuple(rows), "lrrlrr")


def _percent(value: float | None) -> str:
    return "not run" if value is None else f"{number(value)} %"
