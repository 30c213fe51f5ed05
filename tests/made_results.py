"""Made-up results of which every number is known: rows.csv and stages.jsonl.gz as runs leave them."""

import gzip
import json
from pathlib import Path

from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import write_csv
from unseg_lib.reporting import Results, load

USUAL = {"task": "object", "dataset": "lung", "setting": "lung", "recipe": "clean", "victim_key": "unet", "label": ""}
USUAL |= {"victim": "unet-resnet18", "init": "random", "eps": 8.0, "eps_bg": 2.0, "defense": "none"}
USUAL |= {"clean_fraction": 0.0}
USUAL |= {"epochs": 4, "minutes": 1.5, "device": "cpu", "precision": "32", "commit": "0123456789abcdef", "seed": 0}
WORLD = {"cpu": "Some CPU", "cores": 2, "gpus": [], "dirty": False, "minutes": 1.5, "commit": "0123456789abcdef"}
WORLD["versions"] = {"torch": "2.13.0", "numpy": "2.4.6", "pillow": "13.0.0"}


def rows_of(recipe: str, *values: float, metric: str = "iou_object", first: int = 0, **changes) -> list[dict]:
    """The rows of a recipe, one a seed from `first` on; `changes` are columns."""
    changes = ({"setting": changes["dataset"]} if "dataset" in changes else {}) | changes
    made = []
    for seed, value in enumerate(values, start=first):
        row = USUAL | {"recipe": recipe, "seed": seed, "metric": metric, "final": value, "peak": value} | changes
        name = "-".join(filter(None, (row["setting"], recipe, row["victim_key"], row["label"], f"s{seed}")))
        made.append(row | {"stage": f"victim/{name}"})
    return made


def stages_of(rows: list[dict], curves: bool = True, **looks) -> list[dict]:
    """The stages that left these rows, with curves that rise in a line; looks: what a recipe's poisoning measured."""
    stages: dict[str, dict] = {}
    for row in rows:
        copy = f"{row['setting']}-{row['recipe']}"
        own = {"defense": row["defense"], "clean_fraction": row["clean_fraction"]}
        own["poisoned"] = "" if row["recipe"] == "clean" else f"results/made/poison/{copy}/dataset"
        named = {name: row[name] for name in ("setting", "recipe", "victim_key", "label", "seed", "stage")}
        stage = {"kind": "victim", "name": row["stage"].split("/")[-1], "state": "done", "parameters": own}
        stages.setdefault(row["stage"], named | stage | {"metrics": {"curves": {}}, "provenance": WORLD})
        if curves:
            rising = [row["final"] * (epoch + 1) / 4 for epoch in range(4)]
            stages[row["stage"]]["metrics"]["curves"][row["metric"]] = rising
        if row["recipe"] != "clean":
            made = {"poison": row["recipe"].removesuffix("-things").replace("-", "_"), "generator": "small"}
            made["protect"] = "car" if row["recipe"].endswith("-things") else "all"
            seen = {"images": 3, "linf_inside": 8, "linf_outside": 2, "rms": 3.25, "psnr": 37.25, "ssim": 0.9875}
            poison = {"kind": "poison", "name": copy, "stage": f"poison/{copy}", "state": "done", "parameters": made}
            poison |= {"setting": row["setting"], "recipe": row["recipe"], "provenance": WORLD}
            stages[f"poison/{copy}"] = poison | {"metrics": seen | looks.get(row["recipe"].replace("-", "_"), {})}
    return sorted(stages.values(), key=lambda stage: stage["stage"])


def late(recipe: str, seed: int, state: str, **changes) -> dict:
    """A planned victim without a result."""
    (row,) = rows_of(recipe, 0, first=seed, **changes)
    return stages_of([row], curves=False)[-1] | {"state": state, "metrics": {}}


def write_results(folder: Path, rows: list[dict], stages: list[dict] | None = None) -> Path:
    write_csv(folder / "rows.csv", rows, COLUMNS)
    lines = "".join(json.dumps(stage) + "\n" for stage in (stages_of(rows) if stages is None else stages))
    (folder / "stages.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    return folder


def made(folder: Path, rows: list[dict], stages: list[dict] | None = None) -> Results:
    return load(write_results(folder, rows, stages))
