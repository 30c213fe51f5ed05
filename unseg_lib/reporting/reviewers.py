"""The reviewers' questions, each answered in two sentences: the paper's numbers, then ours. No number is typed here."""

from collections.abc import Callable, Sequence

from unseg_lib.reporting.arms import Source, score_of, source_of
from unseg_lib.reporting.claims import HARMLESS
from unseg_lib.reporting.defended import PAPER, TABLE_4, defence_grids, metric_of, undefended
from unseg_lib.reporting.paired import paired
from unseg_lib.reporting.published import value_of
from unseg_lib.reporting.questions import QUESTIONS, Arm, Trial
from unseg_lib.reporting.scores import Experiment, Score, on_common_seeds, percent_of_clean
from unseg_lib.reporting.tables import number

TABLE_11 = ("11", "voc", "deeplabv1-wideresnet38")
TABLE_8 = ("8", "voc", "deeplabv1-wideresnet38")
SHARE = 0.2
ENOUGH = 3  # other defences, below which none of them says whether JPEG is the weak point
RECIPES = {"lung": "unseg-colour", "voc-object": "unseg"}


def answers(sources: Sequence[Source]) -> dict[str, str]:
    """{question: two sentences}; what has no row is said to be not run."""
    return {
        "Is random initialisation really better?": f"{_published_start()} {_start(sources)}",
        "Is 20 % of clean data enough to undo the protection?": f"{_published_mixture()} {_ours(_mixture, sources)}",
        "Is JPEG the weak point?": f"{_published_jpeg()} {_ours(_jpeg, sources)}",
    }


def _published_start() -> str:
    random, sam, clean = (number(value_of(*TABLE_11, m, "miou")) for m in ("unseg init=random", "unseg", "clean"))
    return (
        f"In the paper a random start leaves {random} % mean IoU where SAM’s frozen weights leave {sam} % (clean: "
        f"{clean} %, one run each); a pretrained start is not run here, because no weights come with the kit."
    )


def _start(sources: Sequence[Source]) -> str:
    """Trained from random weights against never trained: what the kit can say without pretrained weights."""
    trial = QUESTIONS["start"].trials[0]
    trained, never = trial.arms[0], next(arm for arm in trial.arms if arm.recipe == "untrained")
    source = source_of(trial, sources)
    one, other = (score_of(arm, trial, source) if source else None for arm in (trained, never))
    if not (one and other):
        return f"On {trial.setting} training from random weights against no training is not run."
    shares = [_share(score, source) for score in (one, other)]
    return (
        f"On {trial.setting} a generator trained from random weights leaves {shares[0]} of the clean-trained score, "
        f"one never trained, scaled up as far as it goes, {shares[1]}; difference {paired(one, other) or 'not known'}."
    )


def _share(score, source: Source) -> str:
    share = percent_of_clean(score, source.scores)
    return f"{number(share[0])} %" if share else "an unknown share"


def _published_mixture() -> str:
    mixed, alone, every = (number(value_of(*TABLE_8, m, "miou")) for m in ("mixed 20%", "clean-only 20%", "clean"))
    return (
        f"In the paper 20 % of clean images among protected ones give {mixed} % mean IoU, the same share alone "
        f"{alone} %, all images clean {every} %."
    )


def _ours(answer: Callable[[str, Sequence[Source]], str], sources: Sequence[Source]) -> str:
    return f"Ours: {'; '.join(answer(setting, sources) for setting in RECIPES)}."


def _mixture(setting: str, sources: Sequence[Source]) -> str:
    arms = (Arm("", RECIPES[setting], clean_fraction=SHARE), Arm("", "clean", clean_fraction=SHARE))
    trial = Trial(setting, (*arms, Arm("", "clean")))
    source = source_of(trial, sources)
    mixed, alone, every = (score_of(arm, trial, source) if source else None for arm in trial.arms)
    if not (mixed and alone and every and every.mean > 0):
        return f"on {setting} not run"
    own, full = on_common_seeds(mixed, every)
    enough = 100 * own.mean > HARMLESS * full.mean
    return (
        f"on {setting} the mixture gives {number(own.mean)} %, the same clean images alone {number(alone.mean)} %"
        f"{_apart(mixed, alone)}, all images clean {number(full.mean)} %: "
        f"20 % are {'' if enough else 'not '}enough for {HARMLESS} % of that"
    )


def _apart(one: Score, other: Score) -> str:
    difference = paired(one, other)
    return f", difference {difference}" if difference else ""


def _published_jpeg() -> str:
    clean, jpeg = (number(value_of(*TABLE_4, m, "miou")) for m in ("clean", "unseg+jpeg"))
    others = {
        kind: value_of(*TABLE_4, method, "miou") for kind, method in PAPER.items() if kind not in ("none", "jpeg")
    }
    best = max(others, key=others.get)
    return (
        f"In the paper a victim behind JPEG reaches {jpeg} % mean IoU (clean: {clean} %), behind the next best "
        f"defence, {best}, {number(others[best])} %."
    )


def _jpeg(setting: str, sources: Sequence[Source]) -> str:
    """The best quality for the attacker against the best defence of another kind, of the source that tried most.

    They are chosen over the seeds that all defences ran, and told over those that each of the two ran.
    """
    recipe = RECIPES[setting]
    lines = [
        (grid[recipe], experiment, source.scores)
        for source in sources
        for experiment, grid in defence_grids(source.scores).items()
        if experiment.setting == setting and recipe in grid
    ]
    line, experiment, scores = max(lines, key=lambda found: len(found[0]), default=({}, None, []))
    jpegs = [name for name in line if name.startswith("jpeg ")]
    others = [name for name in line if name not in jpegs and name != "none"]
    if not jpegs or len(others) < ENOUGH:
        return f"on {setting} JPEG against {ENOUGH} other defences is not run"
    best, other = (max(names, key=line.get) for names in (jpegs, others))
    jpeg, rival = (_defended(experiment, recipe, defense, scores) for defense in (best, other))
    shares = [number(percent_of_clean(score, scores)[0]) for score in (jpeg, rival)]
    return (
        f"on {setting} JPEG gives back at most {shares[0]} % of the clean-trained score ({best}) and {other} "
        f"{shares[1]} %{_apart(jpeg, rival)}: JPEG is {'' if line[best] >= line[other] else 'not '}the weak point"
    )


def _defended(experiment: Experiment, recipe: str, defense: str, scores: list[Score]) -> Score:
    """The score behind an entry of an experiment's grid."""
    wanted = (experiment, recipe, defense, metric_of(experiment, scores))
    return next(s for s in scores if (undefended(s.experiment), s.poison, s.experiment.defense, s.metric) == wanted)
