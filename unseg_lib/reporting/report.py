"""The report: results/<profile>/report.html, a book in one file with tables, curves, images and provenance.

A summary comes first, then the contents and a section for every question; the last list has every run. Every number is
computed from rows.csv or from the metrics of a stage, and links to the executed notebook.
The file needs no network, no script and no other file, except where a link leads.
"""

from html import escape
from pathlib import Path

from unseg_lib.files import write_bytes
from unseg_lib.reporting.ablations import answer_bars, answer_table, finding
from unseg_lib.reporting.arms import Source, asked, is_variant, sources_of
from unseg_lib.reporting.claims import Verdict, verdict_table, verdicts
from unseg_lib.reporting.defended import defence_grids, heat_map, metric_of, table_4
from unseg_lib.reporting.figures import bars, curve_panels, show_rows
from unseg_lib.reporting.gallery import PHOTOGRAPH, curves_of, predictions_of
from unseg_lib.reporting.html import Table
from unseg_lib.reporting.mixture import mixture_curves, mixture_table, our_mixtures, paper_mixtures
from unseg_lib.reporting.origin import generator_tables, origin_table
from unseg_lib.reporting.page import figure, framed, page
from unseg_lib.reporting.paired import ENOUGH, paired_table
from unseg_lib.reporting.questions import QUESTIONS, Question
from unseg_lib.reporting.recipes import legend
from unseg_lib.reporting.repetition import compare, repetition_table, second_of
from unseg_lib.reporting.reviewers import answers
from unseg_lib.reporting.scores import Experiment, Score, plain_only, planned, read_rows, scores_of
from unseg_lib.reporting.stand_ins import stand_in_table, stand_ins_beside
from unseg_lib.reporting.summary import lead, machines, pages_table, runs_table
from unseg_lib.reporting.systems import full_tables, system_table
from unseg_lib.reporting.tables import bars_of, blocks_of, class_table, effect_table, experiments_of, panel_of, title_of
from unseg_lib.reporting.visibility import visibility, visibility_table

READING = (
    "Victims are trained on protected images and tested on clean ones. Scores are intersection over union in "
    "percent after the last epoch, mean and standard deviation over seeds; low means protected. “Of clean” is the "
    "share of what the same victim, under the same seeds, reaches when it is trained on clean images. “Difference” "
    "is ours minus the paper’s in that share, in points: the paper’s victims and images are named in each heading, "
    "and are not always ours. “Peak” is the best epoch, which only somebody with a clean test set could pick. Every "
    "number leads to its notebook. The last columns measure the protected files: largest change inside and outside "
    "the mask and rms, in steps of 1/255, PSNR in dB, SSIM. A score means little without them: SynPer, AR and CUDA "
    "keep to no budget."
)
BESIDE = {"small": "ablations", "ablations": "small"}  # on the same images


def write_report(results: str | Path, photographs: bool = True) -> Path:
    """Write `results/report.html` from what is in the folder; raises `UnsegError` where there are no rows.

    Without `photographs` predictions are shown beside the true masks alone: for publishing, see `publish.py`.
    """
    results = Path(results)
    rows, plan = read_rows(results), planned(results)
    scores, sources = scores_of(rows), sources_of([results, *_beside(results)], results)
    main, main_plan = _without_variants(scores, plan)
    usual, usual_plan = plain_only(main, main_plan)
    repeated, repetition = _again(results)
    parts = [
        ("Summary", _summary(results, rows, plan, main, sources, repeated)),
        ("Paper, ours, difference", _effect(results, usual, usual_plan)),
        ("Seed by seed", _paired(usual)),
        ("While they learn", _curves(results, usual)),
        ("What they predict", _predictions(results, usual, photographs)),
        ("Class by class", _classes(usual)),
        ("What an attacker can do", _defences(scores)),
        ("Clean images among them", _mixtures(scores)),
        *((question.title, _question(question, sources)) for question in QUESTIONS.values()),
        ("Questions without a run", _unanswered(sources)),
        ("How visible the noise is", _visibility(results)),
        ("How the generators were trained", _generators(results)),
        ("Questions with a notebook of their own", framed(pages_table(results))),
        ("The paper’s systems", _systems(results, scores)),
        ("Run a second time", repetition),
        ("Every run", _runs(results, rows, plan)),
        ("Where the numbers come from", framed(origin_table(results, rows))),
    ]
    write_bytes(results / "report.html", page(results.resolve().name, parts).encode())
    return results / "report.html"


def _without_variants(scores: list[Score], plan: list[dict]) -> tuple[list[Score], list[dict]]:
    """What is not one question's alone; the variants stand in the sections of their questions."""
    kept = [score for score in scores if not is_variant(score.experiment, score.poison)]
    return kept, [run for run in plan if not is_variant(run["experiment"], run["poison"])]


def _beside(results: Path) -> list[Path]:
    """The results that answer what these do not ask; none for a profile on other data, such as smoke."""
    own = results.resolve()
    return [own.parent / BESIDE[own.name]] if own.name in BESIDE else []


def _summary(
    results: Path, rows: list[dict], plan: list[dict], scores: list[Score], sources: list[Source], repeated: str
) -> str:
    """The first page: what was run and where, what holds, and the reviewers' questions."""
    told = "".join(f"<p><b>{escape(asked)}</b> {escape(text)}</p>" for asked, text in answers(sources).items())
    return (
        f'<p class="lead">{escape(lead(results, rows, plan))}</p><p>{escape(machines(results))}</p>'
        f"{repeated}<h3>What holds, and what does not</h3>{_verdicts(verdicts(scores))}"
        f"<h3>The reviewers’ questions</h3>{told}"
    )


def _question(question: Question, sources: list[Source]) -> str:
    """A question that some run answers: what was found, the table, the bars; "" for the others."""
    if not asked(question, sources):
        return ""
    found = "".join(f"<li>{escape(finding(trial, sources))}</li>" for trial in question.trials)
    drawings = [(trial, answer_bars(trial, sources)) for trial in question.trials]
    alt = f"{question.title}: percent of the clean-trained score on"
    figures = "".join(figure(drawing, f"{alt} {trial.setting}") for trial, drawing in drawings if drawing)
    return f"<p>{escape(question.text)}</p><ul>{found}</ul>{framed(answer_table(question, sources))}{figures}"


def _unanswered(sources: list[Source]) -> str:
    """Questions of which nothing but the reference was run, each with what is missing."""
    rows = [
        (question.title, question.text, "; ".join(arm.label for trial in question.trials for arm in trial.arms[1:]))
        for question in QUESTIONS.values()
        if not asked(question, sources)
    ]
    note = "Only their reference, or nothing, was run: profile ablations has the runs."
    return f'<p class="note">{note}</p>{framed(Table(("", "question", "not run"), tuple(rows), "lll"))}' if rows else ""


def _again(results: Path) -> tuple[str, str]:
    """What a second run found, for the first page and as a section of its own; both "" without one."""
    second = second_of(results)
    if second is None:
        return "", ""
    pairs, told = compare(results, second)
    table = framed(repetition_table(pairs, again=f"../{second.name}/"))
    return f"<p>Run a second time: {escape(told)}</p>", f"<p>{escape(told)}</p>{table}"


def _runs(results: Path, rows: list[dict], plan: list[dict]) -> str:
    note = "Each name leads to the executed notebook. What was planned or begun and has no result comes last."
    return f'<p class="note">{note}</p>{framed(runs_table(results, rows, plan))}'


def _verdicts(judged: list[Verdict]) -> str:
    if not judged:
        return ""
    counts = [sum(one.holds is state for one in judged) for state in (True, False, None)]
    text = "Computed from the rows: {} hold, {} do not, {} cannot be judged yet.".format(*counts)
    text += " The numbers and their notebooks are in the sections below."
    return f"<p>{text}</p>{framed(verdict_table(judged))}"


def _effect(results: Path, scores: list[Score], plan: list[dict]) -> str:
    drawing = bars(bars_of(scores, plan), xlabel="% of clean-trained score")
    caption = "What is left of the clean-trained score. UnSeg in red; the other colours are controls."
    table = framed(effect_table(scores, plan, seen=visibility(results)))
    names = legend(dict.fromkeys(score.poison for score in scores), results)
    return f'<p>{escape(READING)}</p><p class="note">{escape(names)}</p>{table}{figure(drawing, caption, caption)}'


def _defences(scores: list[Score]) -> str:
    """Victims trained with a defence: one heat map for every data set and victim, and the paper's Table 4."""
    grids = defence_grids(scores)
    caption = (
        "Percent of the undefended, clean-trained score: dark learns, light does not; “clean”: a defence's cost. "
        "A column is over the seeds that all its defences ran, so it may differ from the tables above."
    )
    maps = ""
    for one, grid in grids.items():
        maps += _titled(one, figure(heat_map(grid), caption, caption), metric_of(one, scores))
    return f"{maps}<h3>The paper’s Table 4</h3>{framed(table_4(grids))}" if grids else ""


def _paired(scores: list[Score]) -> str:
    """UnSeg against every control and rival, differences within seeds."""
    table = framed(paired_table(experiments_of(scores), scores))
    note = (
        "UnSeg’s score minus another’s under the same seed, in points, mean and Student’s t interval over seeds: "
        f"below zero is better protected. Fewer than {ENOUGH} common seeds give no interval and are left out."
    )
    return f'<p class="note">{note}</p>{table}' if table else ""


def _mixtures(scores: list[Score]) -> str:
    """Curves over the share of clean images, against the same clean images alone; the paper's beside them."""
    found = ""
    for title, lines in our_mixtures(scores).items():
        shares = {share for line in lines.values() for share in line}
        found += figure(mixture_curves(lines), f"{title}: clean test score by share of clean images", title)
        found += framed(mixture_table({title: lines}, sorted(shares)))
    runs = sorted({len(score.runs) for score in scores if 0 < score.experiment.clean_fraction < 1})
    if runs:
        few = f"Between the ends {runs[0]} seed{'s' * (runs[0] > 1)} a point"
        found += f'<p class="note">{few}; what there is of 20 % with more seeds is in the summary.</p>'
    return f"{found}<h3>The paper’s Tables 5, 8 and 9</h3>{framed(mixture_table(paper_mixtures()))}" if found else ""


def _curves(results: Path, scores: list[Score]) -> str:
    groups = {panel_of(*block): curves_of(results, *block, scores) for block in blocks_of(scores)}
    caption = "Clean test score in percent by epoch, mean over seeds."
    return figure(curve_panels(groups, xlabel="epoch", ylabel="clean test, %"), caption, caption)


def _predictions(results: Path, scores: list[Score], photographs: bool) -> str:
    found, hidden = [], []
    for experiment in experiments_of(scores):
        rows = predictions_of(results, experiment, scores)
        if not photographs:
            rows = [{name: image for name, image in row.items() if name != PHOTOGRAPH} for row in rows]
        if rows:
            found.append(_titled(experiment, figure(show_rows(rows), "Test images, truth and predictions")))
        else:
            hidden.append(title_of(experiment))
    note = "The test images that the clean-trained victim gets best; white pixels in the truth are not scored."
    if hidden:
        note += f" Not shown: {'; '.join(hidden)}. Their predictions lie only where they were trained."
    return f'<p class="note">{escape(note)}</p>{"".join(found)}' if scores else ""


def _classes(scores: list[Score]) -> str:
    tables = [(one, class_table(one, scores)) for one in experiments_of(scores) if one.task == "semantic"]
    found = "".join(_titled(one, framed(table)) for one, table in tables if table.rows)
    return found and '<p class="note">IoU in percent, best-known class first.</p>' + found


def _titled(experiment: Experiment, body: str, metric: str = "") -> str:
    return f"<h3>{escape(title_of(experiment, metric))}</h3>{body}"


def _visibility(results: Path) -> str:
    table = visibility_table(results)
    note = "Measured on the written files: largest change in / outside the mask and rms in steps of 1/255, PSNR in dB."
    return f'<p class="note">{note}</p>{framed(table)}' if table.rows else ""


def _generators(results: Path) -> str:
    """Each generator's deviations from the published settings, with the reason."""
    tables = generator_tables(results)
    return "".join(f'<h3><a href="{escape(link.href)}">{escape(link.text)}</a></h3>{framed(t)}' for link, t in tables)


def _systems(results: Path, scores: list[Score]) -> str:
    small = stand_in_table(stand_ins_beside(results), "" if results.resolve().name == "systems" else "../systems/")
    tables = {"Small stand-ins": small, "Its Table 1 and Figures 4 and 5": system_table(scores)} | full_tables(scores)
    return "".join(f"<h3>{escape(title)}</h3>{framed(table)}" for title, table in tables.items() if table.rows)
