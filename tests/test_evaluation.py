"""Scores against hand-computed ones; rows against the columns that tables are made from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unseg_lib import UnsegError
from unseg_lib.evaluation import COLUMNS, confusion, intersection_over_union, mean_iou, victim_rows
from unseg_lib.files import read_csv, write_csv, write_json

RUN = {
    **{"task": "semantic", "dataset": "toy", "victim": "unet-resnet18", "init": "random", "recipe": "clean"},
    **{"eps": 0.0, "eps_bg": 0.0, "defense": "none", "clean_fraction": 0.0, "seed": 0},
}


def result(iou: list[list[float | None]], classes=("background", "car", "tree")) -> dict:
    epochs = [{"epoch": i, "loss": 1.0, "miou": mean_iou(values), "iou": values} for i, values in enumerate(iou, 1)]
    return {"classes": list(classes), "epochs": epochs, "minutes": 0.123456, "device": "cpu"}


def test_confusion_by_hand():
    label = torch.tensor([[0, 0, 1], [1, 2, 255]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1], [1, 0, 2]])
    matrix = confusion(prediction, label, 3)
    assert matrix.dtype == torch.long
    assert matrix.tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]
    iou = intersection_over_union(matrix)
    assert iou == pytest.approx([1 / 3, 2 / 3, 0])
    assert mean_iou(iou) == pytest.approx(1 / 3)


def test_a_class_without_test_pixels_has_no_score_but_predicting_it_costs():
    label, prediction = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 2, 1])
    iou = intersection_over_union(confusion(prediction, label, 3))
    assert iou[2] is None
    assert iou[:2] == pytest.approx([2 / 3, 1])
    assert mean_iou(iou) == pytest.approx(5 / 6)


def test_only_ignored_pixels():
    iou = intersection_over_union(confusion(torch.zeros(4), torch.full((4,), 255), 2))
    assert iou == [None, None]
    assert mean_iou(iou) == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_scores_equal_a_naive_loop(seed: int, classes: int):
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (2, 6, 7), generator=rng)
    label[torch.rand(label.shape, generator=rng) < 0.2] = 255
    prediction = torch.randint(0, classes, (2, 6, 7), generator=rng)
    pairs = [(t, p) for t, p in zip(label.flatten().tolist(), prediction.flatten().tolist()) if t != 255]
    matrix = sum(confusion(prediction[i], label[i], classes) for i in range(2))
    for c, found in enumerate(intersection_over_union(matrix)):
        both = sum(t == c and p == c for t, p in pairs)
        either = sum(t == c or p == c for t, p in pairs)
        assert found is None if not any(t == c for t, _ in pairs) else found == pytest.approx(both / either)


def test_one_row_for_every_metric():
    rows = victim_rows(RUN, result([[0.5, 0.75, None], [0.25, 1.0, None]]), protected=("car",))
    assert {row["metric"]: (row["final"], row["peak"]) for row in rows} == {
        "miou": (62.5, 62.5),
        "iou:background": (25, 50),
        "iou:car": (100, 100),
        "iou_protected": (100, 100),
    }
    filled_later = {"setting", "victim_key", "label", "precision", "commit", "stage"}
    assert all(set(row) | filled_later == set(COLUMNS) for row in rows)
    assert all(row["epochs"] == 2 and row["minutes"] == 0.12 and row["device"] == "cpu" for row in rows)


def test_object_task():
    rows = victim_rows(RUN | {"task": "object"}, result([[0.9, 0.5]], ("background", "object")))
    assert [row["final"] for row in rows if row["metric"] == "iou_object"] == [50]


@pytest.mark.parametrize(
    ("run", "protected", "words"),
    [
        (RUN | {"epsilon": 8}, (), "'epsilon'"),
        ({k: v for k, v in RUN.items() if k != "seed"}, (), "seed"),
        (RUN, ("cra",), "did you mean 'car'"),
        (RUN, ("tree",), "'tree'"),  # no test pixel is a tree
    ],
)
def test_rows_are_strict(run, protected, words):
    with pytest.raises(UnsegError, match=words):
        victim_rows(run, result([[0.5, 0.75, None]]), protected)


def test_rows_pass_the_collector(tmp_path):
    from unseg_lib.pipeline import Stage, collect

    names = {"setting": "camvid", "recipe": "clean", "victim_key": "unet", "label": "", "seed": 0}
    stage = Stage("victim", "toy", tmp_path / "none.ipynb", tmp_path, {}, names=names)
    write_json(stage.folder / "metrics.json", {"rows": victim_rows(RUN, result([[0.5, 0.75, None]]))})
    origin = {"commit": "c0ffee", "minutes": 1.0, "device": "cpu", "parameters": {}}
    write_json(stage.folder / "provenance.json", origin)
    rows = read_csv(collect(tmp_path, [stage]))
    assert [row["metric"] for row in rows] == ["iou:background", "iou:car", "miou"]
    write_csv(tmp_path / "again.csv", rows, list(COLUMNS))
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()
