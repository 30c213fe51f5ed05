"""EM lite: error-minimising noise, which makes a surrogate's work look done (Huang et al., ICLR 2021).

Written anew from the paper's description and adapted to segmentation: surrogate and noise take turns in
lowering the pixels' cross entropy. Lite, because the full method needs tens of GPU-hours for ten thousand
images: few rounds, a small U-Net from random weights trained by Adam, and noise on a coarse grid stretched
over the whole image, so that it stays in place however a victim crops.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.errors import UnsegError
from unseg_lib.poisons.error_min_game import SIDE, open_game
from unseg_lib.poisons.settings import IGNORE, PoisonSettings, Sample, with_noise
from unseg_lib.runtime import progress

TILE = 16  # cells along both sides of a class's tile
STEPS, STEP = 20, 0.1  # PGD steps in a round, and their size in budgets: eps/10
STOP_ERROR, STOP_ERROR_CLASS = 0.01, 0.10  # pixel errors that end the game
LEVELS = 127  # noise is kept as int8


def error_min(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """Noise of its own for every image, learnt by `fit_samples`."""
    kept = _learnt(settings, "error_min")
    place, noise = {id: i for i, id in enumerate(kept["ids"].tolist())}, kept["noise"]

    def poison(image: Sample) -> np.ndarray:
        if image.id not in place:
            raise UnsegError(f"Expected an image that error_min has learnt from, found {image.id}; learn anew.")
        grid = torch.from_numpy(noise[place[image.id]]).float() / LEVELS
        full = F.interpolate(grid[None], image.label.shape, mode="bilinear", align_corners=False)[0]
        return with_noise(image, full.movedim(0, -1).numpy(), settings)

    return poison


def error_min_class(settings: PoisonSettings) -> Callable[[Sample], np.ndarray]:
    """One tile per class, the same in every image, learnt by `fit_tiles`; other classes are refused."""
    tiles = torch.from_numpy(_learnt(settings, "error_min_class")["noise"]).float() / LEVELS

    def poison(image: Sample) -> np.ndarray:
        highest = int(image.label[image.label != IGNORE].max(initial=0))
        if highest >= len(tiles):
            raise UnsegError(
                f"Expected classes 0 to {len(tiles) - 1} or 255, which error_min_class has learnt from, "
                f"found class {highest} in {image.id}; learn anew."
            )
        rows, columns = (torch.arange(length) * SIDE // length % TILE for length in image.label.shape)
        label = torch.from_numpy(image.label.astype(np.int64))
        return with_noise(image, _laid(tiles, label, rows, columns).numpy(), settings)

    return poison


def fit_samples(images: Iterable[Sample], settings: PoisonSettings) -> dict[str, np.ndarray]:
    """Noise int8 `(n,3,SIDE,SIDE)`, 127 = the whole budget; ids `(n,)`; losses `(rounds,2)` before and after."""
    game = open_game(images, settings)
    steps = torch.zeros(game.pixels.shape, dtype=torch.int8)

    def noise(chosen: torch.Tensor) -> torch.Tensor:
        return steps[chosen].float() / LEVELS

    def improve() -> None:
        for chosen in progress(game.batches(), "error_min"):
            current = noise(chosen)
            for _ in range(STEPS):
                current = _descend(current, lambda x, chosen=chosen: game.loss(chosen, x)[0])
            steps[chosen] = (current * LEVELS).round().to(torch.int8)

    losses = game.play(noise, improve, STOP_ERROR)
    return {"ids": np.array(game.ids), "noise": steps.numpy(), "losses": np.array(losses)}


def fit_tiles(images: Iterable[Sample], settings: PoisonSettings) -> dict[str, np.ndarray]:
    """Tiles int8 `(classes,3,TILE,TILE)`, one step per batch along what all pixels of a class ask for; losses."""
    game = open_game(images, settings)
    tiles, cells = torch.zeros(game.classes, 3, TILE, TILE), torch.arange(SIDE) % TILE
    batches = game.batches() * -(-STEPS // len(game.batches()))  # of a small set several times

    def noise(chosen: torch.Tensor, tiles: torch.Tensor = tiles) -> torch.Tensor:
        return _laid(tiles, game.labels[chosen], cells, cells).movedim(-1, 1)

    def improve() -> None:
        for chosen in progress(batches, "error_min_class"):
            tiles.copy_(_descend(tiles, lambda x, chosen=chosen: game.loss(chosen, noise(chosen, x))[0]))

    losses = game.play(noise, improve, STOP_ERROR_CLASS)
    return {"noise": (tiles * LEVELS).round().to(torch.int8).numpy(), "losses": np.array(losses)}


def _descend(noise: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """One step of projected gradient descent within [-1,1]."""
    moving = noise.clone().requires_grad_()
    slope = torch.autograd.grad(loss(moving), moving)[0]
    return (noise - STEP * slope.sign()).clamp(-1, 1)


def _laid(tiles: torch.Tensor, label: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Every pixel's value in its class's tile: `(...,H,W,3)` for labels `(...,H,W)` and cells `(H,)`, `(W,)`.

    Ignored pixels get some class's value; whoever adds the noise leaves them out.
    """
    return tiles.movedim(1, -1)[label.clamp(max=len(tiles) - 1), rows[:, None], columns]


def _learnt(settings: PoisonSettings, poison: str) -> dict[str, np.ndarray]:
    if settings.fitted is None:
        raise UnsegError(f"Expected {poison} to have learnt from the whole set, found nothing; use poison_dataset.")
    with np.load(settings.fitted, allow_pickle=False) as kept:
        return dict(kept)
