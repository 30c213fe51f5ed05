"""Adversarial training: half of every batch is attacked against the model as it is."""

from collections.abc import Callable

import torch
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE
from unseg_lib.defenses.defense import Defense, need

# logits (N,C,H,W), labels (N,H,W), step from 1, steps -> what the attack enlarges
Objective = Callable[[torch.Tensor, torch.Tensor, int, int], torch.Tensor]


def pgd_at(seed: int, *, eps: float = 7.65, steps: int = 3) -> Defense:
    """The paper's AT, with BIM as in DDC-AT's code: 0.03 of the range in 3 steps of a third. eps: over 255.

    Of that code's two losses the auxiliary one is left out, as there is one head here.
    """
    return _training(eps, steps, cross_entropy_sum)


def segpgd_at(seed: int, *, eps: float = 7.65, steps: int = 3) -> Defense:
    """The same with SegPGD (Gu et al., ECCV 2022), a stronger attack on segmentation."""
    return _training(eps, steps, segpgd)


def check(eps: float, steps: int) -> None:
    """Refuse options that are no attack."""
    need("eps", eps, 0, 255)
    need("steps", steps, 1, 1000)


def _training(eps: float, steps: int, objective: Objective) -> Defense:
    check(eps, steps)

    def loss(run, model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        from unseg_lib.victims import plain_loss

        half = len(x) // 2
        model.eval()
        attacked = attack(run, model, x[half:], y[half:], eps, steps, objective)
        model.train()
        return plain_loss(run, model, torch.cat([x[:half], attacked]), y)

    return Defense(loss=loss)


def attack(run, model, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int, objective: Objective) -> torch.Tensor:
    """BIM: `steps` sign steps of eps/steps uphill, from x itself, within eps (over 255) and the range of pixels.

    x, and what is returned: normalised float `(N,3,H,W)`. The model should be in the mode it predicts in.
    """
    from unseg_lib.victims import MEAN, STD, autocast

    mean, std = (x.new_tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    first = (x * std + mean).clamp(0, 1)
    low, high = (first - eps / 255).clamp(min=0), (first + eps / 255).clamp(max=1)
    now = first
    for step in range(1, steps + 1):
        now = now.detach().requires_grad_(True)
        with autocast(run):
            logits = model((now - mean) / std)
        gradient = torch.autograd.grad(objective(logits.float(), y, step, steps), now)[0]
        now = torch.clamp(now + eps / 255 / steps * gradient.sign(), low, high)
    return ((now - mean) / std).detach()


def cross_entropy_sum(logits: torch.Tensor, y: torch.Tensor, step: int, steps: int) -> torch.Tensor:
    """BIM's objective. A sum: only the gradient's signs count, and nothing is divided by no pixels."""
    return F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="sum")


def segpgd(logits: torch.Tensor, y: torch.Tensor, step: int, steps: int) -> torch.Tensor:
    """Pixels that are still right count most at first, those already wrong more with every step."""
    each = F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="none")
    wrong_weight = (step - 1) / (2 * steps)
    right = logits.argmax(dim=1) == y
    return (torch.where(right, 1 - wrong_weight, wrong_weight) * each).sum()
