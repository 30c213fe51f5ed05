"""Defences that are another training: against attacks (AT, SegPGD, DDC-AT), or with an encoder that learns nothing.

`unseg_lib.defenses.DEFENSES` lists them. They are the paper's, not the state of the art.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unseg_lib.datasets import IGNORE
from unseg_lib.defenses import Defense, need
from unseg_lib.errors import UnsegError
from unseg_lib.images import MEAN, STD
from unseg_lib.victims.deeplabv3 import AUX_WEIGHT, head
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import autocast, cross_entropy, kept_as_it_is, own_randomness, plain_loss

# logits (N,C,H,W), labels (N,H,W), step from 1, steps -> what the attack enlarges
Objective = Callable[[Tensor, Tensor, int, int], Tensor]


def pgd_at(seed: int, *, eps: float = 7.65, steps: int = 3) -> Defense:
    """The paper's AT with BIM as in DDC-AT's code, on half of every batch: 0.03 of the range in 3 steps. eps: over 255.

    Of that code's two losses the auxiliary one is there where the victim has such a head, as deeplabv3 has.
    """
    return _adversarial(eps, steps, cross_entropy_sum)


def segpgd_at(seed: int, *, eps: float = 7.65, steps: int = 3) -> Defense:
    """The same with SegPGD (Gu et al., ECCV 2022), a stronger attack on segmentation."""
    return _adversarial(eps, steps, segpgd)


def _adversarial(eps: float, steps: int, objective: Objective) -> Defense:
    _check_attack(eps, steps)

    def loss(run: VictimRun, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        half = len(x) // 2
        model.eval()
        attacked = attack(run, model, x[half:], y[half:], eps, steps, objective)
        model.train()
        return plain_loss(run, model, torch.cat([x[:half], attacked]), y)

    return Defense(loss=loss)


def _check_attack(eps: float, steps: int) -> None:
    need("eps", eps, 0, 255)
    need("steps", steps, 1, 1000)


def attack(
    run: VictimRun, model: nn.Module, x: Tensor, y: Tensor, eps: float, steps: int, objective: Objective
) -> Tensor:
    """BIM on normalised x `(N,3,H,W)`: sign steps of eps/steps uphill within eps (over 255); the model in eval()."""
    mean, std = (x.new_tensor(value).view(3, 1, 1) for value in (MEAN, STD))
    now = first = (x * std + mean).clamp(0, 1)
    low, high = (first - eps / 255).clamp(min=0), (first + eps / 255).clamp(max=1)
    for step in range(1, steps + 1):
        now = now.detach().requires_grad_(True)
        with autocast(run):
            logits = model((now - mean) / std)
        gradient = torch.autograd.grad(objective(logits.float(), y, step, steps), now)[0]
        now = torch.clamp(now + eps / 255 / steps * gradient.sign(), low, high)
    return ((now - mean) / std).detach()


def cross_entropy_sum(logits: Tensor, y: Tensor, step: int, steps: int) -> Tensor:
    """BIM's objective. A sum: only the gradient's signs count, and nothing is divided by no pixels."""
    return F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="sum")


def segpgd(logits: Tensor, y: Tensor, step: int, steps: int) -> Tensor:
    """Pixels that are still right count most at first, those already wrong more with every step."""
    each = F.cross_entropy(logits, y, ignore_index=IGNORE, reduction="none")
    wrong_weight = (step - 1) / (2 * steps)
    return (torch.where(logits.argmax(dim=1) == y, 1 - wrong_weight, wrong_weight) * each).sum()


def ddc_at(seed: int, *, eps: float = 7.65, steps: int = 3) -> Defense:
    """DDC-AT (Xu et al., ICCV 2021), which the paper's Table 4 tests: pixels that an attack flips go to a second head.

    A router decides pixel by pixel, by its own prediction, which of two heads speaks; it is taught to send the
    fragile pixels of clean images to the second one. The first head, which learns stable pixels and attacked images,
    is the one that is used afterwards. eps: over 255; eps and steps as in the published code (0.03 of the range).
    """
    _check_attack(eps, steps)

    def prepare(run: VictimRun, model: nn.Module) -> nn.Module:
        with own_randomness("cpu", run.seed, "ddc_at heads"):
            return DividedModel(model, len(run.train.classes), run)

    return Defense(prepare=prepare, loss=lambda run, model, x, y: divided_loss(run, model, x, y, eps, steps))


class DividedModel(nn.Module):
    """Encoder and decoder of a victim with the heads of DDC-AT; called as a model, it is its first head."""

    def __init__(self, model: nn.Module, classes: int, run: VictimRun):
        super().__init__()
        if not all(hasattr(model, part) for part in ("encoder", "decoder")):
            raise UnsegError(f"Expected a victim with encoder and decoder for the defence ddc_at, found {run.name}.")
        self.encoder, self.decoder = model.encoder, model.decoder
        # one look at an empty image: how many channels its parts have
        with torch.inference_mode():
            features = self.eval().encoder(torch.zeros(1, 3, *run.size))
            try:
                decoded = self.decoder(features)
            except (TypeError, RuntimeError) as error:
                reason = f"Expected a victim whose decoder takes the encoder's features for ddc_at, found {run.name}."
                raise UnsegError(reason) from error
        self.cls1, self.cls2 = (head(decoded.shape[1], classes) for _ in range(2))
        self.router = head(decoded.shape[1], 2)
        self.aux = head(features[-2].shape[1], classes)  # the last stage but one, "layer3" of a ResNet

    def forward(self, x: Tensor) -> Tensor:
        return self._at(x, self.cls1(self.decoder(self.encoder(x))))

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits at x's size: of the head that the router chooses pixel by pixel, of the router, of the auxiliary."""
        features = self.encoder(x)
        decoded = self.decoder(features)
        one, two, router = (self._at(x, part(decoded)).float() for part in (self.cls1, self.cls2, self.router))
        routed = torch.where(router.argmax(dim=1, keepdim=True) == 1, two, one)
        return routed, router, self._at(x, self.aux(features[-2])).float()

    @staticmethod
    def _at(x: Tensor, logits: Tensor) -> Tensor:
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def divided_loss(run: VictimRun, model: DividedModel, x: Tensor, y: Tensor, eps: float, steps: int) -> Tensor:
    """The loss of a step: clean first half, attacked second half, the router taught by what the attack flipped."""
    model.eval()
    attacked = attack(run, model, x, y, eps, steps, cross_entropy_sum)
    fragile = flipped(run, model, x, attacked)
    model.train()
    half = len(x) // 2
    with autocast(run):
        routed, router, aux = model.parts(torch.cat([x[:half], attacked[half:]]))
    teaching = torch.cat([fragile[:half], torch.zeros_like(fragile[half:])])
    return cross_entropy(routed, y) + cross_entropy(router, teaching) + AUX_WEIGHT * cross_entropy(aux, y)


@torch.no_grad()
def flipped(run: VictimRun, model: DividedModel, x: Tensor, attacked: Tensor) -> Tensor:
    """1 where the attack changes the routed prediction, int64 `(N,H,W)`."""
    with autocast(run):
        before, after = (model.parts(images)[0].argmax(dim=1) for images in (x, attacked))
    return (before != after).long()


def frozen_encoder(seed: int) -> Defense:
    """Keep the encoder's first weights and statistics: what never learns from the images cannot learn their noise.

    Meant for init=imagenet; with init=random the victim learns on random features.
    """
    return Defense(prepare=freeze)


def freeze(run: VictimRun, model: nn.Module) -> nn.Module:
    """`model` with an `encoder` that stays as it is, whatever mode the model is put into."""
    if not hasattr(model, "encoder"):
        raise UnsegError(f"Expected a victim with an encoder for the defence frozen_encoder, found {run.name}.")
    kept_as_it_is(model.encoder)
    return model
