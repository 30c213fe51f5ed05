"""RSPrompter (Chen et al., IEEE TGRS 2024): instances of remote sensing images, on SAM.

"rsprompter:vit_b", "rsprompter:vit_l", "rsprompter:vit_h" with `init` the path of SAM's official checkpoint, and
"rsprompter:small", "rsprompter:tiny" from random weights; with options, separated by blanks:
"rsprompter:vit_b queries=100", see `model.Layout`. As published for NWPU VHR-10: 1024 x 1024 pixels, AdamW
at lr 1e-4 with weight decay 0.05, clipped gradients, flips and random windows, 600 epochs (WHU 300). Unlike there the
learning rate falls as that of all victims here, without a warm-up.

Every true object goes to the query that fits it best. Cost and loss are 2 x class + 5 x cross entropy + 5 x dice,
masks compared at sampled points, as Mask2Former does (Cheng et al., CVPR 2022, section 3.3) and RSPrompter after it.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from unseg_lib.method import sample_at, segmentation_loss
from unseg_lib.options import with_options
from unseg_lib.victims.data import normalise
from unseg_lib.victims.mask2former.data import MaskedImages, augment, read
from unseg_lib.victims.mask2former.outputs import keep, scores
from unseg_lib.victims.rsprompter.model import LAYOUTS, RSPrompter, build
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import Recipe, Rng, autocast, defended_batch, fit

CLIP, WEIGHT_DECAY = 0.1, 0.05
CLASS, MASK = 2.0, 5.0  # weights of the losses
NO_OBJECT = 0.1  # weight of a query that found nothing, for most do

Pairs = list[tuple[torch.Tensor, torch.Tensor]]  # of every image: numbers of queries, and of their objects


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    _, layout = with_options(run.name, LAYOUTS, "RSPrompter")
    model = build(layout, len(run.train.classes), run.size, run.init, run.seed)
    return fit(run, model, Recipe(read, adamw, batch_loss, test=scores, keep=keep, clip=CLIP))


def adamw(run: VictimRun, model: torch.nn.Module) -> torch.optim.Optimizer:
    """AdamW over what learns; SAM's encoder does not where it has SAM's weights."""
    learnt = [p for p in model.parameters() if p.requires_grad]
    return torch.optim.AdamW(learnt, lr=run.lr, weight_decay=WEIGHT_DECAY, fused=True)


@dataclass(frozen=True)
class Objects:
    """What is to be found: of every image masks bool `(K,H,W)` and class indices int64 `(K,)`; K may be 0.

    points: at how many points masks are compared.
    """

    masks: list[torch.Tensor]
    classes: list[torch.Tensor]
    points: int


def batch_loss(run: VictimRun, model: RSPrompter, data: MaskedImages, chosen: torch.Tensor, rng: Rng) -> torch.Tensor:
    """The loss on the images numbered `chosen`, defended and augmented, summed over the prompter's layers."""
    layout = model.layout
    x = defended_batch(run, data.x[chosen].to(run.device), rng("defence"))
    scale = layout.scale_low, layout.scale_high
    x, *found = augment(normalise(x), *data.learnt(chosen), scale, rng("augmentation"))
    objects, drawn = Objects(*found, layout.points), rng("drawn")
    with autocast(run):
        embedding, (*earlier, last), prompts = model.guess(x)

    # what SAM draws is compared with the objects; either SAM draws all, or only what the prompter's guess is matched to
    pairs = None if layout.draw_all else match(*last, objects, drawn)
    with autocast(run):
        masks = model.draw(embedding, chosen_of(prompts, pairs) if pairs else prompts)
    if pairs is None:
        loss = set_loss(last[0], torch.stack(masks), objects, drawn)
    else:
        guessed = mask_loss(chosen_of(last[1], pairs), objects, pairs, drawn)
        loss = class_loss(last[0], objects, pairs) + (guessed + mask_loss(masks, objects, pairs, drawn))
    return loss + sum(set_loss(*one, objects, rng(f"layer {i}")) for i, one in enumerate(earlier))


def set_loss(classes: torch.Tensor, masks: torch.Tensor, objects: Objects, rng: torch.Generator) -> torch.Tensor:
    """The loss of class logits `(N,Q,C+1)`, the last one "no object", and mask logits `(N,Q,h,w)`, in fp32."""
    pairs = match(classes, masks, objects, rng)
    return class_loss(classes, objects, pairs) + mask_loss(chosen_of(masks, pairs), objects, pairs, rng)


def chosen_of(values: torch.Tensor, pairs: Pairs) -> list[torch.Tensor]:
    """Of every image the values `(Q,...)` of its queries that found an object."""
    return [one[queries] for one, (queries, _) in zip(values, pairs)]


def class_loss(classes: torch.Tensor, objects: Objects, pairs: Pairs) -> torch.Tensor:
    """Weighted cross entropy of class logits `(N,Q,C+1)`; a query without an object should say so."""
    target = torch.full(classes.shape[:2], classes.shape[2] - 1, device=classes.device)
    for row, labels, (queries, found) in zip(target, objects.classes, pairs):
        row[queries] = labels[found]
    weight = torch.ones(classes.shape[2], device=classes.device)
    weight[-1] = NO_OBJECT
    return CLASS * F.cross_entropy(classes.float().flatten(0, 1), target.flatten(), weight)


def mask_loss(guesses: list[torch.Tensor], objects: Objects, pairs: Pairs, rng: torch.Generator) -> torch.Tensor:
    """Cross entropy and dice of the mask logits `(k,h,w)` of every image's chosen queries; 0 where there are none."""
    truths = [masks[found].float() for masks, (_, found) in zip(objects.masks, pairs)]
    guess, truth = torch.cat(guesses)[:, None], torch.cat(truths)[:, None]
    return MASK * segmentation_loss(guess, truth, rng, objects.points) if len(guess) else guess.sum()


@torch.no_grad()
def match(classes: torch.Tensor, masks: torch.Tensor, objects: Objects, rng: torch.Generator) -> Pairs:
    """The cheapest one-to-one assignment in every image, `min(Q,K)` pairs; priced at random points, one for all."""
    from scipy.optimize import linear_sum_assignment

    pairs = []
    for named, *maps, labels in zip(classes.float(), masks.float(), objects.masks, objects.classes):
        place = torch.rand(1, objects.points, 2, generator=rng).to(masks.device)
        guess, true = (sample_at(one.float()[:, None], place.expand(len(one), -1, -1)) for one in maps)
        price = -CLASS * named.softmax(dim=1)[:, labels] + MASK * (cross_entropy(guess, true) + dice(guess, true))
        pairs.append(tuple(torch.from_numpy(i).to(masks.device) for i in linear_sum_assignment(price.cpu().numpy())))
    return pairs


def cross_entropy(guess: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Binary cross entropy of each guess `(Q,P)`, logits, with each truth `(K,P)`: mean over the points, `(Q,K)`."""
    is_in, is_out = F.softplus(-guess), F.softplus(guess)
    return (is_in @ true.T + is_out @ (1 - true).T) / guess.shape[1]


def dice(guess: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """1 - Dice of each guess `(Q,P)`, logits, with each truth `(K,P)`, smoothed by one: `(Q,K)`."""
    p = guess.sigmoid()
    return 1 - (2 * p @ true.T + 1) / (p.sum(dim=1)[:, None] + true.sum(dim=1) + 1)
