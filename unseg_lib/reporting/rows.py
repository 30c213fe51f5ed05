"""What the runs of a profile left behind, as tables: rows.csv (runs and metrics) and stages.jsonl.gz (runs).

A score is one experiment under several seeds, and comparisons are made seed by seed: two runs of one seed have the
first weights, the order of the images and the test images in common.
"""

import gzip
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import COLUMNS, METRICS, main_metric

NUMBERS = {"eps": float, "eps_bg": float, "clean_fraction": float, "seed": int, "final": float, "peak": float}
NUMBERS |= {"epochs": int, "minutes": float}
VICTIM = ["task", "dataset", "setting", "victim_key", "victim", "init"]  # one model on one data set
KEY = ["setting", "victim_key", "label"]  # what a profile calls a victim and the way to train it
WAY = ["label", "defense", "clean_fraction"]  # how it was trained
SCORE = [*VICTIM, *WAY, "recipe", "metric"]
RECORDS = ["parameters", "metrics", "speed", "provenance"]
STAGE = ["stage", "kind", "name", "setting", "recipe", "victim_key", "label", "seed", "state", *RECORDS]
LOOK = ["linf_inside", "linf_outside", "rms", "psnr", "ssim"]  # what a poison did to the files, in 1/255 and dB
PROTECTED, FOREGROUND = "iou_protected", "iou_foreground"
HEADINGS = {name: metric.words for name, metric in METRICS.items()}
CONFIDENCE = 0.95
ENOUGH = 3  # seeds below which an interval says nothing: for two, Student's t is 12.7 standard errors wide
HARMLESS = 93  # percent of the clean-trained score; noise that leaves more has no effect


@dataclass(frozen=True)
class Results:
    """The runs of one profile. `looks` says what was done to the files, by (setting, recipe): poison, generator,
    mode ("gray" files, full budget on some "classes" alone, or ""), images, and the columns of `LOOK`.
    """

    folder: Path
    rows: pd.DataFrame
    stages: pd.DataFrame
    looks: pd.DataFrame
    digest: str  # of both files: an executed page notes the one that it was made from

    @property
    def name(self) -> str:
        return self.folder.resolve().name


def load(results: str | Path) -> Results:
    """Read `results/rows.csv` and, where it is, `results/stages.jsonl.gz`; raises `UnsegError` without rows. Of a data
    set victims that start from ImageNet come first, then those that were run most; one with a background class gets
    rows of the metric `FOREGROUND`: the mean IoU of all other classes.
    """
    folder, path, file = Path(results), Path(results, "rows.csv"), Path(results, "stages.jsonl.gz")
    if not path.is_file():
        raise UnsegError(f"Expected rows in {path}, found no such file; run `unseg reproduce` first.")
    try:
        rows = pd.read_csv(path, usecols=COLUMNS, dtype=dict.fromkeys(COLUMNS, str) | NUMBERS, keep_default_na=False)
    except ValueError as error:
        raise UnsegError(f"Expected the columns of the kit in {path}, found a damaged file ({error}).") from error
    if rows.empty:
        raise UnsegError(f"Expected rows in {path}, found only the header; run `unseg reproduce` first.")
    lines = gzip.decompress(file.read_bytes()) if file.is_file() else b""
    stages = pd.read_json(io.BytesIO(lines), lines=True, dtype=False) if lines else pd.DataFrame()
    stages = stages.reindex(columns=STAGE).astype(dict.fromkeys(STAGE, object))
    stages[RECORDS] = stages[RECORDS].map(lambda value: value if isinstance(value, dict) else {})
    rows = pd.concat([rows, _foreground(rows, stages)])
    most, places = rows.groupby(VICTIM).stage.transform("size"), pd.factorize(rows.setting)[0]
    rows = rows.iloc[np.lexsort((rows.seed, -most, rows.init != "imagenet", places))].reset_index(drop=True)
    return Results(folder, rows, stages, _looks(stages), hashlib.sha256(path.read_bytes() + lines).hexdigest()[:12])


def waiting(results: Results) -> pd.DataFrame:
    """The planned victims without a result: the columns of `KEY`, recipe, seed, state, defense, clean_fraction."""
    own = results.stages[(results.stages.kind == "victim") & (results.stages.state != "done")]
    asked = {"defense": "none", "clean_fraction": 0.0}
    more = {name: [of.get(name, usual) for of in own.parameters] for name, usual in asked.items()}
    return own[[*KEY, "recipe", "seed", "state"]].assign(**more).astype({"seed": int})


def curves_of(stages: pd.DataFrame) -> pd.DataFrame:
    """Clean test score after every epoch, in percent: columns stage, metric, curve; empty where nobody noted them."""
    victims = stages[stages.kind == "victim"]
    found = [(one.stage, *line) for one in victims.itertuples() for line in one.metrics.get("curves", {}).items()]
    return pd.DataFrame(found, columns=["stage", "metric", "curve"])


def _foreground(rows: pd.DataFrame, stages: pd.DataFrame) -> pd.DataFrame:
    """Rows of `FOREGROUND`; their peak is known where the curves of the run are."""
    classes = rows[(rows.task == "semantic") & rows.metric.str.startswith("iou:")]
    scored = classes.stage[classes.metric == "iou:background"]
    classes = classes[classes.stage.isin(scored) & (classes.metric != "iou:background")]
    curves = classes[["stage", "metric"]].merge(curves_of(stages), on=["stage", "metric"]).groupby("stage").curve
    peaks = {stage: np.mean(own.tolist(), axis=0).max() for stage, own in curves}
    own, finals = classes.drop_duplicates("stage"), classes.groupby("stage").final.mean()
    own = own.assign(metric=FOREGROUND, final=own.stage.map(finals), peak=own.stage.map(peaks))
    return own.astype({"final": float, "peak": float}).round({"final": 3, "peak": 3})


def _looks(stages: pd.DataFrame) -> pd.DataFrame:
    """See `Results.looks`: of the copy that plain victims read, which settings may share; `shrunk` reads another."""
    poisons = {one["name"]: one for one in stages[stages.kind == "poison"].to_dict("records")}
    recipes, found = {one["recipe"]: one for one in poisons.values()}, {}
    for one in stages[stages.kind == "victim"].sort_values("label", ascending=False).to_dict("records"):  # plain last
        read = poisons.get(Path(one["parameters"].get("poisoned", "")).parent.name)
        if copy := read or recipes.get(one["recipe"]):
            own, seen = copy["parameters"], read["metrics"] if read and read["state"] == "done" else {}
            mode = "gray" if own.get("gray") else "" if own.get("protect", "all") == "all" else "classes"
            generator = Path(own.get("generator", "")).parent.name or own.get("generator", "")
            known = {"poison": own["poison"], "generator": generator, "mode": mode}
            found[one["setting"], one["recipe"]] = seen | known
    index = pd.MultiIndex.from_arrays(list(zip(*found)) or [[], []], names=["setting", "recipe"])
    looks = pd.DataFrame(list(found.values()), index, columns=["poison", "generator", "mode", "images", *LOOK])
    return looks.astype(dict.fromkeys(LOOK, float))


def is_plain(rows: pd.DataFrame) -> pd.Series:
    """Of victims trained as usual: no defence, and no clean images among the protected ones."""
    return (rows.defense == "none") & (rows.clean_fraction == 0)


def is_own(recipe: str) -> bool:
    """Whether a recipe is UnSeg's."""
    return recipe.startswith("unseg")


def ordered(recipes) -> list[str]:
    """Every recipe once: clean first, UnSeg's last, controls and rivals between."""
    return sorted(dict.fromkeys(recipes), key=lambda name: (name != "clean", is_own(name)))


def scores(results: Results) -> pd.DataFrame:
    """A line for each score: the columns of `SCORE`, mean and std over seeds in percent (std NaN for one), peak, n,
    tuples of seeds, stages, finals and cleans, mode (see `Results`; only recipes of one mode are rivals), start (in
    words, unless all victims start at random), who (victim and start), block (its heading), of_clean and of_clean_std
    (percent of the clean-trained score of the same victim without a defence, and of the same label where there is
    one, over the seeds that both ran; NaN where it learnt nothing, or nobody ran it), judged (its field judges by its
    metric, or it is of the protected classes) and headline (the same, but where a background is scored, without it:
    found nearly everywhere, it holds a mean up that has lost all else).
    """
    rows = _with_clean(results.rows)
    by = rows.groupby(SCORE, sort=False)
    found = by.agg(mean=("final", "mean"), std=("final", "std"), n=("seed", "size"), peak=("peak", "mean"))
    found[["seeds", "stages", "finals", "cleans"]] = by[["seed", "stage", "final", "clean"]].agg(tuple)
    common = rows[rows.clean.notna() | (by.clean.transform("count") == 0)].groupby(SCORE, sort=False)
    # without a common seed, the means of all
    full = common.clean.mean().fillna(common.clean_mean.mean()).replace(0, np.nan)
    found["of_clean"], found["of_clean_std"] = 100 * common.final.mean() / full, 100 * common.final.std() / full
    found = found.reset_index().join(results.looks["mode"], on=["setting", "recipe"]).fillna({"mode": ""})
    main, protected, ground = (found.metric == one for one in (found.task.map(main_metric), PROTECTED, FOREGROUND))
    floor = ground.groupby([found[name] for name in [*VICTIM, *WAY, "recipe"]]).transform("any")
    found["judged"], found["headline"] = main | protected, protected | ground | (main & ~floor)
    # the start of a victim is told unless all of its data set start at random
    told = (found.init != "random").groupby(found.setting).transform("any")
    found["start"] = (" (" + found.init.replace("imagenet", "ImageNet") + " start)").where(told, "")
    found["who"] = found.victim_key + found.start
    # how it was trained where that is unusual
    mixed = found.clean_fraction.astype(str).replace("0.0", "")
    way = found.label.where(found.label != "", (found.defense.replace("none", "") + " " + mixed).str.strip())
    heading = found.setting + " · " + found.metric.replace(HEADINGS) + " · " + found.who
    return found.assign(block=heading + (" · " + way).where(way != "", ""))


def _with_clean(rows: pd.DataFrame) -> pd.DataFrame:
    """Each row with the clean-trained score of its seed (`clean`, NaN if not run) and over all seeds (`clean_mean`)."""
    key = [*VICTIM, "metric"]
    cleans = rows[is_plain(rows) & (rows.recipe == "clean")]
    means = cleans.groupby([*key, "label"]).final.mean().rename("clean_mean")
    finals = cleans.groupby([*key, "label", "seed"]).final.first().rename("clean")
    # of the same label, else without any, else whatever there is
    rows = rows.join(cleans.groupby(key).label.min().rename("clean_label"), on=key)
    own = pd.MultiIndex.from_frame(rows[[*key, "label"]]).isin(means.index)
    rows["clean_label"] = rows.label.where(own, rows.clean_label)
    return rows.join(means, on=[*key, "clean_label"]).join(finals, on=[*key, "clean_label", "seed"])


def paired(one: pd.Series, other: pd.Series) -> dict[str, float | str]:
    """`one` minus `other`, both final scores by seed: difference in points, low and high of Student's t interval, n,
    and how `one` protects in a `word`: a low score is a strong protection, and the interval must lie on one side. Only
    seeds that both ran count; fewer than `ENOUGH` have no interval, none no difference (NaN).
    """
    from scipy.stats import t

    gap = (one - other).dropna()
    half = t.ppf((1 + CONFIDENCE) / 2, len(gap) - 1) * gap.std() / np.sqrt(len(gap)) if len(gap) >= ENOUGH else np.nan
    low, high = gap.mean() - half, gap.mean() + half
    word = "better" if high < 0 else "worse" if low > 0 else "no difference shown"
    word = "too few seeds" if np.isnan(half) else word
    return {"difference": gap.mean(), "low": low, "high": high, "n": len(gap), "word": word}


def finals_of(one, end: str = "") -> pd.Series:
    """The final scores of a line of `scores` by seed; `end` of the columns' names, where two lines stand in one."""
    return pd.Series(getattr(one, f"finals{end}"), getattr(one, f"seeds{end}"))


def differences(results: Results) -> pd.DataFrame:
    """Each of UnSeg's recipes minus clean and its rivals (of the same mode) under victims trained as usual: block,
    setting, ours, other, share and other_share (percent of clean), and what `paired` says.
    """
    known = scores(results)
    known = known[is_plain(known) & known.headline]
    known = known.assign(own=known.recipe.map(is_own))
    known = known.iloc[np.lexsort((known.own, known.recipe != "clean", pd.factorize(known.block)[0]))]
    # where classes are scored that some recipes protect alone, these recipes are judged by them, and no other is
    some = (known.metric == PROTECTED).groupby(known.setting).transform("any")
    judged = known.own & (~some | ((known["mode"] == "classes") == (known.metric == PROTECTED)))
    pairs = known[judged].merge(known[~known.own], on="block", suffixes=("", "_other"))
    pairs = pairs[(pairs.recipe_other == "clean") | (pairs["mode"] == pairs.mode_other)].reset_index(drop=True)
    gaps = [paired(finals_of(one), finals_of(one, "_other")) for one in pairs.itertuples()]
    names = {"recipe": "ours", "recipe_other": "other", "of_clean": "share", "of_clean_other": "other_share"}
    pairs = pairs.rename(columns=names)[["block", "setting", *names.values()]]
    return pairs.join(pd.DataFrame(gaps, columns=["difference", "low", "high", "n", "word"]))


def against_strongest(results: Results, strong: tuple[str, ...]) -> pd.DataFrame:
    """Of `differences` the line with the strongest rival, and as `verdict` whether UnSeg works, and better than it: it
    "holds" if all of the interval is on UnSeg's side and the poisons `strong` are among the rivals, and is "open" if
    more rivals or seeds would tell.
    """
    every = differences(results)
    every = every[every.other != "clean"]
    poison = results.looks.poison.to_dict()
    found = every.sort_values("other_share", kind="stable").drop_duplicates(["block", "ours"]).sort_index()
    verdicts = []
    for one in found.itertuples():
        rivals = every.other[(every.block == one.block) & (every.ours == one.ours)]
        met = {poison.get((one.setting, name)) for name in rivals} >= set(strong)
        lost = one.share >= min(one.other_share, HARMLESS) or one.high >= 0
        verdicts.append("does not hold" if lost else "holds" if met and one.word == "better" else "open")
    return found.assign(verdict=verdicts)


def repeated(first: Results, second: Results) -> pd.DataFrame:
    """Scores that two runs of one profile have, in the order of the first: "_again" ends the columns of the second.
    difference: second minus first, in points. bar: half of Student's interval for the difference of two means with one
    common spread; NaN for a single seed, whose word says so. Raises `UnsegError` where they have none in common.
    """
    from scipy.stats import t

    one, two = (known[known.judged] for known in map(scores, (first, second)))
    pairs = one.merge(two[[*SCORE, "mean", "std", "n"]], on=SCORE, suffixes=("", "_again"))
    if pairs.empty:
        scored = f"scores in {second.folder} that {first.folder} has, too"
        raise UnsegError(f"Expected {scored}, found none; are both of one profile?")
    several, free = pairs[["n", "n_again"]].min(axis=1) > 1, (pairs.n + pairs.n_again - 2).clip(lower=1)
    squares = (pairs.n - 1) * pairs["std"] ** 2 + (pairs.n_again - 1) * pairs.std_again**2
    bar = t.ppf((1 + CONFIDENCE) / 2, free) * np.sqrt(squares / free * (1 / pairs.n + 1 / pairs.n_again))
    pairs = pairs.assign(difference=pairs.mean_again - pairs["mean"], bar=bar.where(several))
    word = np.where(pairs.difference.abs() <= pairs.bar, "same", "outside")
    pairs["word"] = np.where(several, word, "one seed: no error bar")
    return pairs.iloc[np.argsort(pd.factorize(pairs.block)[0], kind="stable")]


def repetition(pairs: pd.DataFrame, planned: int) -> pd.Series:
    """What `repeated` found in numbers, of single seeds how far they moved; the first run has `planned` scores."""
    judged, alone = pairs[pairs.bar.notna()], pairs.difference[pairs.bar.isna()].abs()
    half, most = np.quantile(alone, (0.5, 0.9), method="inverted_cdf") if len(alone) else (np.nan, np.nan)
    found = {"scores of the first run": planned, "repeated": len(pairs), "with an error bar": len(judged)}
    found |= {"the same within it": (judged.word == "same").sum()}
    found |= {"outside by chance alone": (1 - CONFIDENCE) * len(judged), "of one seed, without a bar": len(alone)}
    found |= {"half of them moved by at most": half, "nine of ten by at most": most}
    return pd.Series(found | {"largest difference": pairs.difference.abs().max()})
