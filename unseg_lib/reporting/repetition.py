"""The same profile run twice, on another day or machine: does the second run bear the first one's numbers out?

A number's error bar is the spread over seeds. Two means of a few seeds each agree where their difference lies within
Student's t interval around zero, the spread taken from both runs together.
"""

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.reporting.html import Link, Table
from unseg_lib.reporting.paired import CONFIDENCE
from unseg_lib.reporting.scores import Score, read_rows, scores_of
from unseg_lib.reporting.tables import blocks_of, mean_of, number, signed, title_of

WORDS = {True: "same", False: "outside", None: "one seed: no error bar"}


@dataclass(frozen=True)
class Repeated:
    """One score of both runs. bar: half of the interval in which their difference shows nothing; None for one seed."""

    first: Score
    second: Score
    difference: float  # second minus first, in points
    bar: float | None

    @property
    def same(self) -> bool | None:
        """Whether the runs agree; None where nothing can be said."""
        return None if self.bar is None else abs(self.difference) <= self.bar


def repeated(first: list[Score], second: list[Score]) -> list[Repeated]:
    """What both runs have, in the metrics that an experiment is judged by, in the order of the first.

    Scores of one experiment stand together, whatever lies between them there.
    """
    again = {(one.experiment, one.poison, one.metric): one for one in second}
    pairs = [(one, again.get((one.experiment, one.poison, one.metric))) for one in _judged(first)]
    return [Repeated(one, other, other.mean - one.mean, _bar(one, other)) for one, other in pairs if other]


def _judged(scores: list[Score]) -> list[Score]:
    return [one for block in blocks_of(scores) for one in scores if (one.experiment, one.metric) == block]


def _bar(one: Score, other: Score) -> float | None:
    """Half of Student's interval for the difference of two means with one common spread."""
    from scipy.stats import t

    sizes = len(one.runs), len(other.runs)
    if min(sizes) < 2:
        return None
    free = sum(sizes) - 2
    spread = sqrt(sum((size - 1) * score.std**2 for size, score in zip(sizes, (one, other))) / free)
    return float(t.ppf((1 + CONFIDENCE) / 2, free)) * spread * sqrt(sum(1 / size for size in sizes))


def summary(pairs: list[Repeated], planned: int) -> str:
    """One sentence: how many of the first run's scores were repeated, and how many agree.

    Error bars of 95 % leave one score of twenty outside where nothing differs; with one outside the sentence says it.
    Scores of one seed nothing judges; it says how far they moved: as much may be expected of the next one.
    """
    judged = [pair for pair in pairs if pair.same is not None]
    agree = sum(pair.same for pair in judged)
    alone = [abs(pair.difference) for pair in pairs if pair.same is None]
    text = f"{len(pairs)} of {planned} scores were repeated: {agree} of {len(judged)} agree within their error bars"
    if agree < len(judged):
        text += f" (chance alone would put {(1 - CONFIDENCE) * len(judged):.1f} outside)"
    if alone:
        half, most = np.quantile(alone, (0.5, 0.9), method="inverted_cdf")
        text += (
            f"; one seed and no bar: {len(alone)}, half of them within {half:.1f} points, nine of ten within {most:.1f}"
        )
    return text + (f"; the largest difference is {max(abs(p.difference) for p in pairs):.1f} points." if pairs else ".")


def repetition_table(pairs: list[Repeated], base: str = "", again: str = "") -> Table:
    """A line for each pair; `base` and `again` are put before the notebooks' paths of the first and the second run."""
    rows, heading = [], ""
    for pair in pairs:
        if (title := title_of(pair.first.experiment, pair.first.metric)) != heading:
            rows.append(((heading := title),))
        shown = [
            Link(f"{mean_of(score)} ({len(score.runs)})", place + score.runs[0]["notebook"])
            for score, place in ((pair.first, base), (pair.second, again))
        ]
        bar = "–" if pair.bar is None else f"± {number(pair.bar)}"
        rows.append((pair.first.poison, *shown, signed(pair.difference), bar, WORDS[pair.same]))
    return Table(("trained on", "first run", "second run", "difference", "error bar", ""), tuple(rows), "lrrrrl")


def second_of(results: str | Path) -> Path | None:
    """The second run that stands beside a folder of results, as results/small-again; None where there is none."""
    results = Path(results).resolve()
    second = results.with_name(f"{results.name}-again")
    return second if (second / "rows.csv").exists() else None


def compare(first: str | Path, second: str | Path) -> tuple[list[Repeated], str]:
    """The pairs of two folders of results, and the sentence about them; raises `UnsegError` where one has no rows."""
    scores = scores_of(read_rows(first))
    pairs = repeated(scores, scores_of(read_rows(second)))
    if not pairs:
        raise UnsegError(f"Expected scores in {second} that {first} has, too, found none; are both of one profile?")
    return pairs, summary(pairs, len(_judged(scores)))
