"""What a notebook leaves behind, and the two files of a profile that everything else is read from."""

import gzip
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from unseg_lib.errors import UnsegError, closest
from unseg_lib.files import read_json, write_bytes, write_csv, write_json
from unseg_lib.pipeline.notebook import decisive

if TYPE_CHECKING:
    from unseg_lib.pipeline.stages import Stage

ORDER = ("task", "dataset", "victim", "init", "recipe", "eps", "eps_bg", "defense", "clean_fraction")


def save_result(out: str | Path, metrics: dict) -> Path:
    """The last line of every notebook: write `out/metrics.json`, whole; the strict runner names it after the last cell.

    Arrays become lists; a number that is not finite is refused, because JSON has no word for it.
    """
    path = Path(out) / "metrics.json"
    write_json(os.environ.get("UNSEG_METRICS") or path, _plain(metrics, "metrics"))
    return path


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
    kind = type(value).__name__
    raise UnsegError(f"Expected numbers, texts, lists and dicts in a result, found {name} of type {kind}.")


def collect(results: str | Path, stages: Iterable["Stage"]) -> Path:
    """Write what all tables are made from, `rows.csv` and `stages.jsonl.gz`, for these stages; the path of rows.csv.

    rows.csv has a row for every (victim, metric), with what the victim's notebook cannot know: which run of the profile
    it is, `commit`, `stage`, and `precision`, from result.json. The other file has a JSON object a line, one for every
    stage: which run it is, `state` ("done", "failed" or "not run"), parameters, metrics and provenance.
    """
    from unseg_lib.evaluation import COLUMNS  # and torch with it

    results, rows, records = Path(results), [], []
    for stage in stages:
        if not stage.gathers:
            record = _record(stage, stage.seen_from(results))
            rows += _rows(stage, record, COLUMNS) if stage.kind == "victim" and record["state"] == "done" else []
            records.append(record)
    # text as text, seeds as numbers, so that seed 10 follows seed 9
    rows.sort(key=lambda row: [*(str(row[name]) for name in ORDER), int(row["seed"]), str(row["metric"])])
    lines = [json.dumps(record, sort_keys=True) + "\n" for record in sorted(records, key=lambda one: one["stage"])]
    write_bytes(results / "stages.jsonl.gz", gzip.compress("".join(lines).encode(), mtime=0))
    write_csv(results / "rows.csv", rows, list(COLUMNS))
    return results / "rows.csv"


def _record(stage: "Stage", place: str) -> dict:
    record = {"stage": place, "kind": stage.kind, "name": stage.name} | stage.names
    if not (stage.folder / "metrics.json").exists():
        state = "failed" if (stage.folder / "failed.ipynb").exists() else "not run"
        return record | {"state": state, "parameters": decisive(stage.values)}
    names = [name for name in ("metrics", "provenance", "speed") if (stage.folder / f"{name}.json").exists()]
    record |= {"state": "done"} | {name: read_json(stage.folder / f"{name}.json") for name in names}
    return record | {"parameters": record["provenance"].pop("parameters")}


def _rows(stage: "Stage", record: dict, columns: tuple[str, ...]) -> list[dict]:
    """The rows of a finished victim with every column, which are taken out of its record."""
    where, origin, training = record["stage"], record["provenance"], stage.folder / "result.json"
    if "rows" not in record["metrics"]:
        raise UnsegError(f"Expected 'rows' in the metrics of {where}, found {sorted(record['metrics'])}.")
    filled = {"minutes": origin["minutes"], "device": origin["device"]}
    filled |= {"precision": read_json(training).get("precision", "") if training.exists() else ""}
    known = stage.names | {"commit": origin["commit"] or "", "stage": where}
    rows = [filled | row | known for row in record["metrics"].pop("rows")]
    for row in rows:
        for name in row.keys() - set(columns):
            raise UnsegError(f"Unknown column '{name}' in the rows of {where}; {closest(name, list(columns))}")
        if missing := [name for name in columns if name not in row]:
            raise UnsegError(f"Expected every column in the rows of {where}, found none called {', '.join(missing)}.")
    return rows
