"""RSPrompter (Chen et al., IEEE TGRS 2024): instances of remote sensing images, on SAM.

"rsprompter:vit_b", "rsprompter:vit_l", "rsprompter:vit_h" with `init` the path of SAM's official checkpoint, and
"rsprompter:small", "rsprompter:tiny" from random weights; with options, separated by blanks:
"rsprompter:vit_b queries=100", see `rsprompter_model.Layout`. As published for NWPU VHR-10: 1024 x 1024 pixels, AdamW
at lr 1e-4 with weight decay 0.05, clipped gradients, flips and random windows, 600 epochs (WHU 300). Unlike there the
learning rate falls as that of all victims here, without a warm-up.
"""

from functools import partial
from typing import TYPE_CHECKING

import torch

from unseg_lib.options import with_options
from unseg_lib.victims.data import normalise
from unseg_lib.victims.instance_data import MaskedImages, augment, read
from unseg_lib.victims.mask2former_scores import keep, scores
from unseg_lib.victims.rsprompter_loss import Objects, chosen, class_loss, mask_loss, match, set_loss
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import Recipe, Rng, autocast, defended_batch, fit

if TYPE_CHECKING:
    from unseg_lib.victims.rsprompter_model import Guess, Layout, RSPrompter

CLIP, WEIGHT_DECAY = 0.1, 0.05


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    from unseg_lib.victims.rsprompter_model import LAYOUTS, build

    _, layout = with_options(run.name, LAYOUTS, "RSPrompter")
    recipe = Recipe(
        read=lambda run, source, what: read(source, run.size, run.task, what, run.out),
        optimiser=adamw,
        loss=partial(batch_loss, layout),
        test=partial(scores, layout),
        keep=partial(keep, layout),
        clip=CLIP,
    )
    return fit(run, build(layout, len(run.train.classes), run.size, run.init, run.seed), recipe)


def adamw(run: VictimRun, model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW over what learns; SAM's encoder does not where it has SAM's weights."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(learnt, lr=run.lr, weight_decay=WEIGHT_DECAY, fused=True)


def batch_loss(
    layout: "Layout", run: VictimRun, model: "RSPrompter", data: MaskedImages, chosen: torch.Tensor, rng: Rng
) -> torch.Tensor:
    """The loss on the images numbered `chosen`, defended and augmented."""
    x = defended_batch(run, data.x[chosen].to(run.device), rng("defence"))
    masks, classes = zip(*(data.learnt(i) for i in chosen.tolist()))
    x, masks, left = augment(normalise(x), masks, (layout.scale_low, layout.scale_high), rng("augmentation"))
    objects = Objects(masks, [one.to(run.device)[some] for one, some in zip(classes, left)], layout.points)
    with autocast(run):
        guess = model.guess(x)
    loss = drawn_loss(layout, run, model, guess, objects, rng("drawn"))
    return loss + sum(set_loss(*one, objects, rng(f"layer {i}")) for i, one in enumerate(guess.layers[:-1]))


def drawn_loss(
    layout: "Layout", run: VictimRun, model: "RSPrompter", guess: "Guess", objects: Objects, rng: torch.Generator
) -> torch.Tensor:
    """The loss of the last layer and of what SAM draws for it, see `draw_all` of the layout."""
    classes, guessed = guess.layers[-1]
    pairs = None if layout.draw_all else match(classes, guessed, objects, rng)
    with autocast(run):
        drawn = model.draw(guess.embedding, chosen(guess.prompts, pairs) if pairs else guess.prompts)
    if pairs is None:
        return set_loss(classes, torch.stack(drawn), objects, rng)
    masks = [mask_loss(some, objects, pairs, rng) for some in (chosen(guessed, pairs), drawn)]
    return class_loss(classes, objects, pairs) + sum(masks)
