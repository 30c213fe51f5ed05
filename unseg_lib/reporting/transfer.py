"""The transfer check in one table: shipped generators on unseen data sets, by prompt and by file format."""

from pathlib import Path

from unseg_lib.reporting.scores import Experiment, Score, main_metric, read_rows, scores_of

PROMPTS = {"": "mask", "-box": "one box", "-points": "three points", "-nothing": "nothing"}  # ends of recipes' names
FORMATS = {"jpeg quality=95": "JPEG 95", "jpeg quality=75": "JPEG 75", "down_up factor=0.5": "half size"}


def transfer_table(results: str | Path) -> str:
    """Markdown: a line for each data set and generator, final scores in percent; "–" for what was not run.

    What the profile `small` beside it has of the same data set is not run again: it is taken from there.
    """
    scores = scores_of(read_rows(results))
    settings = {score.experiment.setting for score in scores}
    if (Path(results).parent / "small/rows.csv").exists():
        beside = scores_of(read_rows(Path(results).parent / "small"))
        scores = [score for score in beside if score.experiment.setting in settings] + scores
    heads = ["data set", "generator", "clean", "random", *PROMPTS.values(), *FORMATS.values()]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for setting in dict.fromkeys(score.experiment.setting for score in scores):
        own = [s for s in scores if s.experiment.setting == setting and s.metric == _metric(s.experiment, scores)]
        known = {(s.poison, s.experiment.defense): s.mean for s in own if not s.experiment.clean_fraction}
        for generator, recipe in (("small", "unseg"), ("colour", "unseg-colour")):
            wanted = [("clean", "none"), ("random", "none")]
            prompted = [(recipe + end, "none") for end in PROMPTS]
            saved = [(recipe, defense) for defense in FORMATS]
            if any(key in known for key in prompted):
                cells = [f"{known[key]:.1f}" if key in known else "–" for key in wanted + prompted + saved]
                lines.append(f"| {setting} | `{generator}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _metric(experiment: Experiment, scores: list[Score]) -> str:
    """The protected classes' score, where only some classes are protected."""
    judged = {score.metric for score in scores if score.experiment == experiment}
    return "iou_protected" if "iou_protected" in judged else main_metric(experiment)
