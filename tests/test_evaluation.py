"""Scores against hand-computed ones; metrics by name; rows against the columns that tables are made from."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unseg_lib import UnsegError
from unseg_lib.evaluation import COLUMNS, METRICS, Metric, confusion, curves, main_metric, mean_iou, victim_rows
from unseg_lib.evaluation import intersection_over_union as iou_of

RUN = {
    **{"task": "semantic", "dataset": "toy", "victim": "unet-resnet18", "init": "random", "recipe": "clean"},
    **{"eps": 0.0, "eps_bg": 0.0, "defense": "none", "clean_fraction": 0.0, "seed": 0},
}


def result(iou: list[list[float | None]], classes=("background", "car", "tree")) -> dict:
    epochs = [{"epoch": i, "loss": 1.0, "miou": mean_iou(values), "iou": values} for i, values in enumerate(iou, 1)]
    return {"classes": list(classes), "epochs": epochs, "minutes": 0.123456, "device": "cpu"}


@pytest.mark.parametrize(
    ("label", "prediction", "matrix", "iou", "mean"),
    [
        ([[0, 0, 1], [1, 2, 255]], [[0, 1, 1], [1, 0, 2]], [[1, 1, 0], [0, 2, 0], [1, 0, 0]], [1 / 3, 2 / 3, 0], 1 / 3),
        # a class without test pixels has no score, but predicting it costs
        ([0, 0, 0, 1], [0, 0, 2, 1], [[2, 0, 1], [0, 1, 0], [0, 0, 0]], [2 / 3, 1, None], 5 / 6),
        ([255, 255], [0, 0], [[0] * 3] * 3, [None] * 3, 0),
    ],
)
def test_scores_by_hand(label, prediction, matrix, iou, mean):
    found = confusion(torch.tensor(prediction), torch.tensor(label, dtype=torch.uint8), 3)
    assert found.dtype == torch.long and found.tolist() == matrix
    assert iou_of(found) == pytest.approx(iou)
    assert mean_iou(iou_of(found)) == pytest.approx(mean)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 5))
def test_scores_equal_a_naive_loop(seed: int, classes: int):
    rng = torch.Generator().manual_seed(seed)
    label = torch.randint(0, classes, (2, 6, 7), generator=rng)
    label[torch.rand(label.shape, generator=rng) < 0.2] = 255
    prediction = torch.randint(0, classes, (2, 6, 7), generator=rng)
    pairs = [(t, p) for t, p in zip(label.flatten().tolist(), prediction.flatten().tolist()) if t != 255]
    for c, found in enumerate(iou_of(sum(confusion(prediction[i], label[i], classes) for i in range(2)))):
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


def test_scores_that_nothing_counts_for_are_left_out():
    history = {"epochs": [{"scores": {"AP": 0.25, "APl": None}}, {"scores": {"AP": 0.5, "APl": 0.5}}]}
    assert curves(history, "instance") == {"AP": [25, 50]}
    with pytest.raises(UnsegError, match="no protected classes with the scores AP, APl, found box"):
        curves(history, "instance", ("box",))


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


def test_every_task_has_a_main_metric_and_a_new_one_is_one_line(monkeypatch):
    tasks = ("semantic", "object", "instance", "detection", "panoptic", "interactive")
    assert [main_metric(task) for task in tasks] == ["miou", "iou_object", "AP", "AP", "PQ", "miou_pictures"]
    monkeypatch.setitem(METRICS, "depth", Metric("depth error", ("depth estimation",)))
    assert main_metric("depth estimation") == "depth"
    with pytest.raises(UnsegError, match="Unknown task 'depth'; Known: depth estimation, detection"):
        main_metric("depth")
