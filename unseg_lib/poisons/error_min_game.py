"""The game of error-minimising noise: a surrogate is trained on noisy images, then the noise on the surrogate."""

import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.method import budget_map
from unseg_lib.poisons.settings import IGNORE, PoisonSettings, Sample
from unseg_lib.runtime import choose_device
from unseg_lib.seeds import seed_for, torch_rng

SIDE = 64  # cells along both sides of an image: of the surrogate's input and of the noise
ROUNDS = 3  # turns of surrogate and noise; fewer once the pixel error is small enough
MODEL_STEPS, LR, WIDTH, BATCH = 60, 3e-3, 16, 16  # of the surrogate in one round

Noise = Callable[[torch.Tensor], torch.Tensor]  # indices of images (k,) -> their noise (k,3,SIDE,SIDE) in [-1,1]


@dataclass(frozen=True)
class Game:
    """The whole set at SIDE cells, and the surrogate that the noise shall please."""

    ids: list[str]
    pixels: torch.Tensor  # uint8 (n,3,SIDE,SIDE)
    labels: torch.Tensor  # int64 (n,SIDE,SIDE), 255 = ignore
    budgets: torch.Tensor  # (n,1,SIDE,SIDE), of the [0,1] range; 0 where nothing may change
    gray: bool  # all images are, and so is their noise
    net: torch.nn.Module
    seed: int
    device: torch.device

    @property
    def classes(self) -> int:
        return self.net.head.out_channels

    def loss(self, chosen: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy and share of wrong pixels over the labelled pixels of the images; 0 where there are none."""
        noise = noise.mean(dim=1, keepdim=True) if self.gray else noise
        change = noise.to(self.device) * self.budgets[chosen].to(self.device)
        logits = self.net((self.pixels[chosen].to(self.device) / 255 + change).clamp(0, 1))
        label = self.labels[chosen].to(self.device)
        count = (label != IGNORE).sum().clamp(min=1)
        wrong = ((logits.argmax(dim=1) != label) & (label != IGNORE)).sum()
        return F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum") / count, wrong / count

    def batches(self) -> list[torch.Tensor]:
        return list(torch.arange(len(self.ids)).split(BATCH))

    def play(self, noise: Noise, improve: Callable[[], None], stop_error: float) -> list[tuple[float, float]]:
        """Rounds of training the surrogate on `noise` and then calling `improve`.

        Returns the loss before and after each improvement.
        """
        optimiser, rng = torch.optim.Adam(self.net.parameters(), LR), torch_rng(self.seed, "error_min", "order")
        losses, started = [], time.monotonic()
        for number in range(1, ROUNDS + 1):
            self._train(noise, optimiser, rng)
            before, _ = self.score(noise)
            improve()
            after, error = self.score(noise)
            losses.append((before, after))
            minutes = (time.monotonic() - started) / 60
            text = f"loss {before:.3f} -> {after:.3f}, pixel error {error:.3f}, {minutes:.1f} minutes"
            print(f"error-minimising noise, round {number}/{ROUNDS}: {text}", file=sys.stderr, flush=True)
            if error < stop_error:
                break
        return losses

    def _train(self, noise: Noise, optimiser: torch.optim.Optimizer, rng: torch.Generator) -> None:
        for _ in range(MODEL_STEPS):
            chosen = torch.randperm(len(self.ids), generator=rng)[:BATCH]
            optimiser.zero_grad()
            self.loss(chosen, noise(chosen))[0].backward()
            optimiser.step()

    @torch.no_grad()
    def score(self, noise: Noise) -> tuple[float, float]:
        """Loss and pixel error over the whole set, every image's batch weighing alike."""
        batches = self.batches()
        found = np.array([[float(value) for value in self.loss(chosen, noise(chosen))] for chosen in batches])
        loss, error = np.average(found, axis=0, weights=[len(chosen) for chosen in batches])
        return float(loss), float(error)


def open_game(images: Iterable[Sample], settings: PoisonSettings) -> Game:
    """Read the images, each once, and make a surrogate with random weights for their classes."""
    rows = [(one.id, one.gray, _classes(one.label), *_shrunk(one, settings)) for one in images]
    ids, grays, classes, *stacks = (list(column) for column in zip(*rows))
    device = torch.device(choose_device(settings.device))
    net = _surrogate(max(classes), settings.seed).to(device)
    return Game(ids, *map(torch.stack, stacks), all(grays), net, settings.seed, device)


def _classes(label: np.ndarray) -> int:
    return int(label[label != IGNORE].max(initial=0)) + 1


def _shrunk(image: Sample, settings: PoisonSettings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, label and budget of one image at SIDE cells, stretched to a square."""
    size = (SIDE, SIDE)
    pixels = torch.from_numpy(image.pixels.copy()).movedim(-1, 0)[None].float()
    layers = torch.from_numpy(np.stack([image.label, image.mask]).astype(np.float32))[None]
    label, mask = F.interpolate(layers, size, mode="nearest-exact")[0].long()
    budget = budget_map(mask > 0, settings.eps, settings.eps_bg) * (label != IGNORE) * bool(image.mask.any())
    return F.interpolate(pixels, size, mode="area")[0].round().byte(), label, budget[None]


def _surrogate(classes: int, seed: int) -> torch.nn.Module:
    from unseg_lib.method import UNetSurrogate

    with torch.random.fork_rng():
        torch.manual_seed(seed_for(seed, "error_min"))  # modules draw their weights from the global generator
        net = UNetSurrogate(SIDE, WIDTH)
        net.head = torch.nn.Conv2d(WIDTH, classes, 1)
    return net
