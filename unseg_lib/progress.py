"""Progress that fits its reader: a bar in a terminal or notebook, a few lines in a log."""

import os
import sys
import time
from collections.abc import Iterable, Iterator

LINES = 10  # log lines for one loop


def progress(items: Iterable, name: str, total: int | None = None, initial: int = 0) -> Iterator:
    """Iterate over `items`, showing how far it is.

    In a batch run (`UNSEG_BATCH=1`, set by the notebook runner, or output that is no terminal) it
    prints at most `LINES` lines with the time left; else it draws a tqdm bar. `initial` counts
    what an earlier, interrupted run has done.
    """
    total = total if total is not None else len(items) + initial
    if os.environ.get("UNSEG_BATCH") == "1" or not (_in_notebook() or sys.stderr.isatty()):
        return _log_lines(items, name, total, initial)
    from tqdm.auto import tqdm

    return iter(tqdm(items, desc=name, total=total, initial=initial, leave=False))


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _log_lines(items: Iterable, name: str, total: int, initial: int) -> Iterator:
    start, every = time.monotonic(), max(1, total // LINES)
    for done, item in enumerate(items, start=initial + 1):
        yield item
        if done % every == 0 or done == total:
            spent = time.monotonic() - start
            left = spent / max(1, done - initial) * (total - done)
            print(f"{name}: {done}/{total}, {spent:.0f} s spent, {left:.0f} s left", file=sys.stderr, flush=True)
