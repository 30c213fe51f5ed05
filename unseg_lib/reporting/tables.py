"""Tables of scores: what stands in them is computed here with pandas, how they look is great-tables' work."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import METRICS, main_metric
from unseg_lib.reporting import rows
from unseg_lib.reporting.figures import agreement, extremes
from unseg_lib.reporting.published import nearest, value_of
from unseg_lib.reporting.rows import Results, is_own, is_plain, ordered, scores


@dataclass
class Table:
    """A DataFrame as a notebook, the report and README show it: floats with one decimal (or `digits` of their column),
    a minus sign and "–" for NaN; a column "a|b" stands as b under a; one that ends in "of clean" is in percent,
    "difference" has its sign. `group` is the column of headings, `html` those whose cells hold HTML.
    """

    frame: pd.DataFrame
    group: str | None = None
    digits: dict[str, int] = field(default_factory=dict)
    html: Sequence[str] = ()

    def _repr_html_(self) -> str:
        from great_tables import GT

        if not len(self.frame):
            return "<p>(nothing to list)</p>"
        made = GT(self.frame, groupname_col=self.group, id="t" + sha256(self.frame.to_csv().encode()).hexdigest()[:10])
        for name in self.frame.select_dtypes("float"):
            sign, places = name.endswith("difference"), self.digits.get(name, 1)
            unit = "{x} %" if name.endswith("of clean") else "{x}"
            made = made.fmt_number(name, decimals=places, use_seps=False, force_sign=sign, pattern=unit)
        made = made.fmt(str, columns=list(self.html)).sub_missing(missing_text="–")
        if any("|" in name for name in self.frame):
            made = made.tab_spanner_delim("|")
        # its style is eight times as long as ours; its cells, each on a line, name their headings one by one
        style = "".join(Path(__file__).with_name("table.css").read_text().splitlines())
        needless = r' headers="[^"]*"| class="gt_row gt_left"|(?<=")gt_row (?=gt_)|(?<=>)\n\s*(?=<)'
        plain = re.sub(needless, "", made.as_raw_html())
        return re.sub("(?<=<style>).*?(?=</style>)", lambda _: style, plain, count=1, flags=re.DOTALL)

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


def spread(mean: float, std: float) -> str:
    """ "8.5 ± 0.7"; without a deviation the mean alone, "–" without either."""
    return "–" if pd.isna(mean) else f"{mean:.1f}" + ("" if pd.isna(std) else f" ± {std:.1f}")


def runs_of(one) -> str:
    """The seeds of a score as HTML, each leading to its line in the list of runs."""
    return " ".join(f'<a href="#{stage}">{seed}</a>' for seed, stage in zip(one.seeds, one.stages))


def verdicts(claims: Sequence[tuple], more: Sequence[str] = ()) -> Table:
    """Claims as (words, value found, "<" or ">", limit, *columns named by `more`): whether the rows bear them out."""
    frame = pd.DataFrame(claims, columns=["claim", "found", "side", "limit", *more])
    frame = frame.astype({"found": float, "limit": float})
    held = np.where(frame.side == "<", frame.found < frame.limit, frame.found > frame.limit)
    missing = frame[["found", "limit"]].isna().any(axis=1)
    frame["verdict"] = np.select([missing, held], ["not run", "holds"], "does not hold")
    frame["limit"] = [f"{one.side} {one.limit:g}" for one in frame.itertuples()]
    return table(frame[["claim", "found", *more, "limit", "verdict"]])


def effect(results: Results) -> pd.DataFrame:
    """The main table, a line per recipe, clean first, UnSeg's last: what victims score on clean test images, and how
    visible the noise is; what was planned and has no result says "failed" or "not run".
    """
    known = scores(results)
    known = known[is_plain(known)]
    own, ground = known[known.judged], known[known.metric == rows.FOREGROUND].assign(metric="miou")
    own = own.merge(ground[[*rows.SCORE, "mean", "of_clean"]], "left", rows.SCORE, suffixes=("", "_ground"))
    own = own.join(results.looks[rows.LOOK], on=["setting", "recipe"])
    found = [nearest(one.task, one.dataset, one.victim, one.metric, one.recipe) for one in own.itertuples()]
    beside = pd.DataFrame(found, columns=["value", "percent", "note"]).astype({"value": float, "percent": float})
    largest = own.linf_inside.map("{:.0f} / ".format) + own.linf_outside.map("{:.0f}".format)
    shown = {"block": own.block, "trained on": own.recipe}
    shown |= {"paper|score": beside.value, "paper|of clean": beside.percent}
    shown |= {"ours|score": list(map(spread, own["mean"], own["std"])), "ours|of clean": own.of_clean}
    shown |= {"ours|difference": own.of_clean - beside.percent, "ours|peak": own.peak}
    shown |= {"seeds": list(map(runs_of, own.itertuples())), "without background|mean": own.mean_ground}
    shown |= {"without background|of clean": own.of_clean_ground}
    shown |= {"the files|max in / out": largest.where(own.linf_inside.notna()), "the files|rms": own.rms}
    shown |= {"the files|PSNR": own.psnr, "the files|SSIM": own.ssim}
    # what has no result
    late = rows.waiting(results)
    late = late[is_plain(late)].merge(own[[*rows.KEY, "block"]].drop_duplicates(), "left", rows.KEY)
    late["block"] = late.block.fillna(late.setting + " · " + late.victim_key)
    late["late"] = [f" ({one.seed}: {one.state})" for one in late.itertuples()]
    key, late = ["block", "trained on"], late.rename(columns={"recipe": "trained on"})
    missing = late.groupby(key, as_index=False).agg(late=("late", "sum"), state=("state", "min"))
    shown = pd.DataFrame(shown).merge(missing, "outer", key)
    shown["ours|score"] = shown["ours|score"].astype(object).fillna(shown.state)
    # of a row without any result its score says so
    shown["seeds"] = (shown.seeds.astype(object) + shown.late.astype(object).fillna("")).fillna("")
    # in the order of the rows, and what stands beside it in the paper
    recipes, blocks = ordered(shown["trained on"]), [*own.block, *late.block]
    shown = shown.iloc[np.lexsort((shown["trained on"].map(recipes.index), shown.block.map(blocks.index)))]
    notes = dict(zip(own.block[beside.note.notna()], beside.note.dropna()))
    shown["block"] = [f"{block} (paper: {notes[block]})" if block in notes else block for block in shown.block]
    return shown.drop(columns=["late", "state"]).dropna(axis="columns", how="all").reset_index(drop=True)


def matched(
    sources: Sequence[Results], setting: str, arms: Sequence[tuple], *, metric: str = "", paper: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Runs that differ in one thing, the first as the reference: of the one victim in one source that met most of them.

    arms: (label, recipe, published method or nothing); "" for a recipe that the kit cannot have, columns of rows.csv
    and their values where more than the recipe tells the runs (else victims trained as usual are meant). paper: table,
    data set, victim and metric of the published numbers. metric: else the setting's own. The index is the label, the
    clean-trained victims first. An arm is compared with the reference seed by seed, under another label in percent of
    each one's own clean-trained victim. Two sources, which may be two machines, are never mixed, nor two victims.
    """
    arms = [("trained on clean images", "clean", "clean"), *((*arm, "")[:3] for arm in arms)]
    arms = [(words, {"recipe": one} if one and isinstance(one, str) else one or {}, how) for words, one, how in arms]
    tried, lines = [], []
    for source in sources:
        known = scores(source)
        known = known[(known.setting == setting) & (known.metric == (metric or known.task.map(main_metric)))]
        for who in dict.fromkeys(known.who) or [""]:
            own = known[known.who == who]
            found = [next(own[_chosen(own, setting, of)].itertuples(), None) if of else None for _, of, _ in arms]
            seeds = [one.n for one in found[1:] if one is not None]
            tried.append(((len(seeds), sum(seeds)), source, who, found))
    _, source, who, found = max(tried, key=lambda one: one[0])
    for (label, choice, method), one in zip(arms, found):
        line = {"": label, "recipe": choice.get("recipe", "")}
        if paper:
            table, dataset, victim, name = paper
            value, full = (value_of(table, dataset, victim, which, name) for which in (method, "clean"))
            line |= {"paper|score": value, "paper|of clean": 100 * value / full}
        if one is None:
            late = rows.waiting(source)
            states = late.state[_chosen(late, setting, choice)].tolist() if choice else []
            line |= {"ours|score": min(states, default="not run"), "against the first|protects": "not run"}
        else:
            line |= _ours(source, one, None if one is found[0] or one is found[1] else found[1])
        lines.append(line)
    names = ["", *(["paper|score", "paper|of clean"] if paper else []), "ours|score", "ours|of clean", "seeds"]
    names += [f"against the first|{name}" for name in ("difference", "interval", "protects")]
    arms = pd.DataFrame(lines, columns=[*names, "the files|PSNR", "the files|SSIM", "recipe", "std"])
    arms.attrs["source"] = source.name + (f", {who}" if "(" in who else "")
    return arms.set_index("", drop=False)


def _chosen(rows: pd.DataFrame, setting: str, choice: dict) -> pd.Series:
    choice = {"setting": setting, "defense": "none", "clean_fraction": 0.0} | choice
    if choice["defense"] == "none" and not choice["clean_fraction"]:
        choice = {"label": ""} | choice
    return (rows[list(choice)] == pd.Series(choice)).all(axis=1)


def _ours(source: Results, one, reference) -> dict:
    """The cells of an arm that was run, compared with `reference` where there is one."""
    cells = {"ours|score": spread(one.mean, one.std), "ours|of clean": one.of_clean, "std": one.of_clean_std}
    cells["seeds"], usual = runs_of(one), one.defense == "none" and not one.clean_fraction
    if reference is not None:
        pair = [rows.finals_of(each) for each in (one, reference)]
        if one.label != reference.label and usual:
            cleans = [pd.Series(each.cleans, each.seeds) for each in (one, reference)]
            pair = [100 * finals / clean for finals, clean in zip(pair, cleans)]
        gap = rows.paired(*pair)
        interval = " to ".join(f"{round(gap[end], 1) + 0.0:+.1f}" for end in ("low", "high")).replace("-", "−")
        interval = "–" if np.isnan(gap["low"]) else interval
        cells |= {"against the first|difference": gap["difference"], "against the first|interval": interval}
        cells["against the first|protects"] = gap["word"]
    if usual and (one.setting, one.recipe) in source.looks.index:  # a defence changes the files once more
        look = source.looks.loc[one.setting, one.recipe]
        cells |= {"the files|PSNR": look.psnr, "the files|SSIM": look.ssim}
    return cells


def defence_grids(results: Results) -> dict[tuple[str, str, str], pd.DataFrame]:
    """By (setting, metric's heading, victim): what each recipe (columns) leaves under each defence (index), in percent
    of the score of the undefended victim trained on clean images, so the recipe "clean" shows what a defence costs. A
    column, "none" too, is over the seeds that all defences of its recipe ran: compare within it. Left out are recipes
    without defence, and victims that learn nothing from clean images. Where all protect some classes, those are scored.
    """
    known, grids = scores(results), {}
    known = known[(known.clean_fraction == 0) & known.headline]
    for (setting, who), own in known.groupby(["setting", "who"], sort=False):
        tried = own[own.defense != "none"]
        some = set(tried["mode"][tried.recipe != "clean"]) == {"classes"}
        metric = min(own.metric, key=lambda name: (name == rows.PROTECTED) != some)
        own = own[(own.metric == metric) & ((own.defense != "none") | (own.label == ""))]
        clean = own[(own.recipe == "clean") & (own.defense == "none")]
        if tried.empty or clean.empty or not clean["mean"].iloc[0] > 0:
            continue
        full, grid = rows.finals_of(clean.iloc[0]), {}
        for recipe in ordered(tried.recipe):
            line = {one.defense: rows.finals_of(one) for one in own[own.recipe == recipe].iloc[::-1].itertuples()}
            seeds = [set(finals.index) for defense, finals in line.items() if defense != "none"]
            shared = list(set.intersection(*seeds) or set.union(*seeds))
            grid[recipe] = {defense: _share(finals, shared, full) for defense, finals in line.items()}
        grid = pd.DataFrame(grid).sort_index(key=lambda names: names.where(names != "none", ""))
        grids[setting, rows.HEADINGS[metric], who] = grid
    return grids


def _share(finals: pd.Series, shared: list[int], full: pd.Series) -> float:
    """Percent of the clean-trained score `full`, of these seeds where there are any, and of those that both ran."""
    chosen = finals.index.isin(shared)
    finals = finals[chosen] if chosen.any() else finals
    common = finals.index.intersection(full.index)
    finals, full = (finals[common], full[common]) if len(common) else (finals, full)
    return 100 * finals.mean() / full.mean() if full.mean() > 0 else np.nan


def stand_ins(results: Results) -> pd.DataFrame:
    """A line for each system and generator: clean, random and UnSeg, and what the paper's model beside it kept. Where
    some classes are protected, only they count. A victim that learns too little from clean images is judged by the one
    class that it knows best; where that is none (`learnt` is "no"), nothing is said of what is left.
    """
    known, lines = scores(results), []
    for _, own in known[is_plain(known)].groupby(["setting", "who", "label"], sort=False):
        one, clean = own.iloc[0], own[own.recipe == "clean"].set_index("metric")["mean"]
        main = main_metric(one.task)
        metric, by_class = rows.PROTECTED if (own.metric == rows.PROTECTED).any() else main, clean.filter(like=":")
        learnt = clean.get(metric, 0) >= METRICS[metric].least
        if not learnt and by_class.max() >= METRICS["iou"].least:
            metric, learnt = by_class.idxmax(), True
        shown = own[own.metric == metric].set_index("recipe")
        cells = dict(zip(shown.index, map(spread, shown["mean"], shown["std"])))
        random = next((name for name in cells if name.startswith("random")), "")
        paper = nearest(one.task, one.dataset, one.victim, main, "unseg")
        for recipe in list(filter(is_own, cells)) or [""]:
            line = {"task": one.task, "data set": one.dataset.rpartition(":")[2], "stand-in": one.who}
            line |= {"metric": rows.HEADINGS.get(metric, metric)}
            line |= {"clean": cells.get("clean"), "random": cells.get(random)}
            line |= {"UnSeg": cells.get(recipe), "generator": results.looks.generator.get((one.setting, recipe), "")}
            line |= {"ours|of clean": shown.of_clean.get(recipe, np.nan) if learnt else np.nan}
            line |= {"paper|of clean": paper.get("percent", np.nan), "paper|of": paper.get("note", "")}
            lines.append(line | {"learnt": "yes" if learnt else "no"})
    return pd.DataFrame(lines).fillna({"clean": "not run", "random": "not run", "UnSeg": "not run"})


def transfer(results: Results, beside: Results) -> pd.DataFrame:
    """Scores by recipe and defence (lines), data set and metric (columns), also those that another profile has."""
    asked, both = scores(results), pd.concat([beside.rows, results.rows])
    known = scores(replace(results, rows=both.drop_duplicates([*rows.SCORE, "seed"], keep="last")))
    known = known[known.headline & (known.clean_fraction == 0)]
    for name in ("setting", "victim_key", "init", "recipe", "defense"):
        known = known[known[name].isin(asked[name])]
    several = known.groupby("setting").who.transform("nunique") > 1
    places = known.setting + (", " + known.who).where(several, "") + "|" + known.metric.map(rows.HEADINGS)
    wide = known.assign(place=places).pivot(index=["recipe", "defense"], columns="place", values="mean")
    return wide.rename_axis(columns=None).loc[ordered(wide.index.get_level_values("recipe"))].reset_index()


def predictions(results: Results, setting: str, victim: str, recipes: Sequence[str]) -> list[dict[str, np.ndarray]]:
    """What victims make of the test images that the clean-trained one gets best, middling and worst: rows {name: uint8
    RGB} of the image (where it may be shown), the truth, and each recipe's `agreement`; [] where no run left any.
    """
    own, seen, shown = results.rows, {}, []
    own = own[is_plain(own) & (own.label == "") & (own.setting == setting) & (own.victim_key == victim)]
    background = (own.task == "object").any() or (own.metric == "iou:background").any()
    for recipe in recipes:
        stages = own.stage[own.recipe == recipe].unique()
        files = [results.folder / stage / name for stage in stages for name in ("predictions.npz", "masks.npz")]
        if there := next((file for file in files if file.is_file()), None):
            seen[recipe] = dict(np.load(there))
    if "clean" not in seen or len(seen) < 2:
        return []
    truth = seen["clean"]["truth"]
    if not all(np.array_equal(one["truth"], truth) for one in seen.values()):
        raise UnsegError(f"Expected predictions of one set of test images for {setting} in {results.folder}.")
    objects = (truth < 255) & ((truth > 0) | (not background))
    right = [(t == p)[o].mean() if o.any() else 0 for t, p, o in zip(truth, seen["clean"]["prediction"], objects)]
    images = next((one["image"] for one in seen.values() if "image" in one), None)
    for i in extremes(right).values():
        maps = {"truth": truth[i]} | {f"trained on\n{name}": one["prediction"][i] for name, one in seen.items()}
        row = {name: agreement(truth[i], found, background) for name, found in maps.items()}
        shown.append(row if images is None else {"image": images[i]} | row)
    return shown


def repetition_table(pairs: pd.DataFrame) -> Table:
    """The pairs of `rows.repeated`, a line each."""
    ends = {"first": "", "second": "_again"}
    cells = {run: map(spread, pairs[f"mean{end}"], pairs[f"std{end}"]) for run, end in ends.items()}
    cells = {run: [f"{cell} ({n})" for cell, n in zip(cells[run], pairs[f"n{end}"])] for run, end in ends.items()}
    frame = pairs[["block", "recipe"]].assign(**cells, difference=pairs.difference.round(1))
    return table(frame.assign(bar=pairs.bar.round(1), word=pairs.word), group="block")
