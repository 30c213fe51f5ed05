"""README and docs: their tables are the rows'."""

import runpy
from pathlib import Path

import pytest
from made_results import rows_of, write_results

of_imagenet = {"victim_key": "unet-lite0", "init": "imagenet"}
ROWS = [rows_of("clean", 80, 90, 85, **of_imagenet), rows_of("grating", 1, **of_imagenet)]
ROWS += [rows_of("colour-offset", 4, 5, 6, **of_imagenet), rows_of("unseg", 8, 9, 10, **of_imagenet)]
ROWS += [rows_of("random", 2, 3, **of_imagenet), rows_of("random-flat", 1, 1, 1)]  # the last of another victim
ROWS += [rows_of("unseg", 7, 7, 7, defense="shrunk", label="shrunk", **of_imagenet)]
TABLES = runpy.run_path(str(Path(__file__).parents[1] / "docs/tables.py"))


def test_the_table_holds_mean_and_deviation_and_the_strongest_control_of_as_many_seeds(tmp_path):
    some = of_imagenet | {"dataset": "camvid", "task": "semantic", "metric": "iou:car"}
    more = rows_of("clean", 50, **some) + rows_of("unseg-things", 5, **some) + rows_of("unseg", 40, **some)
    results = write_results(tmp_path, sum(ROWS, more))
    assert TABLES["readme_table"](TABLES["cells"](results)).splitlines() == [
        "| trained on | Lung, IoU | CamVid's cars, IoU |",
        "|---|---|---|",
        "| clean images | 85.0 ± 5.0 | 50.0 |",
        "| random noise, UnSeg's two budgets | 2.5 (2) | – |",
        "| the strongest control | 5.0 ± 1.0 (colour-offset) | – |",
        "| UnSeg | 9.0 ± 1.0 | 5.0 |",
        "| UnSeg, published large | 7.0 ± 0.0 | – |",
    ]


def test_only_the_table_of_that_heading_is_replaced():
    text = "before\n\n| other | x |\n|---|---|\n\n| trained on | x |\n|---|---|\n| old | 1 |\n\nafter\n"
    once = TABLES["replaced"](text, "| trained on | y |\n|---|---|\n| new | 2 |", "README.md")
    assert once == text.replace("on | x", "on | y").replace("old | 1", "new | 2")
    with pytest.raises(SystemExit, match="put it back"):
        TABLES["replaced"]("no table", "| trained on | y |", "README.md")


def test_readme_and_docs_show_the_committed_rows(project):
    assert TABLES["main"](project, check=True) == 0
