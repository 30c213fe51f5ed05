"""Settings of the bilevel training: the published numbers are the defaults."""

from dataclasses import dataclass

import torch

from unseg_lib.errors import UnsegError, pick
from unseg_lib.method.sam import LAYOUTS

CHOICES = {
    "target": ("ones", "true"),
    "alternation": ("epoch", "steps"),
    "shown": ("subset", "mask"),
    "mean_of": ("noise", "logits"),
}
OPTIMISERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
# the same, but the player who waits keeps moving on its momentum, as in the released code
LEAKING = ("adam_leaking", "adamw_leaking")
OPTIMISERS |= {name: OPTIMISERS[name.removesuffix("_leaking")] for name in LEAKING}


@dataclass(frozen=True)
class BilevelConfig:
    """Settings of one training; the defaults are those of the paper and its released code, per GPU."""

    layout: str = "vit_b"
    sam_weights: str = ""  # SAM checkpoint for the generator ("" = random, then all of it is trained)
    mean_free: int = 0  # see Generator
    mean_of: str = "noise"  # what loses its mean: the "noise", or its "logits" alone
    logit_scale: float = 1.0
    shown: str = "subset"  # prompts of the generator: a random subset of kinds, or always the "mask"
    surrogate: str = "sam"
    surrogate_size: int = 0  # side of its input in pixels; 0 = half the generator's
    mae_weights: str = ""  # MAE checkpoint for the surrogate's encoder ("" = random)
    epochs: int = 27
    steps: int = 0  # > 0: stop after that many steps, whatever the epochs
    batch_size: int = 4
    alternation: str = "epoch"  # whole epochs, or "steps"
    surrogate_turn: int = 1  # epochs or steps of the surrogate, then ...
    generator_turn: int = 3  # ... of the generator
    optimiser: str = "adam"
    generator_lr: float = 1e-4
    surrogate_lr: float = 1e-4
    drop_epoch: int = 20  # learning rates times 0.1 from here on; 0 = never
    train_eps: float = 1.0  # over 255; "epsilon generalisation" uses 8 later
    train_eps_bg: float = 0.25
    target: str = "ones"  # label modification; "true" = the true mask in both phases
    scales: tuple[float, float] = (0.1, 2.0)  # large-scale jitter
    # what may happen to noise before a model sees it (wear.py); none of it is published
    gray: float = 0.0  # share of images shown gray, with the gray component of their noise
    shared_removed: float = 0.0  # share of steps in which what all noises have in common is taken away
    smallest: float = 1.0  # the surrogate sees images at a random size from this share of its own size
    loss_points: int = 112 * 112
    seed: int = 42

    def __post_init__(self):
        pick(LAYOUTS, self.layout, "layout")
        pick(OPTIMISERS, self.optimiser, "optimiser")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UnsegError(f"Expected {name} to be one of {', '.join(known)}, found '{getattr(self, name)}'.")
        if not 0 < self.train_eps_bg <= self.train_eps:
            raise UnsegError(f"Expected 0 < train_eps_bg <= train_eps, found {self.train_eps_bg} and {self.train_eps}.")
        if self.smallest < 1 and self.surrogate == "sam":
            raise UnsegError("Expected smallest = 1 with the surrogate 'sam', which has one size; use 'unet'.")
        if self.mean_free < -1 or (self.mean_free > 0 and self.mean_free % 2 == 0):
            raise UnsegError(f"Expected mean_free to be 0, -1 or an odd window, found {self.mean_free}.")
        if self.surrogate_turn < 1 or self.generator_turn < 1 or self.batch_size < 1:
            raise UnsegError("Expected surrogate_turn, generator_turn and batch_size of at least 1.")


def phase_of(config: BilevelConfig, step: int, steps_per_epoch: int) -> str:
    """Whose turn it is at a step: "surrogate" or "generator". Published: epochs 0, 4, 8 ... are the surrogate's."""
    unit = step // steps_per_epoch if config.alternation == "epoch" else step
    turn = config.surrogate_turn + config.generator_turn
    return "surrogate" if unit % turn < config.surrogate_turn else "generator"
