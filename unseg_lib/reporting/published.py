"""The published numbers and settings, read from data/published/*.csv. An unknown number is NaN, never a guess."""

from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from unseg_lib.reporting.rows import Results, scores

PURPOSES = [*(f"table {number}" for number in range(1, 12)), "figure 4", "figure 5"]  # whose runs are planned
FOLDER = Path(__file__).resolve().parents[2] / "data" / "published"


@cache
def _read(name: str) -> pd.DataFrame:
    return pd.read_csv(FOLDER / name, dtype=str, keep_default_na=False)


@cache
def paper_numbers() -> pd.DataFrame:
    """Every published number as its table's file has it; value is in percent, NaN where it is not known to us."""
    rows = pd.concat([_read(path.name) for path in sorted(FOLDER.glob("*[0-9]_*.csv"))], ignore_index=True)
    return rows.assign(value=pd.to_numeric(rows.value))


def value_of(table: str, dataset: str, victim: str, method: str, metric: str) -> float:
    """One published number, NaN where there is none."""
    key = dict(table=table, dataset=dataset, victim=victim, method=method, metric=metric)
    rows = paper_numbers()
    return next(iter(rows.value[(rows[list(key)] == pd.Series(key)).all(axis=1)]), np.nan)


def nearest(task: str, dataset: str, victim: str, metric: str, poison: str) -> dict:
    """The published number to print beside one of ours, {} where there is none: value (percent), percent (of its own
    clean-trained number), note (what it is) and same (whether it is the same experiment, or only the nearest one).
    """
    key = (task, dataset, metric, poison)
    for line in _read("nearest.csv").itertuples():
        if (line.task, line.dataset, line.metric, line.poison) == key and fnmatch(victim, line.victim):
            place, same = (line.table, line.paper_dataset, line.paper_victim), line.same_experiment == "yes"
            value, clean = (value_of(*place, one, line.paper_metric) for one in (line.paper_method, "clean"))
            known = not np.isnan(value) and clean > 0
            return {"value": value, "percent": 100 * value / clean, "note": line.note, "same": same} if known else {}
    return {}


def deviations(config, data: str, precision: str = "32-true") -> pd.DataFrame:
    """Where a training differs from the published one: setting, published, here, why. `config`: a `BilevelConfig`."""
    here = {"data": data, "precision": precision} | vars(config)
    here |= {name: here[name] or "random weights" for name in ("sam_weights", "mae_weights")}
    here |= {"attacks": config.attacks or "nothing", "mean_of": config.mean_of if config.mean_free else "nothing"}
    here["train_eps / train_eps_bg"] = f"{config.train_eps / config.train_eps_bg:g}"
    found = _read("training.csv").rename(columns={"reason": "why"})
    found["here"] = [str(list(one) if isinstance(one, tuple) else one) for one in found.setting.map(here)]
    given = found.setting.str.endswith("_weights") & (found.here != "random weights")
    found = found[(found.here != found.published) & ~given]
    return found[["setting", "published", "here", "why"]].reset_index(drop=True)


def beside(table: str, results: Results) -> pd.DataFrame:
    """A table of the paper ("1" to "11", "figure 4"), a line for each model and metric: the published numbers by
    method, ours under "METHOD|ours" where the very same system was run, and where not whose images it needs. Table 1
    names no backbone: a number of the same model in another table stands for it.
    """
    from unseg_lib.datasets import SOURCES

    known, paper, systems, lines = scores(results), paper_numbers(), _read("systems.csv"), []
    runs = _read("methods.csv").astype({"clean_fraction": float}).set_index("method").T
    for one in systems[systems.table == table].itertuples():
        same = paper[paper.victim.str.startswith(one.victim) & ((paper.table == table) | (table == "1"))]
        same = same[(same.task == one.task) & (same.dataset == one.dataset) & (same.metric == one.metric)]
        ours = known[(known.task == one.task) & (known.dataset == one.our_dataset) & (known.metric == one.our_metric)]
        ours = ours[np.array([fnmatch(name, one.our_victim) for name in ours.victim], bool)]
        line = {"task": one.task, "data set": one.dataset, "model": one.victim, "metric": one.metric}
        for method in ("clean", "unseg") if table == "1" else paper.method[paper.table == table].unique():
            run = runs[method].copy()
            run.recipe += one.recipe_end if run.recipe != "clean" else ""
            line[f"{method}|paper"] = same.value[same.method == method].dropna().head(1).max()
            line[f"{method}|ours"] = ours["mean"][(ours[list(run.index)] == run).all(axis=1)].head(1).max()
        if ours.empty:  # what it would take: its data set, and how large a download that is
            own = SOURCES[one.source]
            archives = own.archives + (SOURCES[own.needs].archives if own.needs else ())
            size = "fetched by hand" if own.by_hand else f"{sum(each.megabytes or 0 for each in archives):,} MB"
            line |= {"needs|all of": own.title.partition(",")[0], "needs|to download": size}
        lines.append(line)
    return pd.DataFrame(lines).dropna(axis="columns", how="all")
