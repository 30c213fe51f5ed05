"""The results tables of README.md, written from rows.csv so that the two cannot differ."""

from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes
from unseg_lib.reporting.defended import Grid, axes_of, defence_grids, metric_of
from unseg_lib.reporting.html import Table
from unseg_lib.reporting.recipes import legend
from unseg_lib.reporting.repetition import compare, second_of
from unseg_lib.reporting.scores import Experiment, Score, percent_of_clean, plain_only, planned, read_rows, scores_of
from unseg_lib.reporting.stand_ins import stand_in_table
from unseg_lib.reporting.tables import (
    METRICS,
    SEEN,
    blocks_of,
    find,
    mean_of,
    recipes_of,
    seen_cells,
    title_of,
    without_score,
)
from unseg_lib.reporting.transfer import transfer_table
from unseg_lib.reporting.visibility import visibility

BEGIN, END = "<!-- results: written by `unseg report` -->", "<!-- end of results -->"


def results_table(results: str | Path) -> str:
    """Markdown: what every recipe leaves on every data set, what is left under defences, what a second run says."""
    scores = scores_of(read_rows(results))
    usual, plan = plain_only(scores, planned(results))
    names = legend(dict.fromkeys(score.poison for score in usual), results)
    parts = [_scores(usual, plan, visibility(results)), names]
    parts += [_defences(title_of(one, metric_of(one, scores)), grid) for one, grid in defence_grids(scores).items()]
    if second := second_of(results):
        parts.append(f"**Run a second time** (`results/{second.name}`): {compare(results, second)[1]}")
    return "\n\n".join(parts)


def _scores(scores: list[Score], plan: list[dict], seen: dict[str, dict]) -> str:
    """A line for each recipe, a column for each data set and metric, and what the recipe did to the files."""
    blocks = blocks_of(scores)
    recipes = dict.fromkeys(name for experiment, _ in blocks for name in recipes_of(experiment, scores))
    order = sorted(recipes, key=lambda name: (name != "clean", name.startswith("unseg")))
    lines = []
    for poison in order:
        cells = [_cell(experiment, poison, metric, scores, plan) for experiment, metric in blocks]
        lines.append((poison, *cells, *_changes([seen.get(f"{one.setting}-{poison}") for one, _ in blocks])))
    heads = [", ".join(filter(None, (one.setting, METRICS.get(metric, metric)))) for one, metric in blocks]
    columns = ("trained on", *heads, *SEEN)
    victims = ", ".join(dict.fromkeys(experiment.victim for experiment, _ in blocks))
    return f"**Victim {victims}**, in % (of clean):\n\n{Table(columns, tuple(lines), 'l' * len(columns)).markdown()}"


def _cell(experiment: Experiment, poison: str, metric: str, scores: list[Score], plan: list[dict]) -> str:
    """Mean ± std over seeds in percent, the share of clean, and which of the planned seeds are missing."""
    score = find(scores, experiment, poison, metric)
    wanted = [run for run in plan if (run["experiment"], run["poison"]) == (experiment, poison)]
    if score is None:
        return without_score(wanted) if wanted else "–"
    share = percent_of_clean(score, scores) if poison != "clean" else None
    few = f", {len(score.seeds)} of {len(wanted)} seeds" if len(score.seeds) < len(wanted) else ""
    return mean_of(score) + (f" ({share[0]:.0f} %)" if share else "") + few


def _changes(found: list[dict | None]) -> tuple[str, ...]:
    """The cells of `SEEN`, each over all data sets: "8 / 2" at most, rms and the others from lowest to highest."""
    cells = [seen_cells(one) for one in found if one]
    if not cells:
        return seen_cells(None)
    largest = [max(one[name] for one in found if one) for name in ("linf_inside", "linf_outside")]
    spans = [dict.fromkeys((min(column, key=float), max(column, key=float))) for column in list(zip(*cells))[1:]]
    return ("{:.0f} / {:.0f}".format(*largest), *("–".join(span) for span in spans))


def _defences(title: str, grid: Grid) -> str:
    """What is left under each defence, in percent of the undefended clean score."""
    recipes, defenses = axes_of(grid)
    rows = [(d, *(f"{grid[r][d]:.0f}" if d in grid[r] else "–" for r in recipes)) for d in defenses]
    table = Table(("defence", *recipes), tuple(rows), "l" + "r" * len(recipes))
    told = "in % of the undefended clean score; a column is over the seeds that all its defences ran"
    return f"**{title} · under defences**, {told}:\n\n{table.markdown()}"


def systems_table(results: str | Path) -> str:
    """Markdown: a line for each stand-in of the paper's systems."""
    return stand_in_table(scores_of(read_rows(results))).markdown()


TABLES = {"transfer": transfer_table, "systems": systems_table}


def write_results(readme: str | Path, results: str | Path) -> None:
    """Replace what stands between the two markers of `readme` by the table of `results`.

    A profile of `TABLES` has a table and markers of its own.
    """
    readme, name = Path(readme), Path(results).resolve().name
    first, last = (mark.replace("results", name) if name in TABLES else mark for mark in (BEGIN, END))
    table = TABLES.get(name, results_table)(results)
    before, begin, rest = readme.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise UnsegError(f"Expected the lines '{first}' and '{last}' in {readme}, found none; put them back.")
    write_bytes(readme, f"{before}{first}\n\n{table}\n\n{last}{after}".encode())
