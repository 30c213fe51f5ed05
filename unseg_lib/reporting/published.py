"""The published numbers and settings, read from data/published/*.csv. An unknown number is None, never a guess."""

from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv
from unseg_lib.reporting.html import Table

COLUMNS = ("table", "page_or_source", "task", "dataset", "victim", "method", "metric", "value")
SETTINGS = ("setting", "published", "here", "why")
FOLDER = Path(__file__).resolve().parents[2] / "data" / "published"


def _read(name: str) -> list[dict]:
    path = FOLDER / name
    if not path.is_file():
        raise UnsegError(f"Expected the published numbers in {path}, found no such file; use a complete checkout.")
    return read_csv(path)


@cache
def published() -> tuple[dict, ...]:
    """Every published number: dicts of `COLUMNS`, `value` a float in percent, or None where it is not known to us."""
    rows = [row for path in sorted(FOLDER.glob("table*.csv")) for row in _read(path.name)]
    return tuple(row | {"value": float(row["value"]) if row["value"] else None} for row in rows)


def value_of(table: str, dataset: str, victim: str, method: str, metric: str) -> float | None:
    """One published number, or None where there is none."""
    key = (table, dataset, victim, method, metric)
    for row in published():
        if (row["table"], row["dataset"], row["victim"], row["method"], row["metric"]) == key:
            return row["value"]
    return None


def nearest(task: str, dataset: str, victim: str, metric: str, poison: str) -> dict | None:
    """The published number to print beside one of ours, or None.

    Returns value (percent), percent (of its own clean-trained number), note (what it is) and same (whether it
    is the same experiment, or only the nearest one).
    """
    wanted = {"task": task, "dataset": dataset, "metric": metric, "poison": poison}
    for line in _read("nearest.csv"):
        if all(line[name] == value for name, value in wanted.items()) and fnmatch(victim, line["victim"]):
            place = (line["table"], line["paper_dataset"], line["paper_victim"])
            value = value_of(*place, line["paper_method"], line["paper_metric"])
            clean = value_of(*place, "clean", line["paper_metric"])
            if value is None or not clean:
                return None
            share = 100 * value / clean
            return {"value": value, "percent": share, "note": line["note"], "same": line["same_experiment"] == "yes"}
    return None


def deviations(config, data: str, precision: str = "32-true") -> Table:
    """Where a training differs from the published one: setting, published, here, why. `config`: a `BilevelConfig`."""
    here = {"data": data, "precision": precision} | {
        name: getattr(config, name) for name in config.__dataclass_fields__
    }
    here |= {name: here[name] or "random weights" for name in ("sam_weights", "mae_weights")}
    here["mean_of"] = config.mean_of if config.mean_free else "nothing"
    here["train_eps / train_eps_bg"] = f"{config.train_eps / config.train_eps_bg:g}"
    rows = []
    for line in _read("training.csv"):
        name = line["setting"]
        value = list(here[name]) if isinstance(here[name], tuple) else here[name]
        given = name.endswith("_weights") and value != "random weights"
        if str(value) != line["published"] and not given:
            rows.append([name, line["published"], str(value), line["reason"]])
    return Table(SETTINGS, tuple(map(tuple, rows)), "llll")
