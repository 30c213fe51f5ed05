"""The commands `unseg report`, `compare`, `pdf`, `publish` and `gallery`."""

from pathlib import Path

import typer

from unseg_lib import reporting


def report(results: Path) -> None:
    """Write RESULTS/report.html: one file with tables, curves, images and provenance."""
    print(f"Report: {reporting.write_report(results)}")


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
