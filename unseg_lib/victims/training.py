"""The ordinary training loop of a victim: cross entropy, AdamW, a falling learning rate, a test every epoch.

Every random number comes from (seed, what for, epoch), so a training that was killed continues from its last
epoch with the same numbers.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE
from unseg_lib.errors import UnsegError
from unseg_lib.evaluation.metrics import confusion, intersection_over_union, mean_iou
from unseg_lib.files import whole_file
from unseg_lib.progress import progress
from unseg_lib.seeds import seed_for, torch_rng
from unseg_lib.victims.data import augment, batches, normalise, tensors
from unseg_lib.victims.run import VictimRun, summary

WEIGHT_DECAY, POLY_POWER = 1e-2, 0.9
SHOWN = 4  # test pictures whose predictions are kept


def fit(run: VictimRun, model: torch.nn.Module) -> dict:
    """Train `model` (float `(N,3,H,W)` -> logits `(N,C,H,W)`) as `run` says; the result as of `train_victim`."""
    with thread_count(run.threads):
        for defense in run.defenses:
            model = defense.prepare(run, model) if defense.prepare else model
        model = model.to(run.device, memory_format=memory_format(model))
        optimiser = torch.optim.AdamW(model.parameters(), lr=run.lr, weight_decay=WEIGHT_DECAY, fused=True)
        history, seconds = _restore(run, model, optimiser)
        x, y = tensors(run.train, run.size, "training")
        test_x, test_y = tensors(run.test, run.size, "test")
        left = range(len(history) + 1, run.epochs + 1)
        for epoch in progress(left, f"training {run.name}", total=run.epochs, initial=len(history)):
            start = time.monotonic()
            loss = train_epoch(run, model, optimiser, x, y, epoch)
            iou = intersection_over_union(score(model, test_x, test_y, len(run.test.classes), run))
            history.append({"epoch": epoch, "loss": loss, "miou": mean_iou(iou), "iou": iou})
            seconds += time.monotonic() - start
            _save(run, model, optimiser, history, seconds)
        some_x, some_y = test_x[shown(len(test_x))], test_y[shown(len(test_x))]
        save_predictions(run.out / "predictions.npz", some_x, some_y, predict(model, some_x, run))
    return summary(run.train.classes, history, seconds / 60, device_name(run.device))


def train_epoch(run: VictimRun, model, optimiser, x: torch.Tensor, y: torch.Tensor, epoch: int) -> float:
    """One pass over the pictures (epochs count from 1); returns the mean loss."""
    model.train()
    order = batches(len(x), run.batch_size, run.seed, epoch)
    total, losses = run.epochs * len(order), []
    with own_randomness(run.device, run.seed, "dropout", epoch):
        for i, chosen in enumerate(order):
            step = (epoch - 1) * len(order) + i
            optimiser.param_groups[0]["lr"] = run.lr * (1 - step / total) ** POLY_POWER
            some_x = defended_batch(run, x[chosen].to(run.device), torch_rng(run.seed, "defence", epoch, i))
            rng = torch_rng(run.seed, "augmentation", epoch, i)
            losses.append(train_step(run, model, optimiser, some_x, y[chosen], rng))
            if not math.isfinite(losses[-1]):
                raise UnsegError(
                    f"Expected a finite loss, found {losses[-1]} in epoch {epoch}, step {i + 1} (learning rate "
                    f"{optimiser.param_groups[0]['lr']:g}); lower lr or use precision 32."
                )
    return sum(losses) / len(losses)


def train_step(run: VictimRun, model, optimiser, x: torch.Tensor, y: torch.Tensor, rng: torch.Generator) -> float:
    """One step on pictures as `normalise` takes them, with labels uint8 `(N,H,W)`; returns the loss before it."""
    x, y = augment(normalise(x.to(run.device)), y.to(run.device), rng)
    loss_of = next((defense.loss for defense in run.defenses if defense.loss), plain_loss)
    loss = loss_of(run, model, x, y)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    return loss.item()


def defended_batch(run: VictimRun, x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """uint8 `(N,3,H,W)` through the defences that are drawn anew in every step; still in 0 to 255."""
    for defense in run.defenses:
        x = 255 * defense.batch(x.float() / 255, rng) if defense.batch else x
    return x


def plain_loss(run: VictimRun, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cross entropy of the logits for x, normalised float `(N,3,H,W)`, with labels int64 `(N,H,W)`."""
    with autocast(run):
        logits = model(x)
    return cross_entropy(logits.float(), y)


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean over the pixels that are not ignored; 0 where there are none, instead of torch's 0/0."""
    total = F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="sum")
    return total / (y != IGNORE).sum().clamp(min=1)


@torch.inference_mode()
def predict(model: torch.nn.Module, x: torch.Tensor, run: VictimRun) -> torch.Tensor:
    """Class of every pixel, int64 `(N,H,W)`, of pictures uint8 `(N,3,H,W)`."""
    model.eval()
    with autocast(run):
        return model(normalise(x.to(run.device))).argmax(dim=1)


def score(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor, classes: int, run: VictimRun) -> torch.Tensor:
    """Confusion matrix int64 `(C,C)` over pictures uint8 `(N,3,H,W)` with labels uint8 `(N,H,W)`."""
    matrix = torch.zeros(classes, classes, dtype=torch.long, device=run.device)
    for some_x, some_y in zip(x.split(run.batch_size), y.split(run.batch_size)):
        matrix += confusion(predict(model, some_x, run), some_y.to(run.device), classes)
    return matrix


def save_predictions(path: Path, x: torch.Tensor, y: torch.Tensor, prediction: torch.Tensor) -> None:
    """Keep what the victim makes of K pictures: arrays picture uint8 `(K,H,W,3)`, truth and prediction `(K,H,W)`."""
    arrays = {"picture": x.permute(0, 2, 3, 1), "truth": y, "prediction": prediction.to("cpu", torch.uint8)}
    with whole_file(path) as partial:
        np.savez_compressed(partial, **{name: value.numpy() for name, value in arrays.items()})


def shown(pictures: int) -> list[int]:
    """Which test pictures' predictions are kept: some, evenly spread."""
    return torch.linspace(0, pictures - 1, min(SHOWN, pictures)).long().tolist()


def _save(run: VictimRun, model, optimiser, history: list[dict], seconds: float) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "history": history, "seconds": seconds}
    with whole_file(run.checkpoint) as partial:
        torch.save(state, partial)


def _restore(run: VictimRun, model, optimiser) -> tuple[list[dict], float]:
    """Continue from the checkpoint where there is one: the finished epochs and the seconds they took."""
    if not run.checkpoint.exists():
        return [], 0.0
    saved = torch.load(run.checkpoint, map_location=run.device, weights_only=True)
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    return saved["history"], saved["seconds"]


@contextmanager
def own_randomness(device: str, *names: object) -> Iterator[None]:
    """Seed torch's global generator from names for a while, for first weights and dropout; then put it back."""
    cuda = [torch.cuda.current_device()] if device == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed_for(*names))
        yield


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Use so many CPU threads for a while; 0 leaves torch's number."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_format(model: torch.nn.Module) -> torch.memory_format:
    """Channels last, unless oneDNN's path for it would write past its memory.

    On x86 its weight gradient of a strided 1x1 convolution with fewer input channels than a vector holds does
    so (https://github.com/uxlfoundation/oneDNN/issues/6035); of smp's encoders mobileone has one.
    """
    for layer in model.modules():
        strided = isinstance(layer, torch.nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1
        if strided and layer.in_channels // layer.groups < 16:
            return torch.contiguous_format
    return torch.channels_last


def autocast(run: VictimRun) -> torch.autocast:
    return torch.autocast(run.device, dtype=torch.bfloat16, enabled=run.precision == "bf16")


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device
