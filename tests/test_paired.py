"""Differences seed by seed: a hand-computed interval, and what must not be claimed."""

import pandas as pd
import pytest
from made_results import made, rows_of

from unseg_lib.reporting import against_strongest, differences, paired, verdicts

STRONG = ("colour_offset", "colour_grating")


def finals(*values: float, first: int = 0) -> pd.Series:
    return pd.Series(values, range(first, first + len(values)))


def test_the_interval_by_hand():
    """Differences -1, -2, -3: mean -2, deviation 1, and t with two degrees of freedom is 4.3027 at 97.5 %."""
    found = paired(finals(9, 18, 27), finals(10, 20, 30))
    assert (found["difference"], found["n"]) == (-2, 3)
    assert (found["low"], found["high"]) == pytest.approx((-2 - 4.30265 / 3**0.5, -2 + 4.30265 / 3**0.5), abs=1e-4)
    assert found["word"] == "no difference shown"


def test_what_the_seeds_share_cancels():
    """Scores that differ much from seed to seed, and by nearly the same amount from one another."""
    found = paired(finals(10, 50, 90), finals(15, 54.9, 95.1))
    assert -5.3 < found["low"] < found["high"] < -4.7 and found["word"] == "better"


def test_only_common_seeds_count_and_two_are_too_few():
    found = paired(finals(1, 2, 3), finals(5, 5, first=1))
    assert (found["n"], found["difference"], found["word"]) == (2, -2.5, "too few seeds")
    none = paired(finals(1), finals(5, first=1))
    assert none["n"] == 0 and pd.isna(none["difference"]) and none["word"] == "too few seeds"


def test_a_claim_holds_or_not_or_nobody_ran_it():
    ran, nan = [("ten", 10.0, "<", 10), ("nine", 9.9, "<", 10), ("much", 94.0, ">", 93)], float("nan")
    found = verdicts([*ran, ("a", nan, "<", 10), ("b", None, ">", 93), ("c", 50.0, "<", nan)]).frame
    assert found.verdict.tolist() == ["does not hold", "holds", "holds", *["not run"] * 3]
    assert found.limit.tolist()[:3] == ["< 10", "< 10", "> 93"]


def test_the_table_says_who_protects_better(tmp_path):
    found = {"clean": (90, 91, 92), "grating": (40, 41, 42.5), "random": (90, 91.5, 91.5), "synper": (90, 90)}
    found |= {"colour-offset": (1, 1, 1.5), "unseg": (20, 21, 22)}
    one = differences(made(tmp_path, [row for name, values in found.items() for row in rows_of(name, *values)]))
    words = dict(zip(one.other, one.word))
    assert set(one.ours) == {"unseg"} and (words["grating"], words["colour-offset"]) == ("better", "worse")
    assert words["clean"] == words["random"] == "better" and words["synper"] == "too few seeds"
    assert one.set_index("other").share["grating"] == pytest.approx(100 * 21 / 91)


def test_class_wise_protection_is_judged_by_the_protected_classes(tmp_path):
    """Over all classes the two are alike; on the protected ones UnSeg is far better. Other modes are no rivals."""
    street, rows = {"dataset": "camvid", "task": "semantic"}, []
    scored = {"random": (35, 12), "random-things": (35, 12), "unseg-things": (35, 3), "unseg": (20, 9)}
    for recipe, (whole, some) in scored.items():
        for metric, value in (("miou", whole), ("iou_protected", some)):
            rows += rows_of(recipe, value, value + 1, value, metric=metric, **street)
    one = differences(made(tmp_path, rows))
    assert sorted(zip(one.ours, one.other)) == [("unseg", "random"), ("unseg-things", "random-things")]
    things = one[one.ours == "unseg-things"].iloc[0]
    assert "protected classes" in things.block and things.word == "better"


@pytest.mark.parametrize(
    ("unseg", "grating", "verdict"),
    [
        ((19, 45, 53), "colour-grating", "does not hold"),  # lower on average, not seed by seed
        ((10, 29, 50), "colour-grating", "holds"),
        ((10, 29, 50), "", "open"),  # a strong control is missing
    ],
)
def test_a_difference_within_the_noise_of_seeds_is_no_victory(tmp_path, unseg, grating, verdict):
    found = {"clean": (90, 90, 90), "random": (90, 90, 90), "colour-offset": (20, 40, 60), "unseg": unseg}
    found |= {grating: (80, 80, 80)} if grating else {}
    rows = [row for name, values in found.items() for row in rows_of(name, *values)]
    (one,) = against_strongest(made(tmp_path, rows), STRONG).itertuples()
    assert (one.other, one.verdict) == ("colour-offset", verdict)
