"""Two recipes compared seed by seed: what the seeds share (weights, order, test images) cancels in the difference."""

from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev

from unseg_lib.reporting.html import Table
from unseg_lib.reporting.scores import Experiment, Score, judged_by, metrics_of, mode_of
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
    """Each of UnSeg's recipes minus clean and its rivals, in the metric it is judged by, where seeds are enough."""
    rows: list[tuple] = []
    for experiment in experiments:
        for metric in metrics_of(experiment, scores):
            names = recipes_of(experiment, scores)
            found = {name: score for name in names if (score := find(scores, experiment, name, metric))}
            pairs = [(own, other) for own in found if judged_by(own, experiment) == metric for other in found]
            lines = [_line(own, other, paired(found[own], found[other])) for own, other in pairs if _rivals(own, other)]
            lines = [line for line in lines if line]
            rows += [(title_of(experiment, metric),), *lines] if lines else []
    columns = ("difference", "points", f"{CONFIDENCE:.0%} interval", "seeds", "UnSeg protects")
    return Table(columns, tuple(rows), "lrrrl")


def _rivals(own: str, other: str) -> bool:
    """Whether `own` is one of UnSeg's recipes and `other` what it is held against."""
    ours, theirs = own.startswith("unseg"), other.startswith("unseg")
    return ours and not theirs and (other == "clean" or mode_of(own) == mode_of(other))


def _line(own: str, other: str, difference: Difference | None) -> tuple | None:
    if difference is None or difference.low is None:
        return None
    words = "better" if difference.high < 0 else "worse" if difference.low > 0 else "no difference shown"
    interval = f"{signed(difference.low)} to {signed(difference.high)}"
    return f"{own} − {other}", signed(difference.mean), interval, str(len(difference.seeds)), words
