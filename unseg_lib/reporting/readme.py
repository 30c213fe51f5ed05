"""The results tables of README.md, written from rows.csv so that the two cannot differ."""

from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes
from unseg_lib.reporting.defended import Grid, axes_of, defence_grids
from unseg_lib.reporting.scores import Experiment, Score, percent_of_clean, plain_only, read_rows, scores_of
from unseg_lib.reporting.stand_ins import stand_in_table, stand_ins_beside
from unseg_lib.reporting.tables import SEEN, blocks_of, find, recipes_of, seen_cells, title_of
from unseg_lib.reporting.transfer import transfer_table
from unseg_lib.reporting.visibility import visibility

BEGIN, END = "<!-- results: written by `unseg report` -->", "<!-- end of results -->"


def results_table(results: str | Path) -> str:
    """Markdown: one table per experiment and metric, and what is left under defences."""
    scores, seen = scores_of(read_rows(results)), visibility(results)
    usual, _ = plain_only(scores)
    parts = [_scores(*block, usual, seen) for block in blocks_of(usual)]
    return "\n\n".join(parts + [_defences(title_of(one), grid) for one, grid in defence_grids(scores).items()])


def _scores(experiment: Experiment, metric: str, scores: list[Score], seen: dict[str, dict]) -> str:
    """Final scores in percent as mean ± std over seeds, beside what the poison did to the files."""
    lines = [f"**{title_of(experiment, metric)}**, in %:", ""]
    lines += [f"| trained on | score | of clean | seeds | {' | '.join(SEEN)} |", "|---" * (4 + len(SEEN)) + "|"]
    for poison in recipes_of(experiment, scores):
        score = find(scores, experiment, poison, metric)
        if score:
            share = percent_of_clean(score, scores)
            spread = f" ± {score.std:.1f}" if score.std is not None else ""
            of_clean = f"{share[0]:.0f} %" if share else "–"
            changes = " | ".join(seen_cells(seen.get(f"{experiment.setting}-{poison}")))
            lines.append(f"| {poison} | {score.mean:.1f}{spread} | {of_clean} | {len(score.runs)} | {changes} |")
    return "\n".join(lines)


def _defences(title: str, grid: Grid) -> str:
    """What is left under each defence, in percent of the undefended clean score."""
    recipes, defenses = axes_of(grid)
    lines = [f"**{title} · under defences**, in % of the undefended clean score:", ""]
    lines += [f"| defence | {' | '.join(recipes)} |", "|---" * (1 + len(recipes)) + "|"]
    for defense in defenses:
        shares = [f"{grid[recipe][defense]:.0f}" if defense in grid[recipe] else "–" for recipe in recipes]
        lines.append(f"| {defense} | {' | '.join(shares)} |")
    return "\n".join(lines)


def systems_table(results: str | Path) -> str:
    """Markdown: a line for each stand-in of the paper's systems."""
    return stand_in_table(stand_ins_beside(results)).markdown()


TABLES = {"transfer": transfer_table, "systems": systems_table}


def write_results(readme: str | Path, results: str | Path) -> None:
    """Replace what stands between the two markers of `readme` by the table of `results`.

    A profile of `TABLES` has a table and markers of its own.
    """
    readme, name = Path(readme), Path(results).resolve().name
    first, last = (mark.replace("results", name) if name in TABLES else mark for mark in (BEGIN, END))
    table = TABLES.get(name, results_table)(results)
    before, begin, rest = readme.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end):
        raise UnsegError(f"Expected the lines '{first}' and '{last}' in {readme}, found none; put them back.")
    write_bytes(readme, f"{before}{first}\n\n{table}\n\n{last}{after}".encode())
