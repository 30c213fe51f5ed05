"""Steps of a training watched from outside: their time, memory and arithmetic, whoever wrote its loop."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from unseg_lib.speed.arithmetic import flop_counter
from unseg_lib.speed.machine import cost, forget_peak, peak, wait


@dataclass(frozen=True)
class Found:
    """What a step costs: seconds, MB at most (None: unknown), and FLOP."""

    seconds: float
    megabytes: float | None
    flop: float


class _Enough(Exception):
    """Ends what is watched."""


def cost_of_steps(work: Callable[[], object], steps: int, device: torch.device) -> Found:
    """The fastest of `steps` steps that any optimiser takes in `work`, which then ends.

    Between two steps lies all that a training does, reading its next batch included. A first step, with whatever comes
    before it, is left out; a second one is counted.
    """
    moments, counter, counting = [], flop_counter(), ExitStack()

    def note(*_: object) -> None:
        wait(device)
        moments.append(time.perf_counter())
        if len(moments) == 1:
            counting.enter_context(counter)
        if len(moments) == 2:
            counting.close()
        if len(moments) == 2 + steps:
            raise _Enough

    forget_peak(device)
    watching = register_optimizer_step_post_hook(note)
    try:
        work()
    except _Enough:
        pass
    finally:
        watching.remove()
        counting.close()
    if len(moments) < 3:
        raise RuntimeError(f"Expected {2 + steps} steps of an optimiser, found {len(moments)}.")
    timed = min(after - before for before, after in pairwise(moments[1:]))
    return Found(timed, peak(device), counter.get_total_flops())


def cost_and_flop(work: Callable[[], object], device: torch.device, repeats: int) -> Found:
    """The fastest of `repeats` calls of some work, after a first one, which is counted."""
    with flop_counter() as counter:
        work()
    found = cost(work, device, repeats - 1)
    return Found(found.seconds, found.megabytes, counter.get_total_flops())
