"""The results table of README.md, written from rows.csv so that the two cannot differ."""

from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes
from unseg_lib.reporting.scores import percent_of_clean, read_rows, scores_of
from unseg_lib.reporting.tables import blocks_of, find, recipes_of, title_of

BEGIN, END = "<!-- results: written by `unseg report` -->", "<!-- end of results -->"


def results_table(results: str | Path) -> str:
    """Markdown: one table per experiment and metric, final scores in percent as mean ± std over seeds."""
    scores, parts = scores_of(read_rows(results)), []
    for experiment, metric in blocks_of(scores):
        lines = [f"**{title_of(experiment, metric)}**, in %:", ""]
        lines += ["| trained on | score | of clean | seeds |", "|---|---|---|---|"]
        for poison in recipes_of(experiment, scores):
            score = find(scores, experiment, poison, metric)
            if score:
                share = percent_of_clean(score, scores)
                spread = f" ± {score.std:.1f}" if score.std is not None else ""
                of_clean = f"{share[0]:.0f} %" if share else "–"
                lines.append(f"| {poison} | {score.mean:.1f}{spread} | {of_clean} | {len(score.runs)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write_results(readme: str | Path, results: str | Path) -> None:
    """Replace what stands between the two markers of `readme` by the table of `results`."""
    readme = Path(readme)
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UnsegError(f"Expected the lines '{BEGIN}' and '{END}' in {readme}, found none; put them back.")
    write_bytes(readme, f"{before}{BEGIN}\n\n{results_table(results)}\n\n{END}{after}".encode())
