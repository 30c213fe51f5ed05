"""The first page of the report and its last list: what was asked of the machine, what came of it, run by run."""

from pathlib import Path

from unseg_lib.files import read_json
from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.origin import minutes_of
from unseg_lib.reporting.scores import experiment_of, main_metric, name_of
from unseg_lib.reporting.tables import number

STAGES = ("generator", "poison", "pixels")  # besides victims; a page has no name of its own


def lead(results: Path, rows: list[dict], plan: list[dict]) -> str:
    """One sentence: how many victims, on which data, in how many minutes, and how much is missing."""
    runs = {row["notebook"] for row in rows}
    sets, minutes = {row["dataset"] for row in rows}, sum({row["notebook"]: row["minutes"] for row in rows}.values())
    text = f"{len(runs)} victims trained on {', '.join(sorted(sets))} in {minutes:.0f} minutes of training"
    waiting = missing(results, rows, plan)
    failed = sum(state == "failed" for _, state in waiting)
    told = f"; planned and without a result: {len(waiting)}, of which failed: {failed}" if waiting else ""
    return f"{text}{told}."


def machines(results: Path) -> str:
    """One sentence: the processors and GPUs of all stages, and their minutes by kind; "" without provenance."""
    origins = [read_json(path) for path in sorted(results.glob("*/*/provenance.json"))]
    if not origins:
        return ""
    found = [f"{one['cpu']}, {one['cores']} cores, {', '.join(one['gpus']) or 'no GPU'}" for one in origins]
    spent = ", ".join(f"{kind} {total:.0f}" for kind, total in minutes_of(results).items())
    return f"Computed on {' and '.join(dict.fromkeys(found))}. Minutes: {spent}."


def failed_stages(results: Path) -> list[str]:
    """Stages other than victims that ended in an error and have no result since, as "kind/name"."""
    broken = [path for kind in STAGES for path in (results / kind).glob("*/failed.ipynb")]
    broken += results.glob("*/failed.ipynb")
    alone = [path.parent for path in broken if not (path.parent / "metrics.json").exists()]
    return sorted(folder.relative_to(results).as_posix() for folder in alone)


def missing(results: Path, rows: list[dict], plan: list[dict]) -> list[tuple[str, str]]:
    """(name, state) of everything that was planned or begun and has no result: nothing of it may be left out."""
    there = {f"victim/{name_of(row)}" for row in rows}
    asked = {f"victim/{run['name']}": run["state"].replace("done", "done, but not in rows.csv") for run in plan}
    waiting = [(name, state) for name, state in asked.items() if name not in there]
    return waiting + [(name, "failed") for name in failed_stages(results)]


def runs_table(results: Path, rows: list[dict], plan: list[dict]) -> Table:
    """Every run, those without a result included: its name leads to its notebook."""
    finals: dict[str, dict] = {}
    for row in rows:
        if row["metric"] == main_metric(experiment_of(row)):
            finals[row["notebook"]] = row
    lines: list[tuple[Cell, ...]] = []
    for notebook, row in sorted(finals.items()):
        name = notebook.removesuffix("/run.ipynb")
        lines.append((Link(name, notebook), row["metric"], number(row["final"]), number(row["minutes"]), "done"))
    lines += [(name, "–", "–", "–", state) for name, state in missing(results, rows, plan)]
    return Table(("run", "metric", "score", "minutes", "state"), tuple(lines), "llrrl")


def pages_table(results: Path) -> Table:
    """The executed notebooks beside the grid, each by the heading and the question that it opens with."""
    rows = []
    for notebook in sorted(results.glob("*/run.ipynb")) + sorted(results.glob("pixels/*/run.ipynb")):
        first = "".join(read_json(notebook)["cells"][0]["source"]).splitlines()
        question = " ".join(line.strip("*") for line in first if line.startswith("**Question"))
        rows.append((Link(first[0].lstrip("# "), notebook.relative_to(results).as_posix()), question))
    return Table(("notebook", "question"), tuple(rows), "ll")
