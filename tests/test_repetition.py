"""Two runs of one profile: which numbers agree within their error bars, and what cannot be said."""

import pytest
from made_results import made, rows_of, write_results

from unseg_lib.errors import UnsegError
from unseg_lib.reporting import repeated, repetition, repetition_table


def all_of(run: dict[str, tuple]) -> list[dict]:
    return [row for recipe, values in run.items() for row in rows_of(recipe, *values)]


@pytest.fixture
def pairs(tmp_path):
    """`pairs(first, second)`: the pairs of two runs, each {recipe: finals of its seeds}."""

    def compare(first: dict, second: dict):
        return repeated(made(tmp_path / "first", all_of(first)), made(tmp_path / "second", all_of(second)))

    return compare


def test_the_bar_is_students_interval_of_two_means(pairs):
    # by hand: spread sqrt((2 * 1 + 2 * 4) / 4) = 1.5811, t of 4 degrees 2.7764, times sqrt(1/3 + 1/3)
    (pair,) = pairs({"unseg": (1, 2, 3)}, {"unseg": (3, 5, 7)}).itertuples()
    assert pair.difference == pytest.approx(3.0) and pair.bar == pytest.approx(2.7764 * 1.58114 * 0.81650, rel=1e-4)
    assert pair.word == "same"
    (pair,) = pairs({"unseg": (1, 2, 3)}, {"unseg": (5, 6, 7)}).itertuples()
    assert pair.word == "outside" and pair.difference == pytest.approx(4.0)


def test_equal_runs_agree_and_one_seed_says_nothing(pairs):
    run = {"clean": (90, 90, 90), "unseg": (2.0,)}
    found = pairs(run, run).set_index("recipe")
    assert (found.word["clean"], found.bar["clean"]) == ("same", 0) and found.word["unseg"] == "one seed: no error bar"
    counts = repetition(found, 5)
    assert counts["scores of the first run"] == 5 and counts["repeated"] == 2
    assert counts["with an error bar"] == counts["the same within it"] == 1 and counts["largest difference"] == 0


def test_of_single_seeds_it_says_how_far_they_moved(pairs):
    # by hand: they moved by 1, 2, ... 10 points; five of ten by at most 5, nine by at most 9
    first = {f"poison{i}": (50,) for i in range(1, 11)}
    second = {f"poison{i}": (50 + i * (-1) ** i,) for i in range(1, 11)}
    counts = repetition(pairs(first, second), 10)
    moved = ["half of them moved by at most", "nine of ten by at most", "largest difference"]
    assert [counts[name] for name in moved] == [5, 9, 10]


def test_where_some_lie_outside_it_says_what_chance_would_do(pairs):
    first = {f"poison{i}": (90, 91) for i in range(10)}
    counts = repetition(pairs(first, first | {"poison0": (50, 51)}), 10)
    assert counts["the same within it"] == 9 and counts["outside by chance alone"] == pytest.approx(0.5)


def test_scores_of_one_experiment_stand_together(tmp_path):
    one = made(tmp_path, rows_of("clean", 90) + rows_of("clean", 40, dataset="voc") + rows_of("unseg", 2))
    pairs = repeated(one, one)
    assert list(zip(pairs.setting, pairs.recipe)) == [("lung", "clean"), ("lung", "unseg"), ("voc", "clean")]


def test_what_only_one_run_has_is_no_pair(pairs):
    with pytest.raises(UnsegError, match=r"Expected scores in .* that .* has, too, found none"):
        pairs({"clean": (90,)}, {"unseg": (2,)})
    line = repetition_table(pairs({"clean": (90, 91)}, {"clean": (80, 81), "unseg": (2,)})).frame.iloc[0]
    assert list(line[1:]) == ["clean", "90.5 ± 0.7 (2)", "80.5 ± 0.7 (2)", -10, 3.0, "outside"]


def test_the_command_says_it_and_its_exit_code_too(tmp_path, unseg):
    def folder(name: str, **run: tuple) -> str:
        return str(write_results(tmp_path / name, all_of(run)))

    first, near = folder("first", clean=(90, 91), unseg=(2, 3)), folder("near", clean=(90.5, 91.5))
    code, said, _ = unseg("compare", first, near)
    assert code == 0 and "scores of the first run: 2\nrepeated: 1\n" in said
    assert "| lung · IoU of the object · unet | clean | 90.5 ± 0.7 (2) |" in said
    code, said, _ = unseg("compare", first, folder("far", clean=(50, 51)))
    assert code == 1 and "the same within it: 0" in said
