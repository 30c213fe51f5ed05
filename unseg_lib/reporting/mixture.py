"""Mixtures of clean and protected images beside the clean images alone, ours and the paper's Tables 5, 8 and 9."""

from collections.abc import Iterable

from unseg_lib.reporting.drawing import Drawing
from unseg_lib.reporting.figures import curves
from unseg_lib.reporting.html import Table
from unseg_lib.reporting.published import published
from unseg_lib.reporting.scores import Score, main_metric
from unseg_lib.reporting.tables import number

Lines = dict[str, dict[float, float | None]]  # line -> clean share -> percent
SHARES = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
PAPER_TABLES = ("5", "8", "9")


def paper_mixtures() -> dict[str, Lines]:
    """The paper's curves by "Table 9, kvasir, victim": lines "clean only" and "mixed", None where we do not know."""
    found: dict[str, Lines] = {}
    for row in published():
        if row["table"] in PAPER_TABLES and (place := _place(row["method"])):
            title = f"Table {row['table']}, {row['dataset']}, {row['victim']}"
            lines = found.setdefault(title, {"clean only": {}, "mixed": {}})
            for line in place[0]:
                lines[line][place[1]] = row["value"]
    return found


def _place(method: str) -> tuple[tuple[str, ...], float] | None:
    """The lines and the share that a published number belongs to: 100 % clean is the end of both."""
    if method == "clean":
        return ("clean only", "mixed"), 1.0
    if method == "unseg":
        return ("mixed",), 0.0
    line, _, share = method.rpartition(" ")
    names = {"clean-only": "clean only", "mixed": "mixed"}
    return ((names[line],), float(share.rstrip("%")) / 100) if line in names else None


def our_mixtures(scores: list[Score]) -> dict[str, Lines]:
    """Our curves by "setting, victim": "clean only" are runs on clean images, and a line for every other recipe.

    Empty where no run has a clean share between 0 and 1.
    """
    found: dict[str, Lines] = {}
    own = [s for s in scores if s.metric == main_metric(s.experiment) and s.experiment.defense == "none"]
    mixed = {(s.experiment.setting, s.experiment.victim, s.poison) for s in own if 0 < s.experiment.clean_fraction < 1}
    for score in own:
        one = score.experiment
        if (one.setting, one.victim, score.poison) not in mixed and score.poison != "clean":
            continue
        lines = found.setdefault(f"{one.setting}, {one.victim}", {})
        alone = score.poison == "clean"
        name = "clean only" if alone else f"mixed with {score.poison}"
        # without a mixture, all clean images are there
        share = 1.0 if alone and not one.clean_fraction else one.clean_fraction
        lines.setdefault(name, {})[share] = score.mean
    return {title: lines for title, lines in found.items() if len(lines) > 1}


def mixture_table(curves: dict[str, Lines], shares: Iterable[float] = SHARES) -> Table:
    """One line per curve, one column per clean share, in percent; "–" where there is none or we do not know it."""
    shares = tuple(shares)
    rows: list[tuple] = []
    for title, lines in curves.items():
        rows.append(((title,),))
        rows += [(name, *(number(values.get(share)) for share in shares)) for name, values in lines.items()]
    columns = ("trained on", *(f"{100 * share:g} % clean" for share in shares))
    return Table(columns, tuple(rows), "l" + "r" * len(shares))


def mixture_curves(lines: Lines, ylabel: str = "clean test, %") -> Drawing:
    """The lines over the share of clean images, in percent; a share that a line does not know leaves a gap."""
    shares = sorted({share for values in lines.values() for share in values})
    series = {
        name: [float("nan") if values.get(share) is None else values[share] for share in shares]
        for name, values in lines.items()
    }
    return curves(series, x=[100 * share for share in shares], xlabel="clean images, %", ylabel=ylabel)
