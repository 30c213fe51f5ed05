"""The tables: paper | ours | difference, every number ours and from rows.csv, with a link to its executed notebook."""

from collections.abc import Mapping

from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.published import nearest
from unseg_lib.reporting.scores import Experiment, Score, clean_of, metrics_of, percent_of_clean

SEEN = ("max in / out", "rms", "PSNR", "SSIM")  # what a poison did to the images; changes in steps of 1/255
METRICS = {"miou": "mean IoU", "iou_object": "IoU of the object", "iou_protected": "mean IoU of the protected classes"}
METRICS |= {"AP": "average precision", "PQ": "panoptic quality", "miou_pictures": "IoU, mean over images"}


def experiments_of(scores: list[Score], plan: list[dict] = ()) -> list[Experiment]:
    """Every experiment once, those with results first."""
    return list(dict.fromkeys([s.experiment for s in scores] + [run["experiment"] for run in plan]))


def recipes_of(experiment: Experiment, scores: list[Score], plan: list[dict] = ()) -> list[str]:
    """The recipes of an experiment: clean first, UnSeg's last, controls between, as planned."""
    names = [run["poison"] for run in plan if run["experiment"] == experiment]
    names += [s.poison for s in scores if s.experiment == experiment]
    return sorted(dict.fromkeys(names), key=lambda name: (name != "clean", name.startswith("unseg")))


def find(scores: list[Score], experiment: Experiment, poison: str, metric: str) -> Score | None:
    for score in scores:
        if (score.experiment, score.poison, score.metric) == (experiment, poison, metric):
            return score
    return None


def number(value: float | None, digits: int = 1) -> str:
    """A number for a table; "–" where there is none; a real minus sign."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def mean_of(score: Score) -> str:
    """A score for a table: its mean, ± its deviation over seeds where there are several."""
    return number(score.mean) + ("" if score.std is None else f" ± {number(score.std)}")


def signed(value: float | None) -> str:
    """A difference for a table, with its sign; no minus zero."""
    return "–" if value is None else f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def title_of(experiment: Experiment, metric: str = "") -> str:
    """One line that names an experiment, for headings."""
    parts = [experiment.setting, METRICS[metric]] if metric else [experiment.setting]
    name, *options = experiment.victim.split()  # the options are in its notebook
    parts.append(f"victim {name}{' …' if options else ''}")
    if experiment.init != "random":
        parts.append(f"{experiment.init} weights")
    if experiment.defense != "none":
        parts.append(f"defence {experiment.defense}")
    if experiment.clean_fraction:
        parts.append(f"{100 * experiment.clean_fraction:g} % clean images")
    return " · ".join(parts)


def panel_of(experiment: Experiment, metric: str) -> str:
    """The short name of a block, for a panel of a figure."""
    name = f"{experiment.setting} · {experiment.way}"
    return f"{name}, protected" if metric == "iou_protected" else name


def blocks_of(scores: list[Score], plan: list[dict] = ()) -> list[tuple[Experiment, str]]:
    """What the main table and the figures show one by one: every experiment in every metric it is judged by."""
    return [(one, metric) for one in experiments_of(scores, plan) for metric in metrics_of(one, scores)]


def seen_cells(found: dict | None) -> tuple[str, ...]:
    """The cells of `SEEN`, of the metrics of a poisoning; "–" where the images are as they were."""
    if found is None:
        return ("–",) * len(SEEN)
    largest = f"{found['linf_inside']:.0f} / {found['linf_outside']:.0f}"
    return (largest, number(found["rms"], 2), number(found["psnr"], 1), number(found["ssim"], 3))


def effect_table(scores: list[Score], plan: list[dict] = (), base: str = "", seen: Mapping[str, dict] = {}) -> Table:
    """The main table: what victims score on clean test images, by what they were trained on, and how visible that is.

    One recipe per line; `base` is put before the notebooks' relative paths; `seen` as `visibility` gives it.
    """
    rows: list[tuple[Cell, ...]] = []
    for experiment, metric in blocks_of(scores, plan):
        beside = nearest(experiment.task, experiment.dataset, experiment.victim, metric, "clean")
        heading = title_of(experiment, metric)
        rows.append(((heading, f"paper: {beside['note']}" if beside else ""),))
        for poison in recipes_of(experiment, scores, plan):
            score = find(scores, experiment, poison, metric)
            runs = [run for run in plan if run["experiment"] == experiment and run["poison"] == poison]
            changes = seen_cells(seen.get(f"{experiment.setting}-{poison}"))
            rows.append(_effect_row(score, scores, poison, metric, runs, base) + changes)
    columns = ("trained on", "paper", "of clean", "ours", "± std", "of clean", "difference", "peak", "seeds", *SEEN)
    return Table(columns, tuple(rows), "lrrrrrrrl" + "r" * len(SEEN))


def without_score(runs: list[dict]) -> str:
    """What stands where planned runs gave no score: "failed" if one of them was begun, else "not run"."""
    return "failed" if any(run["state"] == "failed" for run in runs) else "not run"


def _effect_row(score: Score | None, scores: list[Score], poison: str, metric: str, runs: list[dict], base: str):
    if score is None:
        return (poison, "–", "–", without_score(runs), "", "–", "–", "–", "–")
    own = score.experiment
    # a defended or mixed victim has other published numbers than the plain one
    paper = nearest(own.task, own.dataset, own.victim, metric, poison) if own.plain else None
    share = percent_of_clean(score, scores)
    difference = share[0] - paper["percent"] if paper and share else None
    return (
        poison,
        number(paper and paper["value"]),
        percent(paper and paper["percent"]),
        Link(number(score.mean), base + score.runs[0]["notebook"]),
        "" if score.std is None else f"± {number(score.std)}",
        percent(share and share[0]),
        signed(difference),
        number(score.peak),
        seed_cells(score, runs, base),
    )


def percent(value: float | None) -> str:
    """A share that is in percent already; a dash where there is none."""
    return "–" if value is None else f"{number(value)} %"


def seed_cells(score: Score, planned: list[dict], base: str) -> tuple[Link | str, ...]:
    """Its seeds, each leading to its notebook, then planned ones without a result, e.g. "(2: failed)"."""
    there = [run["seed"] for run in score.runs]
    links = (Link(str(run["seed"]), base + run["notebook"]) for run in score.runs)
    return (*links, *(f"({run['seed']}: {run['state']})" for run in planned if run["seed"] not in there))


def class_table(experiment: Experiment, scores: list[Score], base: str = "") -> Table:
    """IoU of every class under every recipe, those first that a clean-trained victim knows best, then by name.

    What there are more of goes down the page.
    """
    own = [s for s in scores if s.experiment == experiment and s.metric.startswith("iou:")]
    recipes = recipes_of(experiment, own)
    means = {(s.metric, s.poison): s for s in own}
    metrics = sorted({s.metric for s in own}, key=lambda m: (-_mean(means.get((m, "clean"))), m))
    rows = []
    for metric in metrics:
        cells = [means.get((metric, poison)) for poison in recipes]
        linked = [Link(number(s.mean), base + s.runs[0]["notebook"]) if s else "not run" for s in cells]
        rows.append((metric.removeprefix("iou:"), *linked))
    lines = [("class", *recipes), *rows]
    if len(recipes) > len(rows):
        lines = [("trained on", *lines[0][1:]), *lines[1:]]
        lines = list(zip(*lines))
    return Table(lines[0], tuple(lines[1:]), "l" + "r" * (len(lines[0]) - 1))


def _mean(score: Score | None) -> float:
    return score.mean if score else -1.0


def bars_of(scores: list[Score], plan: list[dict] = ()) -> dict[str, dict[str, tuple[float, float] | None]]:
    """For `figures.bars`: {block: {recipe: (percent of clean, std) or None}}."""
    groups = {}
    for experiment, metric in blocks_of(scores, plan):
        shares = {}
        for poison in recipes_of(experiment, scores, plan):
            score = find(scores, experiment, poison, metric)
            shares[poison] = percent_of_clean(score, scores) if score else None
        groups[panel_of(experiment, metric)] = shares
    return groups


def difference_rows(scores: list[Score]) -> list[dict]:
    """The main table as numbers, for metrics.json: one dict per (block, recipe)."""
    found = []
    for score in scores:
        own = score.experiment
        if score.metric not in metrics_of(own, scores):
            continue
        paper = nearest(own.task, own.dataset, own.victim, score.metric, score.poison)
        share, clean = percent_of_clean(score, scores), clean_of(score, scores)
        found.append(
            {
                "setting": own.setting,
                "way": own.way,
                "poison": score.poison,
                "metric": score.metric,
                "seeds": len(score.runs),
            }
            | {"mean": round(score.mean, 3), "std": None if score.std is None else round(score.std, 3)}
            | {"clean": round(clean.mean, 3) if clean else None, "percent": round(share[0], 2) if share else None}
            | {
                "paper": paper["value"] if paper else None,
                "paper_percent": round(paper["percent"], 2) if paper else None,
            }
        )
    return found
