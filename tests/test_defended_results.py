"""Defended and mixed victims in the tables, and tiny runs of notebooks 05 and 08."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unseg_lib.defenses import cost, noise_left
from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import read_csv, read_json, write_csv
from unseg_lib.pipeline import run_notebook
from unseg_lib.reporting import (
    axes_of,
    defence_grids,
    heat_map,
    metric_of,
    mixture_curves,
    mixture_table,
    our_mixtures,
    paper_mixtures,
    read_rows,
    scores_of,
    table_4,
    title_of,
)

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
# recipe, defence, clean share, score
FOUND = [
    ("clean", "none", 0.0, 80.0),
    ("unseg", "none", 0.0, 8.0),
    ("clean", "jpeg quality=10", 0.0, 72.0),
    ("unseg", "jpeg quality=10", 0.0, 40.0),
    ("clean", "none", 0.2, 60.0),
    ("unseg", "none", 0.2, 58.0),
]


@pytest.fixture
def results(tmp_path) -> Path:
    """A folder with rows.csv of a lung experiment, defended and mixed."""
    rows = []
    for number, (poison, defense, share, value) in enumerate(FOUND):
        row = dict.fromkeys(COLUMNS, "") | {"task": "object", "dataset": "lung", "victim": "unet", "init": "random"}
        row |= {"poison": poison, "eps": 8, "eps_bg": 2, "defense": defense, "clean_fraction": share, "seed": 0}
        row |= {"metric": "iou_object", "final": value, "peak": value, "epochs": 2, "minutes": 1}
        rows.append(row | {"notebook": f"victim/lung-{poison}-way{number}-s0/run.ipynb"})
    write_csv(tmp_path / "rows.csv", rows, list(COLUMNS))
    return tmp_path


def test_the_grid_is_in_percent_of_the_undefended_clean_score(results):
    (grid,) = defence_grids(scores_of(read_rows(results))).values()
    assert grid == {
        "clean": {"none": 100, "jpeg quality=10": 90},
        "unseg": {"none": 10, "jpeg quality=10": 50},
    }
    assert heat_map(grid).content.startswith(b"<?xml")


def test_what_a_defence_gives_back_is_seen_seed_by_seed(results):
    """A third, luckier seed without the defence must not look like a defence that helps the poison."""
    rows = read_csv(results / "rows.csv")
    more = [("clean", 1, 100.0), ("unseg", 1, 30.0)]  # nobody ran the defence under this seed
    rows += [
        next(row for row in rows if (row["poison"], row["defense"], row["clean_fraction"]) == (poison, "none", "0.0"))
        | {"seed": seed, "final": value}
        for poison, seed, value in more
    ]
    for row in rows:
        row["notebook"] = row["notebook"].rpartition("-s")[0] + f"-s{row['seed']}/run.ipynb"
    write_csv(results / "rows.csv", rows, list(COLUMNS))
    (grid,) = defence_grids(scores_of(read_rows(results))).values()
    assert grid["unseg"] == {"none": 10, "jpeg quality=10": 50}
    assert grid["clean"]["none"] == 100


def test_a_column_is_over_the_seeds_that_all_its_defences_ran(results):
    """One defence with a seed more than the others must not move the column, nor the undefended score in it."""
    rows = read_csv(results / "rows.csv")
    plain = [row for row in rows if row["clean_fraction"] == "0.0"]
    rows += [row | {"seed": 1, "final": 100.0} for row in plain if row["poison"] == "clean"]
    rows += [row | {"seed": 1, "final": 60.0} for row in plain if row["poison"] == "unseg"]
    once = next(row for row in plain if (row["poison"], row["defense"]) == ("unseg", "none"))
    rows.append(once | {"defense": "coin", "final": 16.0, "notebook": "victim/lung-unseg-way9-s0/run.ipynb"})
    for row in rows:
        row["notebook"] = row["notebook"].rpartition("-s")[0] + f"-s{row['seed']}/run.ipynb"
    write_csv(results / "rows.csv", rows, list(COLUMNS))
    (grid,) = defence_grids(scores_of(read_rows(results))).values()
    assert grid["unseg"] == {"none": 10, "jpeg quality=10": 50, "coin": 20}
    assert grid["clean"] == {"none": 100, "jpeg quality=10": pytest.approx(100 * 86 / 90)}


def test_class_wise_protection_is_judged_by_the_protected_classes_under_a_defence_too(tmp_path):
    """Over all classes nothing is lost (90 of 100), of those that were protected everything."""
    rows, task = [], {"task": "semantic", "dataset": "camvid", "victim": "unet", "init": "random", "clean_fraction": 0}
    for poison, whole, protected in (("clean", 100, 50), ("unseg-things", 90, 0)):
        for defense in ("none", "coin"):
            row = dict.fromkeys(COLUMNS, "") | task | {"poison": poison, "defense": defense, "seed": 0, "minutes": 1}
            row |= {"eps": 8, "eps_bg": 2, "epochs": 2, "notebook": f"victim/camvid-{poison}-{defense}-s0/run.ipynb"}
            for metric, value in (("miou", whole), ("iou_protected", protected)):
                rows.append(row | {"metric": metric, "final": value, "peak": value})
    write_csv(tmp_path / "rows.csv", rows, list(COLUMNS))
    scores = scores_of(read_rows(tmp_path))
    ((experiment, grid),) = defence_grids(scores).items()
    title = "camvid · mean IoU of the protected classes · victim unet"
    assert title_of(experiment, metric_of(experiment, scores)) == title
    assert grid["unseg-things"]["coin"] == 0 and grid["clean"]["coin"] == 100
    whole = [replace(score, poison="unseg") if score.poison != "clean" else score for score in scores]
    assert title_of(experiment, metric_of(experiment, whole)) == "camvid · mean IoU · victim unet"
    assert defence_grids(whole)[experiment]["unseg"]["coin"] == 90
    unscored = [score for score in scores if score.metric == "miou"]  # as tasks that have no score of the protected
    assert defence_grids(unscored)[experiment]["unseg-things"]["coin"] == 90


def test_table_4_has_the_paper_and_ours(results):
    rows = table_4(defence_grids(scores_of(read_rows(results)))).rows
    assert ("jpeg", "44.8", "59.7 %", "", "", "") in rows
    assert any(row[4:] == ("50.0 %", "90.0 %") for row in rows)


def test_mixtures_stand_beside_the_same_clean_images_alone(results):
    (lines,) = our_mixtures(scores_of(read_rows(results))).values()
    assert lines == {"clean only": {1.0: 80, 0.2: 60}, "mixed with unseg": {0.0: 8, 0.2: 58}}
    assert mixture_table({"a": lines}, (0.0, 0.2, 1.0)).rows[1:] == (
        ("clean only", "–", "60.0", "80.0"),
        ("mixed with unseg", "8.0", "58.0", "–"),
    )


def test_a_share_that_nobody_ran_is_a_gap_in_the_curve():
    drawn = {"mixed": {0.0: 8, 0.2: 58, 1.0: 80}, "clean only": {0.2: 60, 1.0: 80}}
    unknown = {"mixed": drawn["mixed"], "clean only": {0.0: None} | drawn["clean only"]}
    nought = {"mixed": drawn["mixed"], "clean only": {0.0: 0} | drawn["clean only"]}
    assert mixture_curves(drawn).content == mixture_curves(unknown).content
    assert mixture_curves(drawn).content != mixture_curves(nought).content


def test_tables_and_figures_name_clean_first_and_the_method_last():
    grid = {"unseg": {"jpeg": 1.0}, "synper": {"none": 2.0}, "clean": {"none": 100.0, "coin": 99.0}}
    assert axes_of(grid) == (["clean", "synper", "unseg"], ["none", "coin", "jpeg"])


def test_the_papers_mixtures():
    paper = paper_mixtures()
    assert paper["Table 8, voc, deeplabv1-wideresnet38"]["mixed"][0.2] == 66.6
    assert set(paper["Table 5, voc, deeplabv3-resnet50"]["mixed"].values()) == {None}


def test_what_is_left_of_a_noise_by_hand():
    clean = np.full((1, 2, 2, 3), 100, np.uint8)
    noisy = clean + np.uint8(8)
    assert noise_left((clean, noisy), (clean, clean + np.uint8(2))) == pytest.approx(0.25)
    assert noise_left((clean, clean), (clean, noisy)) == 0
    assert cost(clean, clean) == float("inf")
    assert cost(clean, noisy) == pytest.approx(20 * np.log10(255 / 8))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict:
    """Parameters that make a notebook small."""
    from unseg_lib.datasets import write_scenes

    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root, 48, {"train": 6, "test": 2})
    return {"data_root": str(root), "limit": 6}


@pytest.mark.notebook
def test_05_shows_what_defences_do(small, results, tmp_path, weights):
    own = {"size": [48, 48], "generator": weights, "results": str(results)}
    out = run_notebook(FOLDER / "05_defenses.ipynb", tmp_path / "05", small | own, threads=1)
    metrics = read_json(out / "metrics.json")
    assert metrics["effects"]["none"] == {"unseg": 1, "fixed_tile": 1, "colour_offset": 1, "psnr": None}
    assert metrics["effects"]["jpeg quality=10"]["fixed_tile"] < 0.5
    assert len(metrics["trained"]) == 1


@pytest.mark.notebook
def test_08_shows_what_a_mixture_is(small, results, tmp_path, weights):
    own = {"generator": weights, "results": str(results)}
    out = run_notebook(FOLDER / "08_mixed_data.ipynb", tmp_path / "08", small | own, threads=1)
    assert len(read_json(out / "metrics.json")["rows"]) == 1
