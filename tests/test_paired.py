"""Differences seed by seed: a hand-computed interval, and what must not be claimed."""

from dataclasses import replace

import pytest

from unseg_lib.reporting import Experiment, Score, paired_table, verdicts
from unseg_lib.reporting.paired import paired

LUNG = Experiment("lung", "unet", "object", "lung", "unet-resnet18", "random", "none", 0.0)


def score(poison: str, *finals: float, first: int = 0) -> Score:
    runs = tuple({"seed": first + i, "final": final, "peak": final} for i, final in enumerate(finals))
    return Score(LUNG, poison, "iou_object", runs)


def test_the_interval_by_hand():
    """Differences -1, -2, -3: mean -2, deviation 1, and t with two degrees of freedom is 4.3027 at 97.5 %."""
    found = paired(score("unseg", 9, 18, 27), score("grating", 10, 20, 30))
    assert (found.mean, found.seeds) == (-2, (0, 1, 2))
    assert found.low == pytest.approx(-2 - 4.30265 / 3**0.5, abs=1e-4)
    assert found.high == pytest.approx(-2 + 4.30265 / 3**0.5, abs=1e-4)
    assert str(found) == "−2.0 points [−4.5, +0.5], 3 seeds"


def test_what_the_seeds_share_cancels():
    """Scores that differ much from seed to seed, and by nearly the same amount from one another."""
    found = paired(score("unseg", 10, 50, 90), score("grating", 15, 54.9, 95.1))
    assert -5.3 < found.low < found.high < -4.7


def test_only_common_seeds_count_and_two_are_too_few():
    found = paired(score("unseg", 1, 2, 3), score("grating", 5, 5, first=1))
    assert (found.seeds, found.mean, found.low) == ((1, 2), -2.5, None)
    assert str(found) == "−2.5 points, 2 seeds, no interval"
    assert paired(score("unseg", 1), score("grating", 5, first=1)) is None


def test_the_table_says_who_protects_better():
    scores = [
        score("clean", 90, 91, 92),
        score("grating", 40, 41, 42.5),
        score("random", 90, 91.5, 91.5),
        score("colour-offset", 1, 1, 1.5),
        score("unseg", 20, 21, 22),
        score("unseg-gray", 89, 91, 93),
        score("fixed-tile-gray", 90, 91.5, 91.5),
        score("synper", 90, 90),
    ]
    heading, *rows = paired_table([LUNG], scores).rows
    assert "lung" in heading[0]
    found = {row[0]: row[-1] for row in rows}
    assert found["unseg − grating"] == "better" and found["unseg − colour-offset"] == "worse"
    assert found["unseg-gray − fixed-tile-gray"] == "no difference shown"
    assert "unseg − synper" not in found and "unseg-gray − unseg" not in found
    assert "unseg-gray − clean" in found and "unseg-gray − random" not in found  # coloured noise is no rival of gray


def test_class_wise_protection_is_judged_by_the_protected_classes():
    """Over all classes the two are alike; on the protected ones UnSeg is far better."""
    street = replace(LUNG, setting="camvid", task="semantic")
    finals = {
        ("random-things", "miou"): (35, 35, 35),
        ("unseg-things", "miou"): (35, 36, 34),
        ("random-things", "iou_protected"): (12, 13, 12),
        ("unseg-things", "iou_protected"): (3, 4, 3.5),
    }
    scores = [Score(street, poison, metric, score(poison, *values).runs) for (poison, metric), values in finals.items()]
    heading, row = paired_table([street], scores).rows
    assert "protected classes" in heading[0]
    assert (row[0], row[-1]) == ("unseg-things − random-things", "better")


def test_a_difference_within_the_noise_of_seeds_is_no_victory():
    scores = [score("clean", 90, 90, 90), score("random", 90, 90, 90), score("grating", 20, 40, 60)]
    scores.append(score("colour-offset", 80, 80, 80))
    last = verdicts([*scores, score("unseg", 19, 45, 53)])[-1]  # lower on average, not seed by seed
    assert "better than every control" in last.text and last.holds is False and "no" not in last.found
    assert verdicts([*scores, score("unseg", 10, 29, 50)])[-1].holds is True
    assert verdicts([*scores[:-1], score("unseg", 10, 29, 50)])[-1].holds is None  # a strong control is missing
