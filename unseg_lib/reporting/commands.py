"""The commands `unseg report`, `compare`, `pdf` and `publish`."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Path,
    readme: Annotated[Path | None, typer.Option(help="also put the results table into this file")] = None,
) -> None:
    """Write RESULTS/report.html: one file with tables, curves, images and provenance."""
    from unseg_lib.reporting.readme import write_results
    from unseg_lib.reporting.report import write_report

    print(f"Report: {write_report(results)}")
    if readme:
        write_results(readme, results)


def compare(first: Path, second: Path) -> None:
    """Whether SECOND, say results/small of another clone, bears out the numbers of FIRST; if not, exit code 1.

    Scores of one seed have no error bar: they are shown, not judged.
    """
    from unseg_lib.reporting import repetition

    pairs, told = repetition.compare(first, second)
    print(repetition.repetition_table(pairs).markdown(), told, sep="\n")
    raise typer.Exit(int(any(pair.same is False for pair in pairs)))


def pdf(results: Path) -> None:
    """Print RESULTS/report.html to RESULTS/report.pdf with Debian's chromium."""
    from unseg_lib.reporting.pdf import write_pdf

    print(f"On paper: {write_pdf(results)}")


def publish(results: Path) -> None:
    """Take the data sets' images out of notebooks, predictions and report, so that RESULTS may be passed on."""
    from unseg_lib.reporting import publish as images

    print(f"Without images: {images.publish(results)}")
    if left := images.copies_in(results):
        print(f"Not to be passed on, as they hold images: {', '.join(map(str, left))}")
