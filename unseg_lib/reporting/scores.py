"""From rows.csv to scores: the same experiment under several seeds is one score with mean and deviation."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv

NUMBERS = {"eps": float, "eps_bg": float, "clean_fraction": float, "seed": int, "final": float, "peak": float}
NUMBERS |= {"epochs": int, "minutes": float}
MAIN_METRIC = {
    "semantic": "miou",
    "object": "iou_object",
    "instance": "AP",
    "detection": "AP",
    "panoptic": "PQ",
    "interactive": "miou_pictures",
}
# ends of recipes' names: written as gray files, and class-wise protection with the metric it is judged by
MODES = {"": (), "-gray": (), "-things": ("iou_protected",)}


@dataclass(frozen=True)
class Experiment:
    """What is compared within one block of a table: one data set (as the profile names it), one way to train.

    setting: "lung" or "camvid-things", the beginning of its runs' names; way: their end, "unet" or "unet-jpeg".
    """

    setting: str
    way: str
    task: str
    dataset: str
    victim: str
    init: str
    defense: str
    clean_fraction: float

    @property
    def plain(self) -> bool:
        """Trained as usual: no defence, and no clean images among the protected ones."""
        return self.defense == "none" and not self.clean_fraction


@dataclass(frozen=True)
class Score:
    """One recipe's result in one metric: final and peak in percent, one entry per seed, in the order of the seeds."""

    experiment: Experiment
    poison: str
    metric: str
    runs: tuple[dict, ...]

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run["seed"] for run in self.runs)

    @property
    def mean(self) -> float:
        return fmean(run["final"] for run in self.runs)

    @property
    def std(self) -> float | None:
        """Sample standard deviation over seeds; None for a single one."""
        return stdev(run["final"] for run in self.runs) if len(self.runs) > 1 else None

    @property
    def peak(self) -> float:
        return fmean(run["peak"] for run in self.runs)


def read_rows(results: str | Path) -> list[dict]:
    """Read results/<profile>/rows.csv, numbers as numbers."""
    path = Path(results) / "rows.csv"
    if not path.is_file():
        raise UnsegError(f"Expected rows in {path}, found no such file; run `unseg reproduce` first.")
    try:
        rows = [row | {name: kind(row[name]) for name, kind in NUMBERS.items()} for row in read_csv(path)]
    except (KeyError, TypeError, ValueError) as error:
        raise UnsegError(f"Expected the columns of the kit in {path}, found a damaged file ({error!r}).") from error
    if not rows:
        raise UnsegError(f"Expected rows in {path}, found only the header; run `unseg reproduce` first.")
    return rows


def name_of(row: dict) -> str:
    """The name of the run that a row is of, wherever its folder lies."""
    return row["notebook"].split("/")[-2]


def experiment_of(row: dict, name: str = "") -> Experiment:
    """The experiment a row belongs to. Its run's name is SETTING-POISON-WAY-sSEED, see the profile."""
    name = name or name_of(row)
    body = name.removesuffix(f"-s{row['seed']}")
    setting, found, way = body.partition(f"-{row['poison']}-")
    if not found:  # a run that was named by hand
        setting, way = row["dataset"], row["victim"]
    fields = ("task", "dataset", "victim", "init", "defense")
    return Experiment(setting, way, *(row[field] for field in fields), float(row["clean_fraction"]))


def plain_only(scores: list[Score], plan: list[dict] = ()) -> tuple[list[Score], list[dict]]:
    """Scores and planned runs of victims trained as usual; defences and mixtures have tables of their own."""
    return [s for s in scores if s.experiment.plain], [run for run in plan if run["experiment"].plain]


def scores_of(rows: list[dict]) -> list[Score]:
    """Group rows over seeds, in the order in which they stand in rows.csv."""
    found: dict[tuple, list[dict]] = {}
    for row in rows:
        found.setdefault((experiment_of(row), row["poison"], row["metric"]), []).append(row)
    return [Score(*key, tuple(sorted(runs, key=lambda run: run["seed"]))) for key, runs in found.items()]


def metrics_of(experiment: Experiment, scores: list[Score]) -> tuple[str, ...]:
    """The metrics an experiment is judged by: its main one, then the protected classes' where there are some."""
    there = {score.metric for score in scores if score.experiment == experiment}
    main = main_metric(experiment)
    return (main, "iou_protected") if "iou_protected" in there else (main,)


def main_metric(experiment: Experiment) -> str:
    """The metric its field judges a task by."""
    return MAIN_METRIC[experiment.task]


def mode_of(recipe: str) -> str:
    """The key of `MODES` for a recipe: only recipes of one mode are rivals."""
    return next((mode for mode in MODES if mode and recipe.endswith(mode)), "")


def judged_by(recipe: str, experiment: Experiment) -> str:
    """The metric that a recipe is compared with its rivals in."""
    return next(iter(MODES[mode_of(recipe)]), main_metric(experiment))


def clean_of(score: Score, scores: list[Score]) -> Score | None:
    """The clean-trained score to compare with: of the same experiment, of a defended or mixed one the plain victim's.

    So "of clean" is of the undefended clean score everywhere, whatever seeds ran with the defence on clean images.
    """
    own = score.experiment
    wanted = ("clean", score.metric, own.setting, own.victim, own.init)

    def fits(other: Score) -> bool:
        theirs = other.experiment
        return theirs.plain and (other.poison, other.metric, theirs.setting, theirs.victim, theirs.init) == wanted

    plain = [other for other in scores if fits(other)]
    return next((other for other in plain if other.experiment == own), plain[0] if plain else None)


def on_seeds(score: Score, seeds: Iterable[int]) -> Score | None:
    """The score over these of its seeds; None where it ran none of them."""
    seeds = set(seeds)
    runs = tuple(run for run in score.runs if run["seed"] in seeds)
    return replace(score, runs=runs) if runs else None


def on_common_seeds(one: Score, other: Score) -> tuple[Score, Score]:
    """Both over the seeds that both ran, as one lucky seed more on one side is no effect; as they are if none is."""
    common = set(one.seeds) & set(other.seeds)
    return (on_seeds(one, common), on_seeds(other, common)) if common else (one, other)


def percent_of_clean(score: Score, scores: list[Score]) -> tuple[float, float] | None:
    """(mean, std) in percent of the clean-trained mean, over the seeds that both ran; None if no clean run learnt."""
    clean = clean_of(score, scores)
    if clean is None:
        return None
    score, clean = on_common_seeds(score, clean)
    if clean.mean <= 0:
        return None
    return 100 * score.mean / clean.mean, 100 * (score.std or 0.0) / clean.mean


def in_percent_of(clean: Score, score: Score) -> Score | None:
    """Each seed's final score in percent of the same seed's in `clean`; None without a common seed that learnt."""
    full = {run["seed"]: run["final"] for run in clean.runs if run["final"] > 0}
    runs = [run | {"final": 100 * run["final"] / full[run["seed"]]} for run in score.runs if run["seed"] in full]
    return replace(score, runs=tuple(runs)) if runs else None


def planned(results: str | Path) -> list[dict]:
    """Every victim run that the profile of this folder plans: {name, experiment, poison, seed, state}.

    state: "done", "failed" or "not run". Empty where the folder belongs to no profile.
    """
    from unseg_lib.pipeline import BY_TASK, profile_of

    results = Path(results).resolve()
    own = {notebook: task for task, notebook in BY_TASK.items()}  # one of a single task has no parameter for it
    profile, runs = profile_of(results), []
    for stage in profile.stages.values() if profile else ():
        if stage.kind == "victim":
            folder = results / stage.seen_from(profile.results)
            values = {"task": own.get(stage.notebook.name)} | stage.values
            done = (folder / "metrics.json").exists() and (folder / "run.ipynb").exists()
            state = "done" if done else "failed" if (folder / "failed.ipynb").exists() else "not run"
            plan = {"name": stage.name, "poison": values["poison"], "seed": values["seed"], "state": state}
            runs.append(plan | {"experiment": experiment_of(values, stage.name)})
    return runs
