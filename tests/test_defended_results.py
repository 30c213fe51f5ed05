"""Defended and mixed victims in the tables, and tiny runs of notebooks 05 and 08."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from made_results import made, rows_of, write_results
from test_notebooks import run

from unseg_lib.datasets import write_scenes
from unseg_lib.defenses import cost, noise_left
from unseg_lib.reporting import defence_grids, scores

JPEG = {"defense": "jpeg quality=10", "label": "jpeg-quality-10"}
MIXED = {"clean_fraction": 0.2, "label": "clean_fraction-0.2"}
FOUND = [
    *(rows_of("clean", 80) + rows_of("unseg", 8)),
    *(rows_of("clean", 72, **JPEG) + rows_of("unseg", 40, **JPEG)),
    *(rows_of("clean", 60, **MIXED) + rows_of("unseg", 58, **MIXED)),
]


def grid_of(folder: Path, rows: list[dict]) -> dict:
    (grid,) = defence_grids(made(folder, rows)).values()
    return {recipe: line.dropna().to_dict() for recipe, line in grid.items()}


def test_the_grid_is_in_percent_of_the_undefended_clean_score(tmp_path):
    assert list(defence_grids(made(tmp_path, FOUND))) == [("lung", "IoU of the object", "unet")]
    want = {"clean": {"none": 100, "jpeg quality=10": 90}, "unseg": {"none": 10, "jpeg quality=10": 50}}
    assert grid_of(tmp_path, FOUND) == want
    # of a victim that learns nothing from clean images there is no share, and no grid
    assert not defence_grids(made(tmp_path / "nothing", [row | {"final": 0.0} for row in FOUND]))


def test_what_a_defence_gives_back_is_seen_seed_by_seed(tmp_path):
    """Another, luckier seed without the defence must not look like a defence that helps the poison."""
    more = rows_of("clean", 100, first=1) + rows_of("unseg", 30, first=1)  # nobody ran the defence under this seed
    grid = grid_of(tmp_path, FOUND + more)
    assert grid["unseg"] == {"none": 10, "jpeg quality=10": 50} and grid["clean"]["none"] == 100


def test_a_column_is_over_the_seeds_that_all_its_defences_ran(tmp_path):
    """One defence with a seed more than the others must not move the column, nor the undefended score in it."""
    more = [row | {"seed": 1, "final": 100.0 if row["recipe"] == "clean" else 60.0} for row in FOUND[:4]]
    coin = rows_of("unseg", 16, defense="coin", label="coin")
    grid = grid_of(tmp_path, FOUND + more + coin)
    assert grid["unseg"] == {"none": 10, "jpeg quality=10": 50, "coin": 20}
    assert grid["clean"] == {"none": 100, "jpeg quality=10": pytest.approx(100 * 86 / 90)}


@pytest.mark.parametrize(
    ("recipe", "scored", "heading", "left"),
    [
        ("unseg-things", True, "mean IoU of the protected classes", 0),
        ("unseg", True, "mean IoU", 90),
        ("unseg-things", False, "mean IoU", 90),  # as tasks that have no score of the protected
    ],
)
def test_class_wise_protection_is_judged_by_the_protected_classes_too(tmp_path, recipe, scored, heading, left):
    """Over all classes nothing is lost (90 of 100), of those that were protected everything."""
    rows, street = [], {"task": "semantic", "dataset": "camvid"}
    for name, whole, some in (("clean", 100, 50), (recipe, 90, 0)):
        for way in ({}, {"defense": "coin", "label": "coin"}):
            rows += rows_of(name, whole, metric="miou", **street, **way)
            rows += rows_of(name, some, metric="iou_protected", **street, **way) if scored else []
    ((key, grid),) = defence_grids(made(tmp_path, rows)).items()
    assert key == ("camvid", heading, "unet")
    assert grid[recipe]["coin"] == left and grid["clean"]["coin"] == 100


def test_a_background_is_left_out_where_one_is_scored(tmp_path):
    """The mean of 3 classes keeps half, because the background is found everywhere; the objects are gone."""
    rows = []
    for recipe, values in {"clean": (90, 60, 30), "unseg": (90, 0, 0)}.items():
        for way in ({}, {"defense": "coin", "label": "coin"}):
            named = {"task": "semantic", "dataset": "voc"} | way
            rows += rows_of(recipe, sum(values) / 3, metric="miou", **named)
            for name, value in zip(("background", "cat", "dog"), values):
                rows += rows_of(recipe, value, metric=f"iou:{name}", **named)
    found = made(tmp_path, rows)
    ((key, grid),) = defence_grids(found).items()
    assert key[1] == "mean IoU without the background" and grid["unseg"]["coin"] == 0
    own = scores(found).query("metric == 'iou_foreground' and defense == 'none'").set_index("recipe")
    assert own["mean"].to_dict() == {"clean": 45, "unseg": 0} and own.peak["clean"] == 45
    assert own.of_clean["unseg"] == 0 and set(scores(found).query("headline").metric) == {"iou_foreground"}


def test_recipes_stand_clean_first_and_the_method_last_and_no_defence_first(tmp_path):
    rows = [row for name in ("unseg", "synper", "clean") for row in rows_of(name, 50) + rows_of(name, 50, **JPEG)]
    rows += rows_of("unseg", 50, defense="coin", label="coin")
    ((_, grid),) = defence_grids(made(tmp_path, rows)).items()
    assert list(grid) == ["clean", "synper", "unseg"] and list(grid.index) == ["none", "coin", "jpeg quality=10"]


def test_what_is_left_of_a_noise_by_hand():
    clean = np.full((1, 2, 2, 3), 100, np.uint8)
    noisy = clean + np.uint8(8)
    assert noise_left((clean, noisy), (clean, clean + np.uint8(2))) == pytest.approx(0.25)
    assert noise_left((clean, clean), (clean, noisy)) == 0
    assert cost(clean, clean) == float("inf") and cost(clean, noisy) == pytest.approx(20 * np.log10(255 / 8))


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> partial:
    """Runs a notebook on few images and the made-up rows."""
    root = tmp_path_factory.mktemp("scenes")
    write_scenes(root / "data", 48, {"train": 6, "test": 2})
    return partial(run, root, limit=6, results=str(write_results(root / "found", FOUND)))


@pytest.mark.notebook
def test_05_shows_what_defences_do(small, weights):
    out, metrics = small("05", "defenses", size=[48, 48], generator=weights)
    assert metrics["effects"]["none"] == {"unseg": 1, "fixed_tile": 1, "colour_offset": 1, "psnr": None}
    assert metrics["effects"]["jpeg quality=10"]["fixed_tile"] < 0.5 and len(metrics["trained"]) == 1
    executed = (out / "run.ipynb").read_text()
    assert "not run" in executed and "59.7 %" in executed  # the paper's Table 4: JPEG leaves 44.8 of 75.1


@pytest.mark.notebook
def test_08_shows_what_a_mixture_is_and_the_papers(small, weights):
    _, metrics = small("08", "mixture", generator=weights)
    mixtures = metrics["mixtures"]["lung · IoU of the object · unet"]  # beside the same clean images alone
    assert mixtures == {"clean": {"20.0": 60, "100.0": 80}, "unseg": {"0.0": 8, "20.0": 58}}
    assert metrics["paper_gain"]["Table 8, voc, deeplabv1-wideresnet38"]["20.0"] == pytest.approx(66.6 - 69.0)
