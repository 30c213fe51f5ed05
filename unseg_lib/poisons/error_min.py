"""EM lite: error-minimising noise, which makes a surrogate's work look done (Huang et al., ICLR 2021).

Written anew from the paper's description and adapted to segmentation: surrogate and noise take turns in lowering the
pixels' cross entropy. Lite, because the full method needs tens of GPU-hours for ten thousand images: few rounds, a
small U-Net from random weights, and noise on a coarse grid over the whole image, which stays however a victim crops.
"""

import sys
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.method import UNetSurrogate, budget_map
from unseg_lib.poisons.settings import IGNORE, Apply, PoisonSettings, Sample, within_budget
from unseg_lib.runtime import choose_device, progress
from unseg_lib.seeds import seed_for, torch_rng

SIDE = 64  # cells along both sides of an image: of the surrogate's input and of the noise
TILE = 16  # cells along both sides of a class's tile
ROUNDS = 3  # turns of surrogate and noise; fewer once the pixel error is small enough
MODEL_STEPS, LR, WIDTH, BATCH = 60, 3e-3, 16, 16  # of the surrogate in one round
STEPS, STEP = 20, 0.1  # PGD steps in a round, and their size in budgets: eps/10
STOP_ERROR, STOP_ERROR_CLASS = 0.01, 0.10  # pixel errors that end the rounds
LEVELS = 127  # noise is kept as int8

NoiseOf = Callable[[torch.Tensor], torch.Tensor]  # indices of images (k,) -> their noise (k,3,SIDE,SIDE) in [-1,1]


def error_min(settings: PoisonSettings) -> Apply:
    """Noise of its own for every image, learnt by `fit_samples`."""
    kept = _learnt(settings, "error_min")
    grids = dict(zip(kept["ids"].tolist(), kept["noise"]))

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        if image.id not in grids:
            raise UnsegError(f"Expected an image that error_min has learnt from, found {image.id}; learn anew.")
        grid = torch.from_numpy(grids[image.id])[None].float() / LEVELS
        return F.interpolate(grid, image.label.shape, mode="bilinear", align_corners=False)[0].movedim(0, -1).numpy()

    return within_budget(noise_of)(settings)


def error_min_class(settings: PoisonSettings) -> Apply:
    """One tile per class, the same in every image, learnt by `fit_tiles`; other classes are refused."""
    tiles = torch.from_numpy(_learnt(settings, "error_min_class")["noise"]).float() / LEVELS

    def noise_of(image: Sample, settings: PoisonSettings) -> np.ndarray:
        if (highest := _classes(image.label) - 1) >= len(tiles):
            raise UnsegError(
                f"Expected classes 0 to {len(tiles) - 1} or 255, which error_min_class has learnt from, "
                f"found class {highest} in {image.id}; learn anew."
            )
        cells = (torch.arange(length) * SIDE // length % TILE for length in image.label.shape)
        return _laid(tiles, torch.from_numpy(image.label.astype(np.int64)), *cells).numpy()

    return within_budget(noise_of)(settings)


def _learnt(settings: PoisonSettings, poison: str) -> dict[str, np.ndarray]:
    if settings.fitted is None:
        raise UnsegError(f"Expected {poison} to have learnt from the whole set, found nothing; use poison_dataset.")
    with np.load(settings.fitted, allow_pickle=False) as kept:
        return dict(kept)


def fit_samples(images: Iterable[Sample], settings: PoisonSettings) -> dict[str, np.ndarray]:
    """Noise int8 `(n,3,SIDE,SIDE)`, 127 = the whole budget; ids `(n,)`; losses `(rounds,2)` before and after."""
    fitting = Fitting(images, settings)
    steps = torch.zeros(fitting.pixels.shape, dtype=torch.int8)

    def noise_of(chosen: torch.Tensor) -> torch.Tensor:
        return steps[chosen].float() / LEVELS

    def improve(chosen: torch.Tensor) -> None:
        noise = noise_of(chosen)
        for _ in range(STEPS):
            noise = _descend(noise, lambda x: fitting.loss(chosen, x)[0])
        steps[chosen] = _rounded(noise)

    losses = fitting.take_turns(noise_of, improve, 1, STOP_ERROR)
    return {"ids": np.array(fitting.ids), "noise": steps.numpy(), "losses": losses}


def fit_tiles(images: Iterable[Sample], settings: PoisonSettings) -> dict[str, np.ndarray]:
    """Tiles int8 `(classes,3,TILE,TILE)`, one step per batch along what all pixels of a class ask for; losses."""
    fitting, cells = Fitting(images, settings), torch.arange(SIDE) % TILE
    tiles = torch.zeros(fitting.classes, 3, TILE, TILE)

    def noise_of(chosen: torch.Tensor, tiles: torch.Tensor = tiles) -> torch.Tensor:
        return _laid(tiles, fitting.labels[chosen], cells, cells).movedim(-1, 1)

    def improve(chosen: torch.Tensor) -> None:
        tiles.copy_(_descend(tiles, lambda x: fitting.loss(chosen, noise_of(chosen, x))[0]))

    passes = -(-STEPS // len(fitting.batches))  # over a small set several
    losses = fitting.take_turns(noise_of, improve, passes, STOP_ERROR_CLASS)
    return {"noise": _rounded(tiles).numpy(), "losses": losses}


def _rounded(noise: torch.Tensor) -> torch.Tensor:
    return (noise * LEVELS).round().to(torch.int8)


def _descend(noise: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """One step of projected gradient descent within [-1,1]."""
    moving = noise.clone().requires_grad_()
    return (noise - STEP * torch.autograd.grad(loss(moving), moving)[0].sign()).clamp(-1, 1)


def _laid(tiles: torch.Tensor, label: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Every pixel's value in its class's tile: `(...,H,W,3)` for labels `(...,H,W)`, of 255 any class's, and cells."""
    return tiles.movedim(1, -1)[label.clamp(max=len(tiles) - 1), rows[:, None], columns]


class Fitting:
    """The whole set at SIDE cells, each image read once, and the surrogate that the noise shall please."""

    def __init__(self, images: Iterable[Sample], settings: PoisonSettings):
        rows = [(one.id, one.gray, _classes(one.label), *_shrunk(one, settings)) for one in images]
        self.ids, grays, classes, *stacks = (list(column) for column in zip(*rows))
        # uint8 (n,3,SIDE,SIDE); int64 (n,SIDE,SIDE), 255 = ignore; (n,1,SIDE,SIDE) of the [0,1] range, 0 = as it is
        self.pixels, self.labels, self.budgets = map(torch.stack, stacks)
        self.gray, self.classes, self.seed = all(grays), max(classes), settings.seed
        self.device, self.batches = torch.device(choose_device(settings.device)), torch.arange(len(rows)).split(BATCH)
        with torch.random.fork_rng():
            torch.manual_seed(seed_for(self.seed, "error_min"))  # modules draw from the global generator
            self.net = UNetSurrogate(SIDE, WIDTH)
            self.net.head = torch.nn.Conv2d(WIDTH, self.classes, 1)
        self.net.to(self.device)

    def loss(self, chosen: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross entropy and share of wrong pixels over the labelled pixels of the images; 0 where there are none."""
        noise = noise.mean(dim=1, keepdim=True) if self.gray else noise
        x, label, budget = (some[chosen].to(self.device) for some in (self.pixels, self.labels, self.budgets))
        logits = self.net((x / 255 + noise.to(self.device) * budget).clamp(0, 1))
        wrong, count = (logits.argmax(dim=1) != label) & (label != IGNORE), (label != IGNORE).sum().clamp(min=1)
        return F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum") / count, wrong.sum() / count

    @torch.no_grad()
    def score(self, noise_of: NoiseOf) -> list[float]:
        """Loss and pixel error over the whole set, batches weighing by their images."""
        found = [[float(value) for value in self.loss(some, noise_of(some))] for some in self.batches]
        return np.average(found, axis=0, weights=[len(some) for some in self.batches]).tolist()

    def take_turns(self, noise_of: NoiseOf, improve: Callable, passes: int, stop_error: float) -> np.ndarray:
        """Rounds of training the surrogate on the noise, and of so many passes of `improve(chosen)` over the batches.

        Returns the losses before and after each improvement, `(rounds,2)`.
        """
        optimiser, losses = torch.optim.Adam(self.net.parameters(), LR), []
        rng = torch_rng(self.seed, "error_min", "order")
        for number in range(1, ROUNDS + 1):
            for _ in range(MODEL_STEPS):
                chosen = torch.randperm(len(self.ids), generator=rng)[:BATCH]
                optimiser.zero_grad()
                self.loss(chosen, noise_of(chosen))[0].backward()
                optimiser.step()
            before, _ = self.score(noise_of)
            for chosen in progress(self.batches * passes, "error-minimising noise"):
                improve(chosen)
            after, error = self.score(noise_of)
            losses.append((before, after))
            text = f"round {number}/{ROUNDS}: loss {before:.3f} -> {after:.3f}, pixel error {error:.3f}"
            print(f"error-minimising noise, {text}", file=sys.stderr)
            if error < stop_error:
                break
        return np.array(losses)


def _classes(label: np.ndarray) -> int:
    return int(label[label != IGNORE].max(initial=0)) + 1


def _shrunk(image: Sample, settings: PoisonSettings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pixels, label and budget of one image at SIDE cells, stretched to a square."""
    pixels = torch.from_numpy(image.pixels.copy()).movedim(-1, 0)[None].float()
    layers = torch.from_numpy(np.stack([image.label, image.mask]).astype(np.float32))[None]
    label, mask = F.interpolate(layers, (SIDE, SIDE), mode="nearest-exact")[0].long()
    budget = budget_map(mask > 0, settings.eps, settings.eps_bg) * (label != IGNORE) * bool(image.mask.any())
    return F.interpolate(pixels, (SIDE, SIDE), mode="area")[0].round().byte(), label, budget[None]
