"""Mask2Former (Cheng et al., CVPR 2022): label maps, instances and panoptic segments from one model.

"mask2former:resnet50", "mask2former:swin-tiny", "mask2former:tiny", and with the fields of `Layout` as options, as
"mask2former:resnet50 queries=50 colour=False". As published: AdamW, lr 1e-4, a tenth of it for the backbone.

The published configs of github.com/facebookresearch/Mask2Former in these words, and what differs: docs/recipes.md.
"""

from functools import partial

import torch
from torch import Tensor, nn

from unseg_lib.options import with_options
from unseg_lib.victims.mask2former.data import MaskedImages, learnt_batch, read
from unseg_lib.victims.mask2former.model import LAYOUTS, build
from unseg_lib.victims.mask2former.outputs import keep, scores
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import SCHEDULES, Recipe, Rng, autocast, fit

CLIP, WEIGHT_DECAY = 0.01, 0.05


def train(run: VictimRun) -> dict:
    """Train the victim that `run` names; the result as of `train_victim`."""
    _, layout = with_options(run.name, LAYOUTS, "Mask2Former")
    model = build(layout, len(run.train.classes), run.init, run.seed)
    how = {"clip": CLIP, "schedule": SCHEDULES[layout.schedule]}
    return fit(run, model, Recipe(partial(read, fit=layout.fit), adamw, batch_loss, scores, keep, **how))


def adamw(run: VictimRun, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW that leaves norms, embeddings and Swin's position biases without weight decay, as published."""
    backbone = {id(p) for p in model.encoder.parameters()}
    plain = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)
    free = {id(p) for layer in model.modules() if isinstance(layer, plain) for p in layer.parameters()}
    free |= {id(p) for name, p in model.named_parameters() if "position_bias" in name}
    groups: dict[tuple[float, float], list] = {}
    for p in model.parameters():
        factor, decay = model.layout.backbone_lr if id(p) in backbone else 1.0, 0.0 if id(p) in free else WEIGHT_DECAY
        groups.setdefault((factor, decay), []).append(p)
    parts = [{"params": p, "factor": factor, "weight_decay": decay} for (factor, decay), p in groups.items()]
    return torch.optim.AdamW(parts, lr=run.lr, fused=True)


def batch_loss(run: VictimRun, model: nn.Module, data: MaskedImages, chosen: Tensor, rng: Rng) -> Tensor:
    """The published loss, over all layers, in fp32: 2 x class + 5 x mask + 5 x dice of the matched queries."""
    how = {"colour": model.layout.colour, "crop": model.layout.crop}
    x, masks, classes = learnt_batch(run, model.layout, data, chosen, rng, **how)
    with autocast(run):
        found = model(x, output_auxiliary_logits=True)
    last = found.masks_queries_logits.float(), found.class_queries_logits.float()
    earlier = [{name: logits.float() for name, logits in layer.items()} for layer in found.auxiliary_logits]
    return sum(model.get_loss_dict(*last, [one.float() for one in masks], classes, earlier).values())
