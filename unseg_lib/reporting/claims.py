"""What is expected of the method, and whether the rows bear it out: computed, never typed."""

from dataclasses import dataclass

from unseg_lib.reporting.html import Table
from unseg_lib.reporting.paired import Difference, paired
from unseg_lib.reporting.scores import MODES, Score, clean_of, judged_by, main_metric, mode_of, on_common_seeds

HARMLESS = 93  # percent of the clean-trained score; what leaves more has no effect
STRONG = ("colour-offset", "grating")  # controls that are strong somewhere: who has not met them has beaten nobody
WELL_FILLED = ("person", "dog", "cat", "horse", "cow", "sheep")  # VOC classes the reduced real data knows well


@dataclass(frozen=True)
class Claim:
    """`recipe`'s share of the clean-trained score in `setting` lies on one side of `percent`.

    metric: "" is the experiment's own main metric; several are averaged before the share is taken.
    """

    text: str
    setting: str
    recipe: str
    side: str  # "below" or "above"
    percent: float
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim, and what was found: `holds` is None where runs are missing that would tell."""

    text: str
    holds: bool | None
    found: str


CLAIMS = (
    Claim("UnSeg on Lung leaves less than 10 % of the clean-trained score", "lung", "unseg", "below", 10),
    Claim("UnSeg's generator “colour” on Lung leaves less than 10 %", "lung", "unseg-colour", "below", 10),
    Claim("UnSeg on VOC, object against background, leaves less than 20 %", "voc-object", "unseg", "below", 20),
    Claim(
        "UnSeg's generator “texture” on VOC's objects leaves less than 20 %", "voc-object", "unseg-texture", "below", 20
    ),
    Claim(
        "UnSeg on VOC's well-filled classes leaves less than 20 %",
        *("voc", "unseg", "below", 20),
        tuple(f"iou:{name}" for name in WELL_FILLED),
    ),
    Claim(
        "UnSeg's generator “texture” on VOC's well-filled classes leaves less than 20 %",
        *("voc", "unseg-texture", "below", 20),
        tuple(f"iou:{name}" for name in WELL_FILLED),
    ),
    Claim(
        "UnSeg on CamVid's protected classes leaves less than 50 %",
        *("camvid", "unseg-things", "below", 50),
        ("iou_protected",),
    ),
    Claim(
        "UnSeg's generator “texture” on CamVid's protected classes leaves less than 50 %",
        *("camvid", "unseg-texture-things", "below", 50),
        ("iou_protected",),
    ),
    Claim(
        "UnSeg's generator “colour” on CamVid's protected classes leaves less than 50 %",
        *("camvid", "unseg-colour-things", "below", 50),
        ("iou_protected",),
    ),
)


def verdicts(scores: list[Score], claims: tuple[Claim, ...] = CLAIMS) -> list[Verdict]:
    """Judge the fixed claims whose setting is there, then the comparisons with the controls, victim by victim."""
    plain = [score for score in scores if score.experiment.plain]
    victims: dict[str, dict[str, list[Score]]] = {}
    for score in plain:
        of_setting = victims.setdefault(score.experiment.setting, {})
        of_setting.setdefault(score.experiment.way, []).append(score)
    judged = []
    for claim in claims:
        judged += [_judge(claim, own, who) for who, own in _named(victims.get(claim.setting, {}))]
    for setting in sorted(victims):
        for who, own in _named(victims[setting]):
            judged += _against_controls(setting, own, who)
    return judged


def share_of(scores: list[Score], setting: str, recipe: str, metrics: tuple[str, ...] = ()) -> float | None:
    """Percent of the clean-trained score that `recipe` leaves in `setting`, undefended, unmixed; None if not run."""
    found = _plain_scores(scores, setting, recipe)
    if not found:
        return None
    wanted = metrics or (main_metric(next(iter(found.values())).experiment),)
    if not set(wanted) <= set(found):
        return None
    cleans = [clean_of(found[metric], scores) for metric in wanted]
    if None in cleans:
        return None
    pairs = [on_common_seeds(found[metric], clean) for metric, clean in zip(wanted, cleans)]
    whole = sum(clean.mean for _, clean in pairs)
    return 100 * sum(own.mean for own, _ in pairs) / whole if whole else None


def _named(victims: dict[str, list[Score]]) -> list[tuple[str, list[Score]]]:
    """Each victim's scores, and what a claim's text says of it: its name where the setting has several."""
    return [(f" ({way})" if len(victims) > 1 else "", own) for way, own in victims.items()]


def _plain_scores(scores: list[Score], setting: str, recipe: str) -> dict[str, Score]:
    """The recipe's scores by metric, of the first victim in that setting that was trained as usual."""
    key = (setting, recipe)
    own = [s for s in scores if s.experiment.plain and (s.experiment.setting, s.poison) == key]
    return {s.metric: s for s in own if s.experiment == own[0].experiment}


def _judge(claim: Claim, scores: list[Score], who: str) -> Verdict:
    share = share_of(scores, claim.setting, claim.recipe, claim.metrics)
    if share is None:
        return Verdict(claim.text + who, None, "not run")
    holds = share < claim.percent if claim.side == "below" else share > claim.percent
    return Verdict(claim.text + who, holds, f"{share:.1f} %")


def _against_controls(setting: str, scores: list[Score], who: str) -> list[Verdict]:
    """Random noise must be harmless, and UnSeg stronger than the strongest control or rival that was run."""
    random = share_of(scores, setting, "random")
    found = [Verdict(f"Random noise on {setting}{who} leaves more than {HARMLESS} %", *_above(random, HARMLESS))]
    names = {s.poison for s in scores if s.experiment.setting == setting} - {"clean"}
    for own in sorted(name for name in names if name.startswith("unseg")):
        mode, metrics = mode_of(own), MODES[mode_of(own)]
        share = share_of(scores, setting, own, metrics)
        controls = [name for name in names if not name.startswith("unseg") and mode_of(name) == mode]
        shares = {name: left for name in controls if (left := share_of(scores, setting, name, metrics)) is not None}
        if shares and share is not None:
            best = min((left, name) for name, left in shares.items())[1]
            text = f"{own} on {setting}{who} works, and better than every control"
            difference = _difference(setting, own, best, scores)
            unmet = [name + mode_of(own) for name in STRONG if name + mode_of(own) not in shares]
            apart = f"; difference {difference}" if difference else ""
            apart += f"; {' and '.join(unmet)} not run" if unmet else ""
            beaten = f"; {best} {shares[best]:.1f} %, strongest of {len(shares)}"
            holds = _better(share, shares[best], difference, not unmet)
            found.append(Verdict(text, holds, f"{share:.1f} %{beaten}{apart}"))
    return found


def _better(share: float, control: float, difference: Difference | None, complete: bool) -> bool | None:
    """All of the difference's interval must lie on UnSeg's side; None where only more controls or seeds would tell."""
    interval = difference is not None and difference.high is not None
    if share >= min(control, HARMLESS) or (interval and difference.high >= 0):
        return False
    return True if complete and interval else None


def _difference(setting: str, own: str, other: str, scores: list[Score]) -> Difference | None:
    """The two recipes' scores seed by seed, in the metric they are compared in."""
    one, another = (_plain_scores(scores, setting, name) for name in (own, other))
    metric = judged_by(own, next(iter(one.values())).experiment)
    return paired(one[metric], another[metric])


def _above(share: float | None, percent: float) -> tuple[bool | None, str]:
    return (None, "not run") if share is None else (share > percent, f"{share:.1f} %")


def verdict_table(judged: list[Verdict]) -> Table:
    """The verdicts as a table, those that do not hold marked in words, not by colour alone."""
    words = {True: "✓ holds", False: "✗ does not hold", None: "– open"}
    return Table(("", "claim", "found"), tuple((words[one.holds], one.text, one.found) for one in judged), "lll")
