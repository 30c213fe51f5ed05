"""What each poisoning did to the images, measured on the written files: a score without its budget means nothing."""

from pathlib import Path

from unseg_lib.reporting.html import Cell, Table
from unseg_lib.reporting.origin import notebook_link, stages_of
from unseg_lib.reporting.tables import SEEN, seen_cells


def visibility(results: str | Path) -> dict[str, dict]:
    """The realised budgets of every poisoned set, by "SETTING-RECIPE": linf_inside, linf_outside, rms, psnr, ssim."""
    return {folder.name: metrics for folder, metrics in _poisons(Path(results))}


def _poisons(results: Path) -> list[tuple[Path, dict]]:
    return [(folder, metrics) for folder, metrics in stages_of(results, "poison") if "linf_inside" in metrics]


def visibility_table(results: Path) -> Table:
    """One line for every poisoned set."""
    rows: list[tuple[Cell, ...]] = []
    for folder, found in _poisons(results):
        rows.append((notebook_link(folder.name, folder, results), str(found["images"]), *seen_cells(found)))
    return Table(("data set and recipe", "images", *SEEN), tuple(rows), "lr" + "r" * len(SEEN))
