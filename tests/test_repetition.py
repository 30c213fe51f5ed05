"""Two runs of one profile: which numbers agree within their error bars, and what cannot be said."""

import pytest
from test_systems import score
from typer.testing import CliRunner

from unseg_lib.cli import app
from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import write_csv
from unseg_lib.reporting import Score, compare, repeated, repetition_table
from unseg_lib.reporting.repetition import summary


def seeds(poison: str, *finals: float) -> Score:
    one = score("object", "lung", "unet-resnet18", "iou_object", poison, 0.0)
    runs = tuple(one.runs[0] | {"seed": seed, "final": final} for seed, final in enumerate(finals))
    return Score(one.experiment, poison, one.metric, runs)


def test_the_bar_is_students_interval_of_two_means():
    # by hand: spread sqrt((2 * 1 + 2 * 4) / 4) = 1.5811, t of 4 degrees 2.7764, times sqrt(1/3 + 1/3)
    (pair,) = repeated([seeds("unseg", 1, 2, 3)], [seeds("unseg", 3, 5, 7)])
    assert pair.difference == pytest.approx(3.0) and pair.bar == pytest.approx(2.7764 * 1.58114 * 0.81650, rel=1e-4)
    assert pair.same is True
    (pair,) = repeated([seeds("unseg", 1, 2, 3)], [seeds("unseg", 5, 6, 7)])
    assert pair.same is False and pair.difference == pytest.approx(4.0)


def test_equal_runs_agree_and_one_seed_says_nothing():
    same = [seeds("clean", 90, 90, 90), seeds("unseg", 2.0)]
    clean, unseg = repeated(same, same)
    assert clean.same is True and clean.bar == 0 and unseg.same is None
    assert summary([clean, unseg], 5) == (
        "2 of 5 scores were repeated: 1 of 1 agree within their error bars; one seed and no bar: 1, "
        "half of them within 0.0 points, nine of ten within 0.0; the largest difference is 0.0 points."
    )


def test_of_single_seeds_the_sentence_says_how_far_they_moved():
    # by hand: they moved by 1, 2, ... 10 points; five of ten by at most 5, nine by at most 9
    first = [seeds(f"poison{i}", 50) for i in range(1, 11)]
    second = [seeds(f"poison{i}", 50 + i * (-1) ** i) for i in range(1, 11)]
    assert summary(repeated(first, second), 10) == (
        "10 of 10 scores were repeated: 0 of 0 agree within their error bars; one seed and no bar: 10, "
        "half of them within 5.0 points, nine of ten within 9.0; the largest difference is 10.0 points."
    )


def test_where_some_lie_outside_the_sentence_says_what_chance_would_do():
    first = [seeds(f"poison{i}", 90, 91) for i in range(10)]
    second = [seeds("poison0", 50, 51), *first[1:]]
    assert summary(repeated(first, second), 10) == (
        "10 of 10 scores were repeated: 9 of 10 agree within their error bars (chance alone would put 0.5 outside); "
        "the largest difference is 40.0 points."
    )


def test_scores_of_one_experiment_stand_together():
    def at(dataset: str, poison: str) -> Score:
        one = score("object", dataset, "unet-resnet18", "iou_object", poison, 0.0)
        return Score(one.experiment, poison, one.metric, one.runs)

    both = [at("lung", "clean"), at("voc", "clean"), at("lung", "unseg")]
    pairs = repeated(both, both)
    assert [(pair.first.experiment.dataset, pair.first.poison) for pair in pairs] == [
        ("lung", "clean"),
        ("lung", "unseg"),
        ("voc", "clean"),
    ]
    assert sum(len(row) == 1 for row in repetition_table(pairs).rows) == 2  # headings


def test_what_only_one_run_has_is_no_pair():
    assert repeated([seeds("clean", 90)], [seeds("unseg", 2)]) == []
    table = repetition_table(repeated([seeds("clean", 90, 91)], [seeds("clean", 80, 81), seeds("unseg", 2)]))
    _, line = table.rows
    assert [str(cell) for cell in line] == ["clean", "90.5 ± 0.7 (2)", "80.5 ± 0.7 (2)", "−10.0", "± 3.0", "outside"]


def test_the_command_says_it_and_its_exit_code_too(tmp_path):
    def folder(name: str, **finals: list[float]):
        rows = []
        for poison, values in finals.items():
            for seed, final in enumerate(values):
                run = dict(task="object", dataset="lung", victim="unet-resnet18", init="random", poison=poison)
                run |= dict(eps=8, eps_bg=2, defense="none", clean_fraction=0, seed=seed, metric="iou_object")
                run |= dict(final=final, peak=final, epochs=1, minutes=1, device="cpu", commit="0")
                rows.append(run | {"notebook": f"victim/lung-{poison}-unet-s{seed}/run.ipynb"})
        write_csv(tmp_path / name / "rows.csv", rows, list(COLUMNS))
        return str(tmp_path / name)

    first, near = folder("first", clean=[90, 91], unseg=[2, 3]), folder("near", clean=[90.5, 91.5])
    found = CliRunner().invoke(app, ["compare", first, near])
    assert found.exit_code == 0 and "1 of 2 scores were repeated: 1 of 1 agree" in found.output
    assert "**lung · IoU of the object · victim unet-resnet18**" in found.output
    found = CliRunner().invoke(app, ["compare", first, folder("far", clean=[50, 51])])
    assert found.exit_code == 1 and "0 of 1 agree" in found.output
    with pytest.raises(UnsegError, match=r"Expected scores in .* that .* has, too, found none"):
        compare(first, folder("other", grating=[50, 51]))
