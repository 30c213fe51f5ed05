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

COLUMNS = (
    *("task", "dataset", "setting", "recipe", "victim_key", "label", "victim", "init", "eps", "eps_bg", "defense"),
    *(
        "clean_fraction",
        "seed",
        "metric",
        "final",
        "peak",
        "epochs",
        "minutes",
        "device",
        "precision",
        "commit",
        "stage",
    ),
)
ORDER = ("task", "dataset", "victim", "init", "recipe", "eps", "eps_bg", "defense", "clean_fraction")


def save_result(out: str | Path, metrics: dict) -> Path:
    """The last line of every notebook: write `out/metrics.json`, whole.

    Under the strict runner the file gets its name only after the whole notebook has run. Arrays become
    lists; a number that is not finite is refused, because JSON has no word for it.
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
    """Write what all tables are made from, `rows.csv` and `stages.jsonl.gz`, for these stages of a profile.

    rows.csv has a row for every (victim, metric). What the notebook of the victim cannot know is filled in: which run
    of the profile it is, `commit`, `stage`, and `precision`, which is that of the stage's result.json. The other file
    has a JSON object a line, one for every stage: which run it is, its `state` ("done", "failed" or "not run"), its
    parameters, metrics and provenance. Returns the path of rows.csv.
    """
    results, rows, records = Path(results), [], []
    for stage in stages:
        if stage.gathers:
            continue
        record = _record(stage, stage.seen_from(results))
        found = record.get("metrics", {}).pop("rows", None)
        if stage.kind == "victim" and record["state"] == "done":
            rows += _rows(stage, record, found)
        records.append(record)
    # text as text, seeds as numbers, so that seed 10 follows seed 9
    rows.sort(key=lambda row: [*(str(row[name]) for name in ORDER), int(row["seed"]), str(row["metric"])])
    lines = [json.dumps(record, sort_keys=True) + "\n" for record in sorted(records, key=lambda one: one["stage"])]
    write_bytes(results / "stages.jsonl.gz", gzip.compress("".join(lines).encode(), mtime=0))
    write_csv(results / "rows.csv", rows, list(COLUMNS))
    return results / "rows.csv"


def _record(stage: "Stage", place: str) -> dict:
    record = {"stage": place, "kind": stage.kind, "name": stage.name} | stage.names
    parameters = decisive(stage.values)
    if not (stage.folder / "metrics.json").exists():
        state = "failed" if (stage.folder / "failed.ipynb").exists() else "not run"
        return record | {"state": state, "parameters": parameters}
    origin, speed = read_json(stage.folder / "provenance.json"), stage.folder / "speed.json"
    record |= {"state": "done", "parameters": origin.pop("parameters", parameters), "provenance": origin}
    record |= {"metrics": read_json(stage.folder / "metrics.json")}
    return record | ({"speed": read_json(speed)} if speed.exists() else {})


def _rows(stage: "Stage", record: dict, found: list[dict] | None) -> list[dict]:
    """The rows of a finished victim with every column of `COLUMNS`."""
    where = record["stage"]
    if found is None:
        raise UnsegError(f"Expected 'rows' in the metrics of {where}, found {sorted(record['metrics'])}.")
    training, origin = stage.folder / "result.json", record["provenance"]
    filled = {"minutes": origin["minutes"], "device": origin["device"]}
    filled |= {"precision": read_json(training).get("precision", "") if training.exists() else ""}
    rows = [filled | row | stage.names | {"commit": origin["commit"] or "", "stage": where} for row in found]
    for row in rows:
        for name in row:
            if name not in COLUMNS:
                raise UnsegError(f"Unknown column '{name}' in the rows of {where}; {closest(name, list(COLUMNS))}")
        if missing := [name for name in COLUMNS if name not in row]:
            raise UnsegError(f"Expected every column in the rows of {where}, found none called {', '.join(missing)}.")
    return rows
