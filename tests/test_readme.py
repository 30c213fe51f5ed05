"""README and docs: their tables are the rows'."""

import runpy

import pytest
from made_results import rows_of, write_results

from unseg_lib.errors import UnsegError
from unseg_lib.reporting import BEGIN, END, results_table
from unseg_lib.reporting import write_results as write_table

ROWS = rows_of("clean", 80, 90) + rows_of("colour-offset", 4, 5) + rows_of("grating", 1) + rows_of("unseg", 8, 9)
ROWS += rows_of("random", 2, 3) + rows_of("unseg", 7, 7, defense="shrunk", label="shrunk")


def test_the_table_holds_mean_and_deviation_and_the_strongest_control_of_as_many_seeds(tmp_path):
    some = {"dataset": "camvid", "task": "semantic", "metric": "iou:car"}
    more = rows_of("clean", 50, **some) + rows_of("unseg-things", 5, **some) + rows_of("unseg", 40, **some)
    table = results_table(write_results(tmp_path, ROWS + more)).splitlines()
    assert table[0] == "| trained on | Lung, IoU | CamVid's cars, IoU |"
    assert table[2:] == [
        "| clean images | 85.0 ± 7.1 | 50.0 |",
        "| random noise, UnSeg's two budgets | 2.5 ± 0.7 | – |",
        "| the strongest control | 4.5 ± 0.7 (colour-offset) | – |",
        "| UnSeg | 8.5 ± 0.7 | 5.0 |",
        "| UnSeg, published large | 7.0 ± 0.0 | – |",
    ]


def test_only_what_is_between_the_markers_is_replaced(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold numbers\n{END}\nafter\n")
    write_table(readme, write_results(tmp_path, ROWS))
    once = readme.read_text()
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once and "8.5" in once
    write_table(readme, tmp_path)
    assert readme.read_text() == once
    readme.write_text("no markers")
    with pytest.raises(UnsegError, match="put them back"):
        write_table(readme, tmp_path)


def test_readme_and_docs_show_the_committed_rows(project):
    assert runpy.run_path(project / "docs/tables.py")["main"](check=True) == 0
    table = results_table(project / "results/small")
    assert f"{BEGIN}\n\n{table}\n\n{END}" in (project / "README.md").read_text() and len(table.splitlines()) <= 10
