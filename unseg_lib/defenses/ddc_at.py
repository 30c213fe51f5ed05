"""DDC-AT (Xu et al., ICCV 2021), which the paper's Table 4 tests: pixels that an attack flips go to a second head.

A router decides pixel by pixel, by its own prediction, which of two heads speaks; it is taught to send the
fragile pixels of clean images to the second one. The first head, which learns stable pixels and attacked
images, is the one that is used afterwards. As in the paper, not the state of the art.
"""

import torch
from torch import nn
from torch.nn import functional as F

from unseg_lib.defenses.adversarial import attack, check, cross_entropy_sum
from unseg_lib.defenses.defense import Defense
from unseg_lib.errors import UnsegError

AUX_WEIGHT, DROPOUT = 0.4, 0.1


def ddc_at(seed: int, *, eps: float = 7.65, steps: int = 3) -> Defense:
    """eps: over 255; eps and steps as in the published code (0.03 of the range, 3 steps)."""
    check(eps, steps)

    def prepare(run, model: nn.Module) -> nn.Module:
        from unseg_lib.victims import own_randomness

        with own_randomness("cpu", run.seed, "ddc_at heads"):
            return DividedModel(model, len(run.train.classes), run)

    def loss(run, model, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return divided_loss(run, model, x, y, eps, steps)

    return Defense(prepare=prepare, loss=loss)


class DividedModel(nn.Module):
    """Encoder and decoder of a victim with the heads of DDC-AT; called as a model, it is its first head."""

    def __init__(self, model: nn.Module, classes: int, run):
        super().__init__()
        if not all(hasattr(model, part) for part in ("encoder", "decoder")):
            raise UnsegError(f"Expected a victim with encoder and decoder for the defence ddc_at, found {run.name}.")
        self.encoder, self.decoder = model.encoder, model.decoder
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

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._at(x, self.cls1(self.decoder(self.encoder(x))))

    def parts(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Logits at x's size: of the head that the router chooses pixel by pixel, of the router, of the auxiliary."""
        features = self.encoder(x)
        decoded = self.decoder(features)
        one, two, router = (self._at(x, part(decoded)).float() for part in (self.cls1, self.cls2, self.router))
        routed = torch.where(router.argmax(dim=1, keepdim=True) == 1, two, one)
        return routed, router, self._at(x, self.aux(features[-2])).float()

    @staticmethod
    def _at(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        return F.interpolate(logits, x.shape[2:], mode="bilinear", align_corners=False)


def head(channels: int, classes: int) -> nn.Sequential:
    """Two 1x1 convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Dropout2d(DROPOUT),
        nn.Conv2d(channels, classes, 1),
    )


def divided_loss(run, model: DividedModel, x: torch.Tensor, y: torch.Tensor, eps: float, steps: int) -> torch.Tensor:
    """The loss of a step: clean first half, attacked second half, the router taught by what the attack flipped."""
    from unseg_lib.victims import autocast, cross_entropy

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
def flipped(run, model: DividedModel, x: torch.Tensor, attacked: torch.Tensor) -> torch.Tensor:
    """1 where the attack changes the routed prediction, int64 `(N,H,W)`."""
    from unseg_lib.victims import autocast

    with autocast(run):
        before, after = (model.parts(images)[0].argmax(dim=1) for images in (x, attacked))
    return (before != after).long()
