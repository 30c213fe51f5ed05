"""The commands `unseg report`, `compare`, `pdf`, `publish` and `gallery`, and the one table of README.md."""

import re
from pathlib import Path
from typing import Annotated

import typer

from unseg_lib import reporting
from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes

BEGIN, END = "<!-- results: written by `unseg report` -->", "<!-- end of results -->"
# README's table: its columns as (setting, metric, end of the recipes' names), its lines as (recipe, defence)
COLUMNS = {
    "Lung, IoU": ("lung", "iou_object", ""),
    "VOC objects, IoU": ("voc-object", "iou_object", ""),
    "NWPU objects, IoU": ("nwpu-object", "iou_object", ""),
    "CamVid's cars, IoU": ("camvid", "iou:car", "-things"),
}
STRONGEST = "the strongest control"
LINES = {"clean images": ("clean", "none"), "random noise, everywhere alike": ("random-flat", "none")}
LINES |= {"random noise, UnSeg's two budgets": ("random", "none"), STRONGEST: ("", "none"), "UnSeg": ("unseg", "none")}
LINES |= {"random noise, published large": ("random", "shrunk"), "UnSeg, published large": ("unseg", "shrunk")}
Readme = Annotated[Path | None, typer.Option(help="also put the results table into this file")]


def report(results: Path, readme: Readme = None) -> None:
    """Write RESULTS/report.html: one file with tables, curves, images and provenance."""
    print(f"Report: {reporting.write_report(results)}")
    if readme:
        write_results(readme, results)


def compare(first: Path, second: Path) -> None:
    """Whether SECOND, say results/small of another clone, bears out the numbers of FIRST; if not, exit code 1.

    Scores of one seed have no error bar: they are shown, not judged.
    """
    one = reporting.load(first)
    pairs = reporting.repeated(one, reporting.load(second))
    print(reporting.repetition_table(pairs).markdown())
    found = reporting.repetition(pairs, reporting.scores(one).judged.sum()).dropna()
    print("", *(f"{name}: {value:g}" for name, value in found.round(1).items()), sep="\n")
    raise typer.Exit(int((pairs.word == "outside").any()))


def pdf(results: Path) -> None:
    """Print RESULTS/report.html to RESULTS/report.pdf with Debian's chromium."""
    print(f"On paper: {reporting.write_pdf(results)}")


def publish(results: Path) -> None:
    """Take the data sets' images out of notebooks, predictions and report, so that RESULTS may be passed on."""
    from unseg_lib.pipeline import copies_in, strip_results

    for _ in range(2):  # pages that the report executes anew show images again; the second time it executes none
        strip_results(results)
        page = reporting.write_report(results)
    print(f"Without images: {page}")
    if left := copies_in(results):
        print(f"Not to be passed on, as they hold images: {', '.join(map(str, left))}")


def gallery() -> None:
    """Run the notebooks whose code has changed, at their defaults, and keep them executed in results/gallery/."""
    from unseg_lib.pipeline import project_root

    print(f"Executed copies: {len(reporting.write_gallery(project_root()))} in results/gallery/")


def results_table(results: str | Path) -> str:
    """README's table in Markdown: the scores of each data set's first victim, mean ± std over seeds in percent."""
    import pandas as pd

    known, lines = reporting.scores(reporting.load(results)), pd.DataFrame({"trained on": list(LINES)})
    known = known[(known.clean_fraction == 0) & known.label.isin(["", "shrunk"])]
    for heading, (setting, metric, end) in COLUMNS.items():
        own = known[(known.setting == setting) & (known.metric == metric)]
        own = own[own.who == own.who.head(1).max()].set_index(["recipe", "defense"])
        if own.empty:
            continue
        cells = pd.Series(list(map(reporting.spread, own["mean"], own["std"])), own.index, dtype=object)
        names = [(recipe if recipe == "clean" else recipe + end, defense) for recipe, defense in LINES.values()]
        column = pd.Series([cells.get(name) for name in names], list(LINES))
        # as many seeds as the others, and of the same mode
        plain = own.xs("none", level="defense")
        rivals = plain[(plain.n == plain.n.max()) & plain.index.str.endswith(end)]["mean"]
        rivals = rivals[[not (reporting.is_own(name) or name.startswith(("clean", "random"))) for name in rivals.index]]
        if len(rivals):
            best = rivals.idxmin()
            column[STRONGEST] = f"{cells[best, 'none']} ({best.removesuffix(end)})"
        lines[heading + own.start.iloc[0]] = column.to_numpy()
    return reporting.table(lines.dropna(thresh=2)).markdown()


def write_results(readme: str | Path, results: str | Path) -> None:
    """Replace what stands between the two markers of `readme` by the table of `results`."""
    table = f"{BEGIN}\n\n{results_table(results)}\n\n{END}"
    text, found = re.subn(f"{BEGIN}.*?{END}", lambda _: table, Path(readme).read_text(), count=1, flags=re.DOTALL)
    if not found:
        raise UnsegError(f"Expected the lines '{BEGIN}' and '{END}' in {readme}, found none; put them back.")
    write_bytes(readme, text.encode())
