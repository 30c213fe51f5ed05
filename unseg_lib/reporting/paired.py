"""Two recipes compared seed by seed: what the seeds share (weights, order, test pictures) cancels in the difference."""

from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from unseg_lib.reporting.html import Table
from unseg_lib.reporting.scores import Experiment, Score, main_metric
from unseg_lib.reporting.tables import find, recipes_of, signed, title_of

CONFIDENCE = 0.95
ENOUGH = 3  # seeds below which an interval says nothing: for two, Student's t is 12.7 standard errors wide


@dataclass(frozen=True)
class Difference:
    """One recipe's final score minus another's, in points, with Student's t interval from `low` to `high`.

    seeds: those that both ran. low and high are None where they are fewer than `ENOUGH`.
    """

    mean: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]

    def __str__(self) -> str:
        if self.low is None:
            return f"{signed(self.mean)} points, {len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}, no interval"
        return f"{signed(self.mean)} points [{signed(self.low)}, {signed(self.high)}], {len(self.seeds)} seeds"


def paired(one: Score, other: Score) -> Difference | None:
    """`one` minus `other` over the seeds that both ran; None without a common seed."""
    from scipy.stats import t

    mine, theirs = ({run["seed"]: run["final"] for run in score.runs} for score in (one, other))
    seeds = tuple(sorted(set(mine) & set(theirs)))
    if not seeds:
        return None
    differences = [mine[seed] - theirs[seed] for seed in seeds]
    mean, low, high = fmean(differences), None, None
    if len(seeds) >= ENOUGH:
        half = float(t.ppf((1 + CONFIDENCE) / 2, len(seeds) - 1)) * stdev(differences) / sqrt(len(seeds))
        low, high = mean - half, mean + half
    return Difference(mean, low, high, seeds)


def paired_table(experiments: list[Experiment], scores: list[Score]) -> Table:
    """Each of UnSeg's recipes minus every other recipe of its block, where both ran under enough seeds."""
    rows: list[tuple] = []
    for experiment in experiments:
        metric = main_metric(experiment)
        names = recipes_of(experiment, scores)
        found = {name: score for name in names if (score := find(scores, experiment, name, metric))}
        ours = [name for name in found if name.startswith("unseg")]
        pairs = [(own, other) for own in ours for other in found if other not in ours]
        lines = [_line(own, other, paired(found[own], found[other])) for own, other in pairs]
        lines = [line for line in lines if line]
        rows += [(title_of(experiment, metric),), *lines] if lines else []
    columns = ("difference", "points", f"{CONFIDENCE:.0%} interval", "seeds", "UnSeg protects")
    return Table(columns, tuple(rows), "lrrrl")


def _line(own: str, other: str, difference: Difference | None) -> tuple | None:
    if difference is None or difference.low is None:
        return None
    words = "better" if difference.high < 0 else "worse" if difference.low > 0 else "no difference shown"
    interval = f"{signed(difference.low)} to {signed(difference.high)}"
    return f"{own} − {other}", signed(difference.mean), interval, str(len(difference.seeds)), words
