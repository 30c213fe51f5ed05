"""Answers to `questions.QUESTIONS` from the rows of one or two profiles: tables, bars and sentences, all computed.

Every arm stays in its table: what has no row is "not run" or "failed", and what is not published "not known".
"""

from collections.abc import Sequence

from unseg_lib.reporting.arms import Source, fits, score_of, source_of
from unseg_lib.reporting.drawing import QUIET, REDS, Drawing
from unseg_lib.reporting.figures import bars
from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.paired import CONFIDENCE, Difference, paired
from unseg_lib.reporting.published import published, value_of
from unseg_lib.reporting.questions import Arm, Question, Trial
from unseg_lib.reporting.scores import clean_of, in_percent_of, percent_of_clean
from unseg_lib.reporting.tables import METRICS, number, percent, seed_cells, signed, without_score

MAIN_METRICS = {"voc-object": "iou_object", "lung": "iou_object", "camvid": "miou"}
COLUMNS = ("ours", "± std", "of clean", "minus the first", "seeds", "PSNR", "SSIM")
PAPER_COLUMNS = ("paper", "of clean")


def answer_table(question: Question, sources: Sequence[Source]) -> Table:
    """Published numbers, ours as mean ± std over seeds, and the difference to the first arm, seed by seed."""
    rows: list[tuple[Cell, ...]] = []
    for order, trial in enumerate(question.trials):
        source = source_of(trial, sources)
        beside = question.paper if order == 0 else ()
        name = METRICS.get(metric_of(trial), metric_of(trial))
        rows.append(((f"{trial.setting} · {name}", f"paper: {question.note}" if beside else ""),))
        rows.append(("trained on clean images", *_paper(beside, "clean", question), *_clean(trial, source)))
        for arm in trial.arms:
            rows.append((arm.label, *_paper(beside, arm.paper, question), *_ours(arm, trial, source)))
    columns = ("", *(PAPER_COLUMNS if question.paper else ()), *COLUMNS)
    return Table(columns, tuple(rows), "l" + "r" * (len(columns) - 4) + "lrr", note_of(question))


def note_of(question: Question) -> str:
    """What the columns mean, as the table's caption."""
    return (
        "Clean test images, last epoch, percent; low protects. “Minus the first”: points against the first row of "
        f"its block after the clean one, seed by seed, with Student’s t interval of {CONFIDENCE:.0%}; of a victim at "
        "another size, both in percent of their own clean-trained score."
    )


def metric_of(trial: Trial) -> str:
    return trial.metric or MAIN_METRICS.get(trial.setting, "miou")


def _paper(place: tuple, method: str, question: Question) -> tuple[str, ...]:
    """The published number and its share of the clean one; nothing where the question has none."""
    if not question.paper:
        return ()
    if not place or not method:
        return ("–", "–")
    table, dataset, victim, metric = place
    value, clean = (value_of(table, dataset, victim, one, metric) for one in (method, "clean"))
    if value is None:
        return ("not known", "–")
    return (number(value), percent(100 * value / clean if clean else None))


def _clean(trial: Trial, source: Source | None) -> tuple[Cell, ...]:
    """The clean-trained victim of the trial's reference."""
    cells = _ours(Arm("", "clean"), trial, source)
    return (*cells[:3], "–", *cells[4:])


def _ours(arm: Arm, trial: Trial, source: Source | None) -> tuple[Cell, ...]:
    score = score_of(arm, trial, source) if source else None
    if score is None:
        return (without_score(_planned(arm, trial, source)), "", *("–",) * (len(COLUMNS) - 2))
    share = percent_of_clean(score, source.scores)
    difference = None if arm == trial.arms[0] else _difference(arm, trial, source)
    kept = arm.defense == "none"  # a defence changes the images once more, and nobody measured that
    look = source.seen.get(f"{trial.setting}-{arm.recipe}", {}) if kept else {}
    return (
        Link(number(score.mean), source.base + score.runs[0]["notebook"]),
        "" if score.std is None else f"± {number(score.std)}",
        percent(share and share[0]),
        _points(difference),
        seed_cells(score, _planned(arm, trial, source), source.base),
        number(look.get("psnr")),
        number(look.get("ssim"), 3),
    )


def _difference(arm: Arm, trial: Trial, source: Source) -> Difference | None:
    """An arm minus the first, seed by seed; where its victim is another one, each in percent of its own clean run."""
    pair = [score_of(one, trial, source) for one in (arm, trial.arms[0])]
    if None in pair:
        return None
    if arm.way != trial.arms[0].way:
        cleans = [clean_of(score, source.scores) for score in pair]
        pair = [in_percent_of(clean, score) if clean else None for clean, score in zip(cleans, pair)]
    return None if None in pair else paired(*pair)


def _points(difference: Difference | None) -> str:
    if difference is None:
        return "–"
    interval = "" if difference.low is None else f" [{signed(difference.low)}, {signed(difference.high)}]"
    return signed(difference.mean) + interval


def _planned(arm: Arm, trial: Trial, source: Source | None) -> list[dict]:
    plan = source.plan if source else []
    return [run for run in plan if fits(arm, trial.setting, run["experiment"], run["poison"])]


def answer_bars(trial: Trial, sources: Sequence[Source]) -> Drawing | None:
    """What each arm leaves of the clean-trained score, UnSeg's in red; None where nothing was run."""
    source = source_of(trial, sources)
    scores = {arm: score_of(arm, trial, source) if source else None for arm in trial.arms if arm.recipe}
    if not any(scores.values()):
        return None
    shares = {arm.label: score and percent_of_clean(score, source.scores) for arm, score in scores.items()}
    colours = {arm.label: REDS[0] if arm.recipe.startswith("unseg") else QUIET[0] for arm in scores}
    title = f"{trial.setting} · {METRICS.get(metric_of(trial), metric_of(trial))}"
    return bars({title: shares}, xlabel="% of clean-trained score", colours=colours)


def answer(question: Question, sources: Sequence[Source]) -> list:
    """What a notebook displays: the table, the bars where there is a run, and what was found."""
    from IPython.display import Markdown

    drawings = [drawing for trial in question.trials if (drawing := answer_bars(trial, sources))]
    said = Markdown("\n".join(f"* {finding(trial, sources)}" for trial in question.trials))
    return [answer_table(question, sources), *drawings, said]


def finding(trial: Trial, sources: Sequence[Source]) -> str:
    """One sentence for a trial: which arms protect better or worse than the first, and what cannot be said."""
    source, kinds = source_of(trial, sources), {}
    first = score_of(trial.arms[0], trial, source) if source else None
    for arm in trial.arms[1:]:
        run = source and score_of(arm, trial, source)
        kind = _kind(_difference(arm, trial, source)) if run else "not run"
        kinds.setdefault(kind, []).append(arm.label)
    if first is None:
        return f"{trial.setting}: “{trial.arms[0].label}” is not run, so there is nothing to compare with."
    share = percent_of_clean(first, source.scores)
    left = f"{number(share[0])} % of the clean-trained score" if share else f"{number(first.mean)} %"
    order = ("better", "worse", "no difference shown", "too few common seeds", "not run")
    told = "; ".join(f"{kind}: {' · '.join(kinds[kind])}" for kind in order if kind in kinds)
    return f"{trial.setting}: “{trial.arms[0].label}” leaves {left}. Compared with it, {told}."


def _kind(difference: Difference | None) -> str:
    if difference is None or difference.low is None:
        return "too few common seeds"
    return "better" if difference.high < 0 else "worse" if difference.low > 0 else "no difference shown"


def class_table() -> Table:
    """The paper's class-wise protection (Table 7): IoU of five classes where these alone are protected."""
    own = [row for row in published() if row["table"] == "7" and row["metric"].startswith("iou:")]
    methods = list(dict.fromkeys(row["method"] for row in own))
    found = {(row["metric"], row["method"]): row["value"] for row in own}
    metrics = dict.fromkeys(row["metric"] for row in own)
    rows = [(name.removeprefix("iou:"), *(number(found[name, method]) for method in methods)) for name in metrics]
    return Table(("class", *methods), tuple(rows), "l" + "r" * len(methods))
