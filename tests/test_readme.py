"""The README: its results are the rows', its tables are written by the report."""

from pathlib import Path

import pytest

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import read_csv, write_csv, write_json
from unseg_lib.reporting import BEGIN, END, TABLES, results_table, transfer_table, write_results

ROOT = Path(__file__).parent.parent


def rows(tmp_path):
    made = []
    for poison, finals in {"clean": (80.0, 90.0), "unseg": (8.0, 9.0)}.items():
        for seed, final in enumerate(finals):
            made.append(
                dict(
                    task="object", dataset="lung", victim="unet-resnet18", init="random", poison=poison, eps=8, eps_bg=2
                )
                | dict(defense="none", clean_fraction=0, seed=seed, metric="iou_object", final=final, peak=final)
                | dict(
                    epochs=4,
                    minutes=1,
                    device="cpu",
                    commit="0",
                    notebook=f"victim/lung-{poison}-unet-s{seed}/run.ipynb",
                )
            )
    write_csv(tmp_path / "rows.csv", made, list(COLUMNS))
    return tmp_path


def test_the_table_holds_mean_deviation_and_share(tmp_path):
    poison = tmp_path / "poison/lung-unseg"
    poison.mkdir(parents=True)
    write_json(
        poison / "metrics.json", {"linf_inside": 8.0, "linf_outside": 2, "rms": 3.256, "psnr": 37.1, "ssim": 0.9}
    )
    table = results_table(rows(tmp_path))
    assert "| clean | 85.0 ± 7.1 | – | – | – | – |" in table
    assert "| unseg | 8.5 ± 0.7 (10 %) | 8 / 2 | 3.26 | 37.1 | 0.900 |" in table


def test_a_recipe_has_one_line_over_all_data_sets(tmp_path):
    made = read_csv(rows(tmp_path) / "rows.csv")
    other = [
        row | {"dataset": "voc", "final": "20", "notebook": row["notebook"].replace("lung", "voc")}
        for row in made
        if (row["poison"], row["seed"]) in (("clean", "0"), ("unseg", "1"))
    ]
    write_csv(tmp_path / "rows.csv", made + other, list(COLUMNS))
    for name, rms, largest in (("lung", 3.0, 8.0), ("voc", 4.5, 7.0)):
        changes = {"linf_inside": largest, "linf_outside": 2, "rms": rms, "psnr": 37.1, "ssim": 0.9}
        write_json(tmp_path / f"poison/{name}-unseg/metrics.json", changes)
    lines = results_table(tmp_path).splitlines()
    assert "lung, IoU of the object | voc, IoU of the object" in lines[2]
    assert "| unseg | 8.5 ± 0.7 (10 %) | 20.0 (100 %) | 8 / 2 | 3.00–4.50 | 37.1 | 0.900 |" in lines


def test_defended_victims_have_a_table_of_their_own(tmp_path):
    made = read_csv(rows(tmp_path) / "rows.csv")
    defended = [
        row
        | {
            "defense": "jpeg quality=10",
            "final": 17,
            "notebook": f"victim/lung-unseg-unet-jpeg-s{row['seed']}/run.ipynb",
        }
        for row in made
        if row["poison"] == "unseg"
    ]
    write_csv(tmp_path / "rows.csv", made + defended, list(COLUMNS))
    table = results_table(tmp_path)
    assert table.count("| trained on |") == 1
    assert "| jpeg quality=10 | 20 |" in table and "| none | 10 |" in table


def test_a_second_run_beside_the_first_is_told_below_the_tables(tmp_path):
    for name in ("own", "own-again"):
        (tmp_path / name).mkdir()
        rows(tmp_path / name)
    table = results_table(tmp_path / "own")
    told = "\n\n**Run a second time** (`results/own-again`): "
    assert told in table and "scores were repeated: " in table.partition(told)[2]
    assert "second time" not in results_table(tmp_path / "own-again")


def test_only_what_is_between_the_markers_is_replaced(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold numbers\n{END}\nafter\n")
    write_results(readme, rows(tmp_path))
    once = readme.read_text()
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "old" not in once and "8.5" in once
    write_results(readme, tmp_path)
    assert readme.read_text() == once
    readme.write_text("no markers")
    with pytest.raises(UnsegError, match="put them back"):
        write_results(readme, tmp_path)


def test_the_readme_shows_the_committed_rows():
    if not (ROOT / "results/small/rows.csv").exists():
        pytest.skip("results/small/rows.csv is not there: no results of profile small are committed yet")
    assert results_table(ROOT / "results/small") in (ROOT / "README.md").read_text()


def test_the_transfer_table_has_a_line_for_each_set_and_generator(tmp_path):
    made = read_csv(rows(tmp_path) / "rows.csv")
    changed = {"poison": "unseg-box", "final": 33, "notebook": "victim/lung-unseg-box-unet-s0/run.ipynb", "seed": 0}
    saved = {
        "defense": "jpeg quality=75",
        "final": 44,
        "notebook": "victim/lung-unseg-unet-jpeg-quality-75-s0/run.ipynb",
    }
    unseg = next(row for row in made if row["poison"] == "unseg")
    folder = tmp_path / "transfer"
    write_csv(folder / "rows.csv", [*made, unseg | changed, unseg | saved], list(COLUMNS))
    line = "| lung | `small` | 85.0 | – | 8.5 | 33.0 | – | – | – | 44.0 | – |"
    assert transfer_table(folder).splitlines()[2:] == [line]
    (tmp_path / "small").mkdir()
    random = unseg | {"poison": "random", "final": 81, "notebook": "victim/lung-random-unet-s0/run.ipynb"}
    elsewhere = unseg | {"dataset": "voc", "notebook": "victim/voc-unseg-unet-s0/run.ipynb"}
    write_csv(tmp_path / "small/rows.csv", [random, elsewhere], list(COLUMNS))
    line = line.replace("| 85.0 | – |", "| 85.0 | 81.0 |")
    assert transfer_table(folder).splitlines()[2:] == [line]
    readme = tmp_path / "README.md"
    marks = [mark.replace("results", "transfer") for mark in (BEGIN, END)]
    readme.write_text(f"{BEGIN}\nour results\n{END}\n{marks[0]}\nold\n{marks[1]}\n")
    write_results(readme, folder)
    assert line in readme.read_text() and "our results" in readme.read_text() and "old" not in readme.read_text()


@pytest.mark.parametrize("name", TABLES)
def test_the_readme_shows_the_committed_rows_of_profiles_with_a_table_of_their_own(name):
    if not (ROOT / "results" / name / "rows.csv").exists():
        pytest.skip(f"results/{name}/rows.csv is not there: no results of profile {name} are committed yet")
    assert TABLES[name](ROOT / "results" / name) in (ROOT / "README.md").read_text()
