"""The ordinary training loop of a victim: cross entropy, AdamW, a falling learning rate, a test every epoch.

Every random number comes from (seed, what for, epoch), so a training that was killed continues from its last
epoch with the same numbers. What a family of victims does its own way is a `Recipe`.
"""

import math
import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from unseg_lib.datasets import IGNORE
from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import confusion, intersection_over_union, mean_iou
from unseg_lib.files import whole_file, write_json
from unseg_lib.runtime import Stopwatch, device_name, progress, thread_count
from unseg_lib.seeds import seed_for, torch_rng
from unseg_lib.victims.data import augment, batches, normalise, resized_image, resized_label, tensors
from unseg_lib.victims.run import VictimRun, summary

WEIGHT_DECAY, POLY_POWER = 1e-2, 0.9
DROPS = 327_778 / 368_750, 355_092 / 368_750  # of Mask2Former's steps on COCO
WARM_UP, LOWEST = 50, 1e-3  # steps, and share of the learning rate at their start and at the end, of `cosine`
SHOWN = 4  # test images whose predictions are kept

Rng = Callable[[str], torch.Generator]  # what for -> a generator of this step's own
Schedule = Callable[[int, int, int], float]  # step from 0, all steps, in so many epochs -> share of the learning rate


def poly(step: int, total: int, epochs: int) -> float:
    return (1 - step / total) ** POLY_POWER


def steps(step: int, total: int, epochs: int) -> float:
    """A tenth at each of DROPS; Mask2Former's ten steps of warm-up on COCO have WARMUP_FACTOR 1, which is none."""
    return 0.1 ** sum(step >= round(total * part) for part in DROPS)


def cosine(step: int, total: int, epochs: int) -> float:
    """Half a wave down to a thousandth, by epochs from the second on, after 50 steps of warm-up: RSPrompter's."""
    warm = min(1.0, LOWEST + (1 - LOWEST) * step / (WARM_UP - 1))
    wave = (1 + math.cos(math.pi * max(0, step * epochs // total - 1) / epochs)) / 2
    return warm * (LOWEST + (1 - LOWEST) * wave)


SCHEDULES = {"poly": poly, "steps": steps, "cosine": cosine}


def adamw(run: VictimRun, model: nn.Module) -> Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=run.lr, weight_decay=WEIGHT_DECAY, fused=True)


def sgd(run: VictimRun, model: nn.Module, head_lr: float, **how: float) -> Optimizer:
    """SGD in which all that is not the encoder learns `head_lr` times as fast."""
    encoder, every = {id(p) for p in model.encoder.parameters()}, list(model.parameters())
    parts = {1.0: [p for p in every if id(p) in encoder], head_lr: [p for p in every if id(p) not in encoder]}
    return torch.optim.SGD([{"params": params, "factor": factor} for factor, params in parts.items()], lr=run.lr, **how)


def batch_loss(run: VictimRun, model: nn.Module, data: tuple, chosen: Tensor, rng: Rng) -> Tensor:
    """The loss on the images numbered `chosen`, defended and augmented."""
    x, y = (part[chosen].to(run.device) for part in data)
    x, y = augment(normalise(defended_batch(run, x, rng("defence"))), y, rng("augmentation"))
    return loss_function(run)(run, model, x, y)


def label_scores(run: VictimRun, model: nn.Module, data: tuple) -> dict:
    """{"miou", "iou": [C]} in [0,1] on images uint8 `(N,3,H,W)`, labels `(N,H,W)`, or lists of any sizes."""
    parts = ([one[None] for one in part] if isinstance(part, list) else part.split(run.batch_size) for part in data)
    classes = len(run.test.classes)
    return scores_of(sum(confusion(predict(model, x, run), y.to(run.device), classes) for x, y in zip(*parts)))


def keep_predictions(run: VictimRun, model: nn.Module, data: tuple) -> None:
    """Write predictions.npz of some test images."""
    x, some = data[0], shown(len(run.test))
    lists = isinstance(x, list)
    keep_label_maps(run, (predict(model, x[i][None], run)[0] for i in some) if lists else predict(model, x[some], run))


@dataclass(frozen=True)
class Recipe:
    """How a family of victims is trained and tested; what is not given is as for segmentation-models-pytorch.

    read: (run, set, "training" or "test") -> data, as the other functions take it; see `tensors`.
    optimiser: (run, model) -> optimiser; "factor" in a group of its parameters multiplies the learning rate.
    loss: (run, model, data, image numbers, rng) -> loss of a step; `rng("what for")` makes a generator.
    test: (run, model, data) -> scores, see `train_victim`. keep: (run, model, data) writes predictions.npz.
    clip: the largest norm of a step's gradient.
    """

    read: Callable[..., Any] = lambda run, source, what: tensors(source, run.size, what, run.out)
    optimiser: Callable[[VictimRun, nn.Module], Optimizer] = adamw
    loss: Callable[[VictimRun, nn.Module, Any, Tensor, Rng], Tensor] = batch_loss
    test: Callable[[VictimRun, nn.Module, Any], dict] = label_scores
    keep: Callable[[VictimRun, nn.Module, Any], None] = keep_predictions
    clip: float | None = None
    schedule: Schedule = poly


ORDINARY = Recipe()


def fit(run: VictimRun, model: nn.Module, recipe: Recipe = ORDINARY) -> dict:
    """Train `model`, float `(N,3,H,W)` -> logits `(N,C,H,W)`; the result of `train_victim`, and speed.json."""
    with thread_count(run.threads):
        for defense in run.defenses:
            model = defense.prepare(run, model) if defense.prepare else model
        model = model.to(run.device, memory_format=memory_format(model))
        optimiser = recipe.optimiser(run, model)
        (history, seconds), watch = _restore(run, model, optimiser), Stopwatch()
        # all images are decoded once and kept: later there is nothing to wait for
        with watch.waiting():
            training = recipe.read(run, run.train, "training")
        test = recipe.read(run, run.test, "test")
        # train, test and save, epoch by epoch
        left = range(len(history) + 1, run.epochs + 1)
        for epoch in progress(left, f"training {run.name.split()[0]}", total=run.epochs, initial=len(history)):
            start = time.monotonic()
            with watch.working(len(run.train)):
                loss = train_epoch(run, model, optimiser, recipe, training, epoch)
            history.append({"epoch": epoch, "loss": loss} | recipe.test(run, model, test))
            seconds += time.monotonic() - start
            _save(run, model, optimiser, history, seconds)
        recipe.keep(run, model, test)
        if left:  # else nothing was trained now
            write_json(run.out / "speed.json", watch.report())
    return summary(run.train.classes, history, seconds / 60, device_name(run.device))


def train_epoch(run: VictimRun, model: nn.Module, optimiser: Optimizer, recipe: Recipe, data: Any, epoch: int) -> float:
    """One pass over the images (epochs count from 1); returns the mean loss."""
    model.train()
    order = batches(len(run.train), run.batch_size, run.seed, epoch)
    total, losses = run.epochs * len(order), []
    with own_randomness(run.device, run.seed, "dropout", epoch):
        for i, chosen in enumerate(order):
            step = (epoch - 1) * len(order) + i
            for group in optimiser.param_groups:
                group["lr"] = run.lr * group.get("factor", 1.0) * recipe.schedule(step, total, run.epochs)
            loss = recipe.loss(run, model, data, chosen, lambda what, i=i: torch_rng(run.seed, what, epoch, i))
            losses.append(train_step(model, optimiser, loss, recipe.clip))
            check_finite(losses[-1], epoch, i + 1, optimiser.param_groups[0]["lr"])
    return sum(losses) / len(losses)


def check_finite(loss: float, epoch: int, step: int, lr: float) -> None:
    """Stop a training that has left the numbers; epoch and step count from 1."""
    if not math.isfinite(loss):
        where = f"epoch {epoch}, step {step} (learning rate {lr:g})"
        raise UnsegError(f"Expected a finite loss, found {loss} in {where}; lower lr or use precision 32.")


def train_step(model: nn.Module, optimiser: Optimizer, loss: Tensor, clip: float | None) -> float:
    """One step down a loss; returns the loss before it."""
    optimiser.zero_grad()
    loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimiser.step()
    return loss.item()


def defended_batch(run: VictimRun, x: Tensor, rng: torch.Generator) -> Tensor:
    """uint8 `(N,3,H,W)` through the defences that are drawn anew in every step; still in 0 to 255."""
    for defense in run.defenses:
        x = 255 * defense.batch(x.float() / 255, rng) if defense.batch else x
    return x


def loss_function(run: VictimRun) -> Callable[..., Tensor]:
    """`plain_loss`, or what the defence that trains in its own way has in its place."""
    return next((defense.loss for defense in run.defenses if defense.loss), plain_loss)


def plain_loss(run: VictimRun, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Cross entropy of the logits for x, normalised float `(N,3,H,W)`, with labels int64 `(N,H,W)`; of a model with
    auxiliary heads, which says so by `weighted`, their weighted sum.
    """
    with autocast(run):
        parts = model.weighted(x) if hasattr(model, "weighted") else [(1.0, model(x))]
    return sum(weight * cross_entropy(logits.float(), y) for weight, logits in parts)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Mean over the pixels that are not ignored; 0 where there are none, instead of torch's 0/0."""
    total = F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="sum")
    return total / (y != IGNORE).sum().clamp(min=1)


@torch.inference_mode()
def predict(model: nn.Module, x: Tensor, run: VictimRun) -> Tensor:
    """Class of every pixel, int64 `(N,H,W)`, of images uint8 `(N,3,H,W)`."""
    model.eval()
    with autocast(run):
        return model(normalise(x.to(run.device))).argmax(dim=1)


def scores_of(matrix: Tensor) -> dict:
    """Scores {"miou", "iou": [C]} in [0,1] of a confusion matrix `(C,C)`."""
    iou = intersection_over_union(matrix)
    return {"miou": mean_iou(iou), "iou": iou}


def keep_label_maps(run: VictimRun, predictions: Iterable[Tensor]) -> None:
    """Write predictions.npz of the `shown` test images at the run's size; predictions: label maps of any size."""
    maps = (resized_label(one.to("cpu", torch.uint8).numpy(), run.size) for one in predictions)
    save_predictions(
        run, [shown_image(run, run.test.ids[i]) | {"prediction": one} for i, one in zip(shown(len(run.test)), maps)]
    )


def shown_image(run: VictimRun, id: str) -> dict[str, Tensor]:
    """A test image and its label map at the run's size, for `save_predictions`."""
    truth = resized_label(run.test.label(id), run.size)
    return {"image": resized_image(run.test.image(id), run.size).permute(1, 2, 0), "truth": truth}


def save_predictions(run: VictimRun, rows: list[dict[str, np.ndarray | Tensor]]) -> None:
    """Write predictions.npz; a row has of one image "image" uint8 `(H,W,3)`, "truth" and "prediction" `(H,W)`; of some
    tasks also "truth_segments" and "prediction_segments", the numbers of their pixels' segments, or the asking "box".
    """
    arrays = {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    arrays["prediction"] = arrays["prediction"].astype(np.uint8)
    with whole_file(run.out / "predictions.npz") as partial:
        np.savez_compressed(partial, **arrays)


def shown(images: int) -> list[int]:
    """Which test images' predictions are kept: some, evenly spread."""
    return torch.linspace(0, images - 1, min(SHOWN, images)).long().tolist()


def _save(run: VictimRun, model: nn.Module, optimiser: Optimizer, history: list[dict], seconds: float) -> None:
    state = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "history": history, "seconds": seconds}
    with whole_file(run.checkpoint) as partial:
        torch.save(state, partial)


def _restore(run: VictimRun, model: nn.Module, optimiser: Optimizer) -> tuple[list[dict], float]:
    """Continue from the checkpoint where there is one: the finished epochs and the seconds they took."""
    if not run.checkpoint.exists():
        return [], 0.0
    saved = torch.load(run.checkpoint, map_location=run.device, weights_only=True)
    model.load_state_dict(saved["model"])
    optimiser.load_state_dict(saved["optimiser"])
    return saved["history"], saved["seconds"]


@contextmanager
def own_randomness(device: str, *names: object) -> Iterator[None]:
    """Seed torch's global generator from names for a while; then put it back, with Python's and numpy's."""
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
            torch.manual_seed(seed_for(*names))
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def kept_as_it_is(layer: nn.Module) -> None:
    """Let a module learn nothing and stay in the mode it predicts in, whatever mode the model around it is put into."""
    layer.requires_grad_(False)
    layer.eval()
    layer.train = lambda mode=True: layer


def memory_format(model: nn.Module) -> torch.memory_format:
    """Channels last, unless oneDNN would write past its memory (https://github.com/uxlfoundation/oneDNN/issues/6035):
    in the weight gradient of a strided 1x1 convolution on fewer channels than a vector holds, as smp's mobileone has.
    """
    for layer in model.modules():
        strided = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and max(layer.stride) > 1
        if strided and layer.in_channels // layer.groups < 16:
            return torch.contiguous_format
    return torch.channels_last


def autocast(run: VictimRun) -> torch.autocast:
    return torch.autocast(run.device, dtype=torch.bfloat16, enabled=run.bf16)
