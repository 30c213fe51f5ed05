"""The ladder of one training step, for the turn of each player, all in one run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch

from unseg_lib.method import LAYOUTS, BilevelConfig, Game, accelerate, train_step
from unseg_lib.runtime import has_bf16, keep_freed_memory, progress
from unseg_lib.seeds import torch_rng
from unseg_lib.speed.machine import cost

PHASES = ("surrogate", "generator")


@dataclass(frozen=True)
class Rung:
    """One way to train: memory kept or not, `accelerate` or not, which precision, compiled surrogate."""

    name: str
    keeps: bool = True  # what one rung keeps, those after it keep, too
    fast: bool = False
    precision: str = "32-true"
    compiled: bool = False


def rungs(device: torch.device, compiled: bool) -> list[Rung]:
    found = [
        Rung("plain fp32", keeps=False),
        Rung("+ freed memory kept"),
        Rung("+ fused attention and optimiser", fast=True),
    ]
    precision = "bf16-mixed" if has_bf16(device.type) else "32-true"
    if precision != "32-true":
        found.append(Rung("+ bf16", fast=True, precision=precision))
    if compiled:
        found.append(Rung("+ compiled surrogate", fast=True, precision=precision, compiled=True))
    return found


def step_ladder(
    config: BilevelConfig, device: torch.device, *, frozen: bool, compiled: bool = False, repeats: int = 1
) -> list[dict]:
    """Rows of rung, seconds of a step of each phase, of the mean step (turns as in the config), speedup, megabytes.

    frozen: only the noise head of the generator is trained, as published with SAM's weights; here they are random,
    which costs as much.
    """
    rows = []
    # SAM's blocks would be unrolled forwards and backwards: on a processor compiling takes longer than it could save
    worth_it = compiled and (config.surrogate != "sam" or device.type == "cuda")
    for rung in progress(rungs(device, worth_it), f"training steps of {config.layout}"):
        # how much a step that follows another costs, so the first one of each phase is not timed
        step = step_of(rung, config, device, frozen)
        times = {phase: cost(partial(step, phase), device, repeats) for phase in PHASES}
        mean = mean_of({phase: times[phase].seconds for phase in PHASES}, config)
        row = {"rung": rung.name, "step": mean} | {phase: times[phase].seconds for phase in PHASES}
        row |= {"samples_per_second": config.batch_size / mean, "megabytes": max(_sizes(times), default=None)}
        rows.append(row | {"speedup": (rows or [row])[0]["step"] / mean})
    return rows


def mean_of(found: dict[str, float], config: BilevelConfig) -> float:
    """The mean of what is known of a step of each phase, with turns as in the config."""
    turns = {"surrogate": config.surrogate_turn, "generator": config.generator_turn}
    return sum(turns[phase] * found[phase] for phase in PHASES) / sum(turns.values())


def _sizes(times: dict) -> list[float]:
    return [found.megabytes for found in times.values() if found.megabytes]


def step_of(rung: Rung, config: BilevelConfig, device: torch.device, frozen: bool) -> Callable[[str], object]:
    """A game, set up that way, that takes one step of the phase it is told."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=1, precision=rung.precision)
    fabric.launch()
    game = Game(config, fabric)
    if frozen:
        game.bare("generator").train_only_noise_head()
    if rung.keeps:
        keep_freed_memory()
    if rung.fast:
        accelerate(game, compiled=rung.compiled)
    batch = tuple(part.to(device) for part in example_batch(config))
    return lambda phase: train_step(config, fabric, game, batch, phase, 0)


def example_batch(config: BilevelConfig) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(N,3,S,S)` of random colours and the masks `(N,1,S,S)` of a square."""
    side, rng = LAYOUTS[config.layout].image_size, torch_rng("speed", "batch")
    masks = torch.zeros(config.batch_size, 1, side, side)
    masks[..., side // 4 : side // 2, side // 4 : 3 * side // 4] = 1
    return torch.rand(config.batch_size, 3, side, side, generator=rng), masks
