"""The paper's Tables 1, 2 and 3 and its Figures 4 and 5, cell by cell: its number, ours, and why there is none."""

from fnmatch import fnmatch
from functools import cache

from unseg_lib.datasets import SOURCES
from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.published import published
from unseg_lib.reporting.scores import MAIN_METRIC, Score
from unseg_lib.reporting.tables import number

# the paper's names beside ours
VICTIMS = {
    "deeplabv1-wideresnet38": "deeplabv1:wideresnet38",
    "deeplabv3-resnet50": "mmseg:deeplabv3_r50*",
    "mask2former": "mask2former:resnet50*",
    "mask2former-resnet50": "mask2former:resnet50*",
    "mask2former-swin-t": "mask2former:swin-tiny*",
    "sam-hq": "sam-hq:vit_b",
    "rsprompter": "rsprompter:vit_h*",
    "unetplusplus": "unetplusplus-*",
    "dino": "dino:dino-4scale_r50*",
}
METRICS = {"miou": "miou", "iou_object": "iou_object", "map": "AP", "ap": "AP", "ap_s": "APs", "ap_m": "APm"}
METRICS |= {"ap_l": "APl", "ap_pan": "AP_pan", "miou_pan": "mIoU_pan", "pq": "PQ"}
NAMES = {"miou": "mIoU", "iou_object": "IoU", "map": "AP", "ap": "AP", "ap_s": "AP S", "ap_m": "AP M", "ap_l": "AP L"}
NAMES |= {"ap_pan": "AP of things", "miou_pan": "mIoU", "pq": "PQ"}
TRAINED = {("coco", "instance"): "coco-panoptic", ("coco", "panoptic"): "coco-panoptic"}  # else under the paper's name
HELD_OUT = {"dis": "dis5k", "coift": "hqseg44k", "hrsod": "hqseg44k", "thinobject": "hqseg44k"}  # tests of SAM-HQ
# where the paper shows a line of its Table 1 in full
SHOWN = {
    ("voc", "deeplabv1-wideresnet38"): "Fig. 4 a",
    ("voc", "deeplabv3-resnet50"): "Fig. 4 b, Table 4",
    ("cityscapes", "mask2former"): "Fig. 4 c, Table 2",
    ("", "mask2former"): "Table 2",
    ("", "sam-hq"): "Fig. 5 a",
    ("", "rsprompter"): "Fig. 5 b",
    ("", "unetplusplus"): "Fig. 5 c",
    ("", "dino"): "Table 3",
}
METHODS = ("clean", "synper", "ar", "cuda", "unseg")


def system_table(scores: list[Score], base: str = "") -> Table:
    """Table 1 and Figures 4 and 5: every system of the paper, trained on clean and on UnSeg's images, and ours."""
    rows: list[tuple[Cell, ...]] = []
    for line in (row for row in published() if row["table"] == "1"):
        key = (line["task"], line["dataset"], line["victim"], line["metric"])
        paper = [_known(*key, method) for method in ("clean", "unseg")]
        ours = [_ours(scores, *key, method) for method in ("clean", "unseg")]
        where = SHOWN.get(key[1:3]) or SHOWN[("", key[2])]
        named = (key[0], key[1], key[2], NAMES[key[3]], where)
        why = "" if all(ours) else why_not(key[0], key[1])
        known = (number(row["value"]) if row and row["value"] is not None else "not known" for row in paper)
        rows.append((*named, *known, *(_our_cell(one, base) for one in ours), why))
    columns = ("task", "data set", "model", "metric", "in full in", "paper, clean", "UnSeg", "ours, clean", "UnSeg", "")
    return Table(columns, tuple(rows), "lllllrrrrl")


def full_tables(scores: list[Score], base: str = "") -> dict[str, Table]:
    """Tables 2 and 3 by "Table 2, panoptic": a line for each model and method, the paper's numbers and ours."""
    found: dict[str, list[dict]] = {}
    for row in published():
        if row["table"] in ("2", "3"):
            found.setdefault(f"Table {row['table']}, {row['task']}", []).append(row)
    return {title: _full_table(rows, scores, base) for title, rows in found.items()}


def _full_table(rows: list[dict], scores: list[Score], base: str) -> Table:
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    lines: list[tuple[Cell, ...]] = []
    for task, dataset, victim in dict.fromkeys((row["task"], row["dataset"], row["victim"]) for row in rows):
        own = {method: _lines(scores, task, dataset, victim, metrics, method) for method in METHODS}
        lacking = not any(score for scores_of_method in own.values() for score in scores_of_method)
        lines.append(((f"{victim} on {dataset}", why_not(task, dataset) if lacking else ""),))
        for method in METHODS:
            values = [_cell_of(rows, dataset, victim, metric, method) for metric in metrics]
            if any(values) or any(own[method]):
                pairs = zip(map(_paper_cell, values), (_our_cell(score, base) for score in own[method]))
                lines.append((method, *(cell for pair in pairs for cell in pair)))
    columns = [column for metric in metrics for column in (f"{NAMES[metric]}, paper", "ours")]
    return Table(("trained on", *columns), tuple(lines), "l" + "r" * len(columns))


def _cell_of(rows: list[dict], dataset: str, victim: str, metric: str, method: str) -> dict | None:
    key = (dataset, victim, metric, method)
    return next((r for r in rows if (r["dataset"], r["victim"], r["metric"], r["method"]) == key), None)


def _lines(scores, task: str, dataset: str, victim: str, metrics: list[str], method: str) -> list[Score | None]:
    return [_ours(scores, task, dataset, victim, metric, method) for metric in metrics]


def _known(task: str, dataset: str, victim: str, metric: str, method: str) -> dict | None:
    """The published row of a system, which Table 1 names without its backbone; one with a number is preferred."""
    key = (task, dataset, metric, method)
    same = [
        row
        for row in published()
        if (row["task"], row["dataset"], row["metric"], row["method"]) == key and row["victim"].startswith(victim)
    ]
    return next((row for row in same if row["value"] is not None), same[0] if same else None)


def _ours(scores: list[Score], task: str, dataset: str, victim: str, metric: str, method: str) -> Score | None:
    """Our score of the very same system: task, data set, model and metric, trained as usual."""
    asked = MAIN_METRIC[task] if task == "interactive" else METRICS[metric]  # there the mean is over images
    key = (task, TRAINED.get((dataset, task), dataset), asked, method)
    for score in scores:
        own = score.experiment
        same = (own.task, own.dataset, score.metric, score.poison) == key and own.plain
        if same and fnmatch(own.victim, VICTIMS[victim]):
            return score
    return None


def _paper_cell(row: dict | None) -> str:
    return "–" if row is None else "not known" if row["value"] is None else number(row["value"])


def _our_cell(score: Score | None, base: str) -> Cell:
    return Link(number(score.mean), base + score.runs[0]["notebook"]) if score else "–"


def why_not(task: str, dataset: str) -> str:
    """Why a system of the paper was not run: whose images it needs and how they are had, and a GPU's hours."""
    source = SOURCES[HELD_OUT.get(dataset, TRAINED.get((dataset, task), dataset))]
    archives = source.archives + (SOURCES[source.needs].archives if source.needs else ())
    way = "fetched by hand" if source.by_hand else f"{sum(one.megabytes or 0 for one in archives):,} MB to download"
    name = source.title.partition(",")[0]
    return f"not run: needs all of {name} ({way}) and a GPU, by profile paper up to {_gpu_hours():.0f} h a victim"


@cache
def _gpu_hours() -> float:
    from unseg_lib.pipeline import load_profile

    return load_profile("paper").resources_of("victim")["minutes"] / 60
