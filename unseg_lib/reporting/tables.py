"""Tables of scores: what stands in them is computed here with pandas, how they look is great-tables' work."""

import re
from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256

import numpy as np
import pandas as pd

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import METRICS
from unseg_lib.reporting.figures import agreement
from unseg_lib.reporting.published import nearest, value_of
from unseg_lib.reporting.rows import (
    FOREGROUND,
    HEADINGS,
    KEY,
    MAIN,
    PROTECTED,
    SCORE,
    Results,
    holds,
    is_own,
    is_plain,
    mode_of,
    of_settings,
    ordered,
    paired,
    scores,
    waiting,
    word_of,
)

SMALL = (
    "<style>.gt_table{border-collapse:collapse;font-size:.85rem;line-height:1.35;font-variant-numeric:tabular-nums}"
    ".gt_table th,.gt_table td{padding:.2rem .6rem;vertical-align:top;border:0}.gt_table .gt_left{text-align:left}"
    ".gt_table .gt_right{text-align:right;white-space:nowrap}.gt_table .gt_center{text-align:center}"
    ".gt_col_heading{border-bottom:1.5px solid #2b2f36!important;font-weight:600}.gt_column_spanner{color:#6b7079}"
    ".gt_group_heading{text-align:left;padding-top:1rem!important;border-bottom:1px solid #dfe2e6!important}</style>"
)


class Table:
    """A DataFrame as a notebook, the report and README show it.

    frame: floats are written with one decimal (or `digits` of their column), a minus sign and "–" for NaN; a column
    "a|b" stands as b under a; one that ends in "of clean" is in percent, "difference" has its sign. `group` is the
    column of headings, `html` those whose cells hold HTML.
    """

    def __init__(
        self, frame: pd.DataFrame, group: str | None = None, digits: dict | None = None, html: Sequence[str] = ()
    ):
        self.frame, self.group, self.digits, self.html = frame, group, digits or {}, html

    @cached_property
    def _text(self) -> str:
        from great_tables import GT

        floats = [name for name in self.frame if self.frame[name].dtype.kind == "f"]
        made = GT(self.frame, groupname_col=self.group, id="t" + sha256(self.frame.to_csv().encode()).hexdigest()[:10])
        for name in floats:
            sign, places = name.endswith("difference"), self.digits.get(name, 1)
            unit = "{x} %" if name.endswith("of clean") else "{x}"
            made = made.fmt_number(name, decimals=places, use_seps=False, force_sign=sign, pattern=unit)
        for name in self.html:
            made = made.fmt(str, columns=name)
        made = made.sub_missing(missing_text="–")
        if any("|" in name for name in self.frame):
            made = made.tab_spanner_delim("|")
        # its style is eight times as long as ours, and the cells name their headings one by one
        start, _, rest = re.sub(r' headers="[^"]*"', "", made.as_raw_html()).partition("<style>")
        return start + SMALL + rest.partition("</style>")[2]

    def _repr_html_(self) -> str:
        return self._text if len(self.frame) else "<p>(nothing to list)</p>"

    def markdown(self) -> str:
        """The table in Markdown, numbers as they are."""
        body = self.frame.astype(object).fillna("–").astype(str).to_numpy().tolist()
        lines = [list(self.frame), ["---"] * self.frame.shape[1], *body]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def table(frame: pd.DataFrame, **how) -> Table:
    """`Table`, of a frame whose index is no column of it."""
    return Table(frame.reset_index(drop=True), **how)


def records(frame: pd.DataFrame) -> list[dict]:
    """The lines as dicts for metrics.json, without the links; None where there is no number."""
    plain = frame.drop(columns=["seeds"], errors="ignore").astype(object)
    return plain.where(plain.notna(), None).to_dict("records")


def spread(mean: float, std: float, digits: int = 1) -> str:
    """ "8.5 ± 0.7"; without a deviation the mean alone, "–" without either."""
    if pd.isna(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if pd.isna(std) else f" ± {std:.{digits}f}")


def runs_of(one) -> str:
    """The seeds of a score as HTML, each leading to its line in the list of runs."""
    return " ".join(f'<a href="#{stage}">{seed}</a>' for seed, stage in zip(one.seeds, one.stages))


def verdicts(claims: Sequence[tuple], more: Sequence[str] = ()) -> Table:
    """Claims as (words, value found, "<" or ">", limit, *columns named by `more`): whether the rows bear them out."""
    frame = pd.DataFrame(claims, columns=["claim", "found", "side", "limit", *more])
    frame = frame.astype({"found": float, "limit": float})
    frame["verdict"] = [holds(*line) for line in frame[["found", "side", "limit"]].itertuples(index=False)]
    frame["limit"] = [f"{one.side} {one.limit:g}" for one in frame.itertuples()]
    return table(frame[["claim", "found", *more, "limit", "verdict"]])


def answer(arms: pd.DataFrame, title: str) -> tuple:
    """What a notebook displays of `matched`: the table, and what each arm leaves of the clean-trained score as bars."""
    from unseg_lib.reporting.figures import QUIET, REDS, bars

    names = arms[""][1:]
    shares = dict(zip(names, arms[["ours|of clean", "std"]][1:].itertuples(index=False, name=None)))
    colours = {name: REDS[0] if is_own(recipe) else QUIET[0] for name, recipe in zip(names, arms.recipe[1:])}
    shown = table(arms.drop(columns=["recipe", "std"]), html=["seeds"], digits={"the files|SSIM": 3})
    title = f"{title} · from the profile {arms.attrs['source']}"
    return shown, bars({title: shares}, xlabel="% of clean-trained score", colours=colours)


def effect(results: Results) -> pd.DataFrame:
    """The main table: what victims score on clean test images, by what they were trained on, and how visible that is.

    One line per recipe, clean first, UnSeg's last; what was planned and has no result says "failed" or "not run".
    """
    known = scores(results)
    known = known[is_plain(known)]
    own, ground = known[known.judged], known[known.metric == FOREGROUND].assign(metric="miou")
    own = own.merge(ground[[*SCORE, "mean", "of_clean"]], "left", SCORE, suffixes=("", "_ground"))
    own = own.merge(results.looks, "left", left_on=["setting", "recipe"], right_index=True)
    found = [nearest(one.task, one.dataset, one.victim, one.metric, one.recipe) or {} for one in own.itertuples()]
    beside = pd.DataFrame(found, columns=["value", "percent", "note"])
    shown = pd.DataFrame({"block": own.block, "trained on": own.recipe})
    shown[["paper|score", "paper|of clean"]] = beside[["value", "percent"]].astype(float)
    shown["ours|score"] = list(map(spread, own["mean"], own["std"]))
    shown["ours|of clean"], shown["ours|difference"] = own.of_clean, own.of_clean - shown["paper|of clean"]
    shown["ours|peak"], shown["seeds"] = own.peak, list(map(runs_of, own.itertuples()))
    shown[["without background|mean", "without background|of clean"]] = own[["mean_ground", "of_clean_ground"]]
    largest = [f"{inside:.0f} / {outside:.0f}" for inside, outside in zip(own.linf_inside, own.linf_outside)]
    shown["the files|max in / out"] = pd.Series(largest).where(own.linf_inside.notna())
    shown[["the files|rms", "the files|PSNR", "the files|SSIM"]] = own[["rms", "psnr", "ssim"]]
    # what has no result
    late = waiting(results)
    late = late[is_plain(late)].merge(own[[*KEY, "block"]].drop_duplicates(), "left", KEY)
    late["block"] = late.block.fillna(late.setting + " · " + late.victim_key)
    late["late"] = [f" ({one.seed}: {one.state})" for one in late.itertuples()]
    missing = late.groupby(["block", "recipe"], as_index=False).agg(late=("late", "sum"), state=("state", "min"))
    shown = shown.merge(missing.rename(columns={"recipe": "trained on"}), "outer", ["block", "trained on"])
    shown["ours|score"] = shown["ours|score"].astype(object).fillna(shown.state)
    shown["seeds"] = shown.seeds.astype(object).fillna("") + shown.late.astype(object).fillna("")
    # in the order of rows.csv, and what stands beside it in the paper
    place = {block: i for i, block in enumerate([*own.block, *late.block][::-1])}
    order = {recipe: i for i, recipe in enumerate(ordered(shown["trained on"]))}
    shown = shown.iloc[np.lexsort((shown["trained on"].map(order), -shown.block.map(place)))]
    notes = dict(zip(own.block[beside.note.notna()], beside.note.dropna()))
    shown["block"] = [f"{block} (paper: {notes[block]})" if block in notes else block for block in shown.block]
    return shown.drop(columns=["late", "state"]).dropna(axis="columns", how="all").reset_index(drop=True)


def matched(
    sources: Sequence[Results], setting: str, arms: Sequence[tuple], *, metric: str = "", paper: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Runs that differ in one thing, the first as the reference, from the one source that knows most of them.

    arms: (label, recipe, published method or nothing); "" for a recipe that the kit cannot have, columns of rows.csv
    and their values where more than the recipe tells the runs; without a defence or a share of clean images, victims
    trained as usual are meant. paper: table, data set, victim and metric of the published numbers. metric: else the
    setting's own. The index is the label, the clean-trained victims first. An arm is compared with the reference seed
    by seed, under another label in percent of each one's own clean-trained victim. Two sources are never mixed: they
    may be from different machines.
    """
    arms = [("trained on clean images", "clean", "clean"), *((*arm, "")[:3] for arm in arms)]
    arms = [(words, {"recipe": one} if one and isinstance(one, str) else one or {}, how) for words, one, how in arms]
    known = [(source, [_arm(scores(source), setting, choice, metric) for _, choice, _ in arms]) for source in sources]
    seeds = [[one.n for one in found[1:] if one is not None] for _, found in known]
    source, found = known[max(range(len(known)), key=lambda i: (len(seeds[i]), sum(seeds[i])))]
    lines = []
    for (label, choice, method), one in zip(arms, found):
        line = {"": label, "recipe": choice.get("recipe", "")}
        if paper:
            table, dataset, victim, name = paper
            value, full = (value_of(table, dataset, victim, which, name) for which in (method, "clean"))
            line |= {"paper|score": value, "paper|of clean": 100 * value / full}
        reference = None if one is found[0] or one is found[1] else found[1]
        lines.append(line | (_not_run(source, setting, choice) if one is None else _ours(source, one, reference)))
    names = ["", *(["paper|score", "paper|of clean"] if paper else []), "ours|score", "ours|of clean", "seeds"]
    names += [f"against the first|{name}" for name in ("difference", "interval", "protects")]
    names += ["the files|PSNR", "the files|SSIM", "recipe", "std"]
    arms = pd.DataFrame(lines, columns=names).set_index("", drop=False)
    arms.attrs["source"] = source.name
    return arms


def _not_run(source: Results, setting: str, choice: dict) -> dict:
    late = waiting(source)
    states = late.state[_chosen(late, setting, choice)].tolist() if choice else []
    return {"ours|score": min(states, default="not run"), "against the first|protects": "not run"}


def _ours(source: Results, one, reference) -> dict:
    """The cells of an arm that was run, compared with `reference` where there is one."""
    cells = {"ours|score": spread(one["mean"], one["std"]), "ours|of clean": one.of_clean, "std": one.of_clean_std}
    cells["seeds"], usual = runs_of(one), one.defense == "none" and not one.clean_fraction
    if reference is not None:
        pair = [_finals(each) for each in (one, reference)]
        if one.label != reference.label and usual:
            pair = [100 * finals / _finals(each, "cleans") for finals, each in zip(pair, (one, reference))]
        gap = paired(*pair)
        interval = " to ".join(f"{round(gap[end], 1) + 0.0:+.1f}" for end in ("low", "high")).replace("-", "−")
        found = {"difference": gap["difference"], "interval": interval if gap["low"] == gap["low"] else "–"}
        cells |= {f"against the first|{name}": value for name, value in (found | {"protects": word_of(gap)}).items()}
    if usual and (one.setting, one.recipe) in source.looks.index:  # a defence changes the files once more
        look = source.looks.loc[one.setting, one.recipe]
        cells |= {"the files|PSNR": look.psnr, "the files|SSIM": look.ssim}
    return cells


def _chosen(rows: pd.DataFrame, setting: str, choice: dict) -> pd.Series:
    choice = {"setting": setting, "defense": "none", "clean_fraction": 0.0} | choice
    if choice["defense"] == "none" and not choice["clean_fraction"]:
        choice = {"label": ""} | choice
    return (rows[list(choice)] == pd.Series(choice)).all(axis=1)


def _arm(known: pd.DataFrame, setting: str, choice: dict, metric: str):
    """The score of an arm, of the first victim that was trained so; None where it was not run."""
    if not choice:
        return None
    own = known[_chosen(known, setting, choice) & (known.metric == (metric or known.task.map(MAIN)))]
    return own.iloc[0] if len(own) else None


def _finals(one, name: str = "finals") -> pd.Series:
    return pd.Series(one[name], one.seeds)


def defence_grids(results: Results) -> dict[tuple[str, str, str], pd.DataFrame]:
    """By (setting, metric's heading, victim_key): what each recipe (columns) leaves under each defence (index).

    In percent of the score of the victim trained on clean images without a defence, over the seeds that both ran,
    so the recipe "clean" shows what a defence costs. A recipe's column, "none" too, is over the seeds that all its
    defences ran: compare within it. Recipes that nobody defended against are left out. Where every recipe protects
    only some classes, those are scored.
    """
    known, grids = scores(results), {}
    known = known[(known.clean_fraction == 0) & known.headline]
    for (setting, victim), own in known.groupby(["setting", "victim_key"], sort=False):
        tried = own[own.defense != "none"]
        modes = {mode_of(results, setting, recipe) for recipe in tried.recipe if recipe != "clean"}
        some, every = PROTECTED in set(own.metric), next((name for name in own.metric if name != PROTECTED), PROTECTED)
        metric = PROTECTED if modes == {"classes"} and some else every
        own = own[(own.metric == metric) & ((own.defense != "none") | (own.label == ""))]
        clean = own[(own.recipe == "clean") & (own.defense == "none")]
        if tried.empty or clean.empty:
            continue
        full, grid = _finals(clean.iloc[0]), {}
        for recipe in ordered(tried.recipe):
            line = {one.defense: _finals(one) for _, one in own[own.recipe == recipe].iloc[::-1].iterrows()}
            seeds = [set(finals.index) for defense, finals in line.items() if defense != "none"]
            shared = list(set.intersection(*seeds) or set.union(*seeds))
            grid[recipe] = {d: _share(one[one.index.isin(shared)], one, full) for d, one in line.items()}
        grid = pd.DataFrame(grid)
        grid = grid.loc[sorted(grid.index, key=lambda name: (name != "none", name))]
        grids[setting, HEADINGS[metric], victim] = grid
    return grids


def mixture_grids(results: Results) -> dict[tuple[str, str, str], pd.DataFrame]:
    """By (setting, metric's heading, victim_key): the score of every recipe that was run in mixtures (index) by the
    share of clean images in percent (columns). The recipe "clean" is the same clean images alone: without a share, all.
    """
    known, grids = scores(results), {}
    known = known[known.headline & (known.defense == "none") & ((known.label == "") | (known.clean_fraction > 0))]
    share = known.clean_fraction.where((known.recipe != "clean") | (known.clean_fraction > 0), 1.0)
    known = known.assign(share=(100 * share).round())
    for (setting, metric, victim), own in known.groupby(["setting", "metric", "victim_key"], sort=False):
        mixed = own.recipe[own.clean_fraction.between(0, 1, inclusive="neither")]
        if len(mixed):
            grid = own[own.recipe.isin([*mixed, "clean"])].pivot_table("mean", "recipe", "share")
            grids[setting, HEADINGS[metric], victim] = grid.loc[ordered(grid.index)]
    return grids


def _share(chosen: pd.Series, every: pd.Series, full: pd.Series) -> float:
    own = chosen if len(chosen) else every
    common = own.index.intersection(full.index)
    own, full = (own[common], full[common]) if len(common) else (own, full)
    return 100 * own.mean() / full.mean() if full.mean() > 0 else np.nan


def stand_ins(results: Results) -> pd.DataFrame:
    """A line for each system and generator: clean, random and UnSeg, and what the paper's model beside it kept.

    Where some classes are protected, only they count. A victim that learns too little from clean images is judged by
    the one class that it knows best; where that is none (`learnt` is "no"), nothing is said of what is left.
    """
    known, lines = scores(results), []
    for _, own in known[is_plain(known)].groupby(KEY, sort=False):
        one, clean = own.iloc[0], own[own.recipe == "clean"].set_index("metric")["mean"]
        metric = PROTECTED if (own.metric == PROTECTED).any() else MAIN[one.task]
        by_class = clean[clean.index.str.contains(":")]
        learnt = clean.get(metric, 0) >= METRICS[metric.partition(":")[0]].least
        if not learnt and by_class.max() >= METRICS["iou"].least:
            metric, learnt = by_class.idxmax(), True
        shown = own[own.metric == metric].set_index("recipe")
        cells = {name: spread(line["mean"], line["std"]) for name, line in shown.iterrows()}
        random = next((name for name in cells if name.startswith("random")), "")
        paper = nearest(one.task, one.dataset, one.victim, MAIN[one.task], "unseg") or {}
        for recipe in list(filter(is_own, cells)) or [""]:
            line = {"task": one.task, "data set": one.dataset.rpartition(":")[2], "stand-in": one.victim_key}
            line |= {"metric": HEADINGS.get(metric, metric), "clean": cells.get("clean"), "random": cells.get(random)}
            line |= {"UnSeg": cells.get(recipe), "generator": results.looks.generator.get((one.setting, recipe), "")}
            line |= {"ours|of clean": shown.of_clean.get(recipe, np.nan) if learnt else np.nan}
            line |= {"paper|of clean": paper.get("percent", np.nan), "paper|of": paper.get("note", "")}
            lines.append(line | {"learnt": "yes" if learnt else "no"})
    return pd.DataFrame(lines).fillna({"clean": "not run", "random": "not run", "UnSeg": "not run"})


def transfer(results: Results, beside: Results) -> pd.DataFrame:
    """Scores by recipe and defence (lines), data set and metric (columns). What `beside` has of the same data sets,
    recipes and defences is not run again: it is taken from there.
    """
    asked, known = scores(results), scores(of_settings(results, beside))
    known = known[known.headline & (known.clean_fraction == 0)]
    for name in ("setting", "recipe", "defense"):
        known = known[known[name].isin(asked[name])]
    known = known.assign(place=known.setting + "|" + known.metric.map(HEADINGS))
    wide = known.pivot(index=["recipe", "defense"], columns="place", values="mean").rename_axis(columns=None)
    return wide.loc[ordered(wide.index.get_level_values("recipe"))].reset_index()


def words_of(poison: str) -> str:
    """What a poison is, in a few words; of one that is no longer registered its name."""
    from unseg_lib.poisons import POISONS

    return POISONS[poison].words if poison in POISONS else poison.replace("_", " ")


def legend(results: Results) -> pd.DataFrame:
    """What the recipes are: recipe, its poison in words, the generator of those that have one, and the mode."""
    looks = results.looks.reset_index().drop_duplicates("recipe").set_index("recipe")
    looks = looks.loc[ordered(looks.index)].reset_index()
    own = looks.generator.where(looks.poison.str.match("unseg|untrained"), "")
    return looks.assign(words=looks.poison.map(words_of), generator=own)[["recipe", "words", "generator", "mode"]]


def predictions(results: Results, setting: str, victim: str, recipes: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """What victims make of three test images: those that the clean-trained one gets best, middling and worst.

    Rows {name: uint8 RGB} of the image (where it may be shown), the true objects, and for each recipe how its
    prediction agrees with them (`figures.agreement`). [] where the runs left no predictions.
    """
    rows, seen = results.rows[is_plain(results.rows) & (results.rows.label == "")], {}
    rows = rows[(rows.setting == setting) & (rows.victim_key == victim)]
    background = (rows.task == "object").any() or (rows.metric == "iou:background").any()
    for recipe in recipes:
        own = rows.stage[rows.recipe == recipe].unique()
        files = [results.folder / stage / name for stage in own for name in ("predictions.npz", "masks.npz")]
        if there := next((file for file in files if file.is_file()), None):
            seen[recipe] = dict(np.load(there))
    if "clean" not in seen or len(seen) < 2:
        return []
    truth = seen["clean"]["truth"]
    if any(one["truth"].shape != truth.shape or (one["truth"] != truth).any() for one in seen.values()):
        raise UnsegError(f"Expected predictions of one set of test images for {setting} in {results.folder}.")
    objects = (truth < 255) & ((truth > 0) | (not background))
    right = [(t == p)[o].mean() if o.any() else 0 for t, p, o in zip(truth, seen["clean"]["prediction"], objects)]
    best = sorted(range(len(right)), key=lambda i: -right[i])
    images, rows = next((one["image"] for one in seen.values() if "image" in one), None), []
    for i in dict.fromkeys((best[0], best[len(best) // 2], best[-1])):
        row = {} if images is None else {"image": images[i]}
        row["truth"] = agreement(truth[i], truth[i], background)
        rows.append(
            row
            | {
                f"trained on\n{name}": agreement(truth[i], one["prediction"][i], background)
                for name, one in seen.items()
            }
        )
    return rows


def repetition_table(pairs: pd.DataFrame) -> Table:
    """The pairs of `rows.repeated`, a line each."""
    first, second = (
        [f"{spread(mean, std)} ({n})" for mean, std, n in pairs[names].itertuples(index=False)]
        for names in (["mean", "std", "n"], ["mean_again", "std_again", "n_again"])
    )
    frame = pairs[["block", "recipe"]].assign(first=first, second=second, difference=pairs.difference.round(1))
    return table(frame.assign(bar=pairs.bar.round(1), word=pairs.word), group="block")
