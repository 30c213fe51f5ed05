"""What each poisoning did to the pictures, measured on the written files: a score without its budget means nothing."""

from pathlib import Path

from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.origin import stages_of
from unseg_lib.reporting.tables import SEEN, seen_cells


def visibility(results: str | Path) -> dict[str, dict]:
    """The realised budgets of every poisoned set, by "SETTING-RECIPE": linf_inside, linf_outside, rms, psnr, ssim."""
    found = {folder.name: metrics for folder, metrics in stages_of(Path(results), "poison")}
    return {name: metrics for name, metrics in found.items() if "linf_inside" in metrics}


def visibility_table(results: Path) -> Table:
    """One line for every poisoned set."""
    rows: list[tuple[Cell, ...]] = []
    for name, found in visibility(results).items():
        rows.append((Link(name, f"poison/{name}/run.ipynb"), str(found["pictures"]), *seen_cells(found)))
    return Table(("data set and recipe", "pictures", *SEEN), tuple(rows), "lr" + "r" * len(SEEN))
