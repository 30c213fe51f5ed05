"""The paper's tables cell by cell: its numbers, ours beside the very same system, and a reason where there is none."""

import pytest

from unseg_lib.datasets import SOURCES
from unseg_lib.reporting import NAMES, Experiment, Link, Score, full_tables, system_table, why_not
from unseg_lib.reporting.published import published


def score(task: str, dataset: str, victim: str, metric: str, poison: str, final: float, **changes) -> Score:
    given = {"setting": dataset, "way": "x", "init": "random", "defense": "none", "clean_fraction": 0.0} | changes
    run = {"seed": 0, "final": final, "peak": final, "notebook": f"victim/{dataset}-{poison}/run.ipynb"}
    return Score(Experiment(task=task, dataset=dataset, victim=victim, **given), poison, metric, (run,))


def test_every_system_of_table_1_has_a_line_and_a_reason():
    table = system_table([])
    assert len(table.rows) == sum(row["table"] == "1" for row in published()) == 20
    assert all(row[7:9] == ("–", "–") and row[9].startswith("not run: needs all of ") for row in table.rows)
    voc = next(row for row in table.rows if row[1:3] == ("voc", "deeplabv1-wideresnet38"))
    assert voc[4:7] == ("Fig. 4 a", "70.6", "6.2")
    dino = next(row for row in table.rows if row[2] == "dino")
    assert dino[5:7] == ("not known", "not known")


def test_ours_stands_beside_the_very_same_system_only():
    same = [
        score("panoptic", "coco-panoptic", "mask2former:resnet50", "PQ", method, value)
        for method, value in (("clean", 50.0), ("unseg", 5.0))
    ]
    others = [
        score("panoptic", "coco-panoptic", "mask2former:tiny", "PQ", "clean", 1.0),
        score("panoptic", "coco-panoptic", "mask2former:resnet50", "PQ", "clean", 2.0, defense="grayscale"),
        score("semantic", "ade20k", "mask2former:resnet50", "PQ", "clean", 3.0),
    ]
    line = next(row for row in system_table([*others, *same], "up/").rows if row[:2] == ("panoptic", "coco"))
    assert [str(cell) for cell in line[7:9]] == ["50.0", "5.0"] and line[9] == ""
    assert line[7] == Link("50.0", "up/victim/coco-panoptic-clean/run.ipynb")


def test_table_2_is_whole():
    tables = full_tables([score("instance", "cityscapes", "mask2former:swin-tiny", "AP", "cuda", 7.0)])
    assert list(tables) == ["Table 2, panoptic", "Table 2, instance", "Table 2, semantic", "Table 3, detection"]
    shown = [cell for table in tables.values() for row in table.rows for cell in row]
    numbers = [row["value"] for row in published() if row["table"] == "2" and row["value"] is not None]
    assert all(shown.count(f"{value:.1f}") >= numbers.count(value) for value in numbers)
    rows = tables["Table 2, instance"].rows
    start = rows.index((("mask2former-swin-t on cityscapes", ""),))  # something was run: no reason why not
    assert [str(cell) for cell in next(row for row in rows[start:] if row[0] == "cuda")][:3] == ["cuda", "–", "7.0"]
    assert "not run: needs all of ADE20K" in rows[0][0][1]


@pytest.mark.parametrize(
    ("task", "dataset", "words"),
    [
        ("instance", "coco", "21,266 MB to download"),  # the panoptic masks, and the images they belong to
        ("interactive", "coift", "HQSeg-44K (fetched by hand)"),
        ("object", "kvasir", "Kvasir-SEG (46 MB to download)"),
    ],
)
def test_the_reason_says_what_it_would_take(task, dataset, words):
    assert words in why_not(task, dataset) and "a GPU" in why_not(task, dataset)


def test_every_data_set_and_metric_of_the_tables_is_known():
    for row in published():
        if row["table"] in ("1", "2", "3"):
            assert why_not(row["task"], row["dataset"]) and row["metric"] in NAMES
    assert SOURCES["coco-panoptic"].needs == "coco"
