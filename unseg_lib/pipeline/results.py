"""What a notebook leaves behind, and the one table that every other table is made from."""

import math
import os
from pathlib import Path

from unseg_lib.errors import UnsegError, closest
from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import read_json, write_csv, write_json


def save_result(out: str | Path, metrics: dict) -> Path:
    """The last line of every notebook: write `out/metrics.json`, whole.

    Under the strict runner the file gets its name only after the whole notebook has run. Arrays become
    lists; a number that is not finite is refused, because JSON has no word for it.
    """
    pending = os.environ.get("UNSEG_METRICS")
    path = Path(pending) if pending else Path(out) / "metrics.json"
    write_json(path, _plain(metrics, "metrics"))
    return Path(out) / "metrics.json"


def _plain(value: object, name: str) -> object:
    """Turn numpy and torch values into what JSON knows; `name` is where we are, for the error."""
    if isinstance(value, dict):
        return {str(key): _plain(item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{name}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Path):
        return value.as_posix()
    if hasattr(value, "tolist"):
        return _plain(value.tolist(), name)
    if isinstance(value, float) and not math.isfinite(value):
        raise UnsegError(f"Expected finite numbers in a result, found {name} = {value}; look at the cell it is from.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise UnsegError(
        f"Expected numbers, texts, lists and dicts in a result, found {name} of type {type(value).__name__}."
    )


def collect(results: str | Path, stages: list[str]) -> Path:
    """Write `results/rows.csv` from the rows in the metrics of `stages` (e.g. "victim/lung-unseg-unet-s0").

    `commit` and `notebook` are filled in here, `minutes`, `device` and `precision` where the row has none. The last is
    that of the stage's result.json, where it says one.
    """
    results = Path(results)
    rows = [row for stage in stages for row in _stage_rows(results, stage)]
    rows.sort(key=_order)
    write_csv(results / "rows.csv", rows, list(COLUMNS))
    return results / "rows.csv"


def _order(row: dict) -> list:
    """Text columns as text, seed as a number, so that seed 10 follows seed 9."""
    names = ("task", "dataset", "victim", "init", "poison", "eps", "eps_bg", "defense", "clean_fraction")
    return [*(str(row[name]) for name in names), int(row["seed"]), str(row["metric"])]


def _stage_rows(results: Path, stage: str) -> list[dict]:
    metrics, origin = (read_json(results / stage / f"{name}.json") for name in ("metrics", "provenance"))
    if "rows" not in metrics:
        raise UnsegError(f"Expected 'rows' in {results / stage / 'metrics.json'}, found {sorted(metrics)}.")
    known = {"commit": origin["commit"] or "", "notebook": f"{stage}/run.ipynb"}
    training = results / stage / "result.json"
    precision = read_json(training).get("precision", "") if training.exists() else ""
    filled = {"minutes": origin["minutes"], "device": origin["device"], "precision": precision}
    rows = []
    for row in metrics["rows"]:
        row = filled | row | known
        for name in row:
            if name not in COLUMNS:
                raise UnsegError(f"Unknown column '{name}' in the rows of {stage}; {closest(name, list(COLUMNS))}")
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise UnsegError(f"Expected every column in the rows of {stage}, found none called {', '.join(missing)}.")
        rows.append(row)
    return rows
