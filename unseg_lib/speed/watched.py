"""Steps of a training watched from outside: their time, memory and arithmetic, whoever wrote its loop."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import pairwise

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from unseg_lib.speed.arithmetic import flop_counter
from unseg_lib.speed.machine import Cost, cost, forget_peak, peak, wait


class _Enough(Exception):
    """Ends what is watched."""


def cost_of_steps(work: Callable[[], object], steps: int, device: torch.device) -> tuple[Cost, int]:
    """The fastest of `steps` steps that any optimiser takes in `work`, which then ends; and a step's FLOP.

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
    return Cost(timed, peak(device)), counter.get_total_flops()


def cost_and_flop(work: Callable[[], object], device: torch.device, repeats: int) -> tuple[Cost, int]:
    """`machine.cost` of some work, and its FLOP."""
    with flop_counter() as counter:
        work()
    return cost(work, device, repeats), counter.get_total_flops()
