"""Measurements as tables: the same columns in the terminal and in the notebook."""

from collections.abc import Callable

Columns = dict[str, tuple[str, Callable[[object], str]]]  # heading -> (key of the row, how it is written)


def number(places: int, times: float = 1) -> Callable[[object], str]:
    """How a number is written; one that is unknown is a dash."""
    return lambda value: "–" if value is None else f"{value * times:,.{places}f}"


LADDER: Columns = {
    "way": ("rung", str),
    "images/s": ("images_per_second", number(3)),
    "times as fast": ("speedup", number(2)),
    "% of the peak": ("peak_share", number(0, 100)),
    "memory, MB": ("megabytes", number(0)),
    "largest difference": ("largest_difference", number(0)),
    "values that differ, %": ("share_different", number(4, 100)),
}
STEP: Columns = {
    "way": ("rung", str),
    "surrogate's step, s": ("surrogate", number(2)),
    "generator's step, s": ("generator", number(2)),
    "samples/s": ("samples_per_second", number(3)),
    "times as fast": ("speedup", number(2)),
    "memory, MB": ("megabytes", number(0)),
}
DISK: Columns = {
    "way": ("way", str),
    "images/s": ("images_per_second", number(2)),
    "% of the model's": ("share", number(0, 100)),
}
SCALING: Columns = {
    "task": ("task", str),
    "machine": ("machine", str),
    "hours": ("hours", number(1)),
    "cost": ("cost", number(2)),
}
PARTS: Columns = {
    "part": ("part", str),
    "ms": ("seconds", number(1, 1e3)),
    "% of the time": ("share", number(0, 100)),
}
PROFILE: Columns = {"part": ("part", str), "% of the time": ("share", number(0, 100))}

NEEDS: Columns = {
    "training": ("training", str),
    "stages": ("stages", number(0)),
    "images in a step": ("batch", number(0)),
    "planned": ("planned_batch", number(0)),
    "TFLOP a sample": ("flop", number(3, 1e-12)),
    "samples/s": ("samples_per_second", number(3)),
    "hours a stage": ("hours_a_stage", number(1)),
    "hours": ("hours", number(1)),
    "memory, MB": ("megabytes", number(0)),
    "": ("problem", str),
}


def lines(rows: list[dict], columns: Columns) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(write(row[key]) for key, write in columns.values()) for row in rows)


def text(rows: list[dict], columns: Columns) -> str:
    """A table in fixed width, first column left, numbers right."""
    every = [tuple(columns), *lines(rows, columns)]
    widths = [max(len(line[i]) for line in every) for i in range(len(columns))]
    padded = ([line[0].ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(line[1:], widths[1:]))] for line in every)
    return "\n".join("  ".join(cells).rstrip() for cells in padded)


def table(rows: list[dict], columns: Columns):
    """The same as the notebook and the report show it."""
    import pandas as pd

    from unseg_lib import reporting

    return reporting.table(pd.DataFrame(lines(rows, columns), columns=list(columns)))
