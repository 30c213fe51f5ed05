"""Victims: segmentation models trained by ordinary recipes on images that may be poisoned.

A victim is tested on clean images it has never seen; where a protection works, it fails there.
"""
# ruff: noqa: F401 - the face of the package: what others import from it

import lazy_loader

from unseg_lib.victims.data import MEMORY, mixed, normalise, tensors
from unseg_lib.victims.registry import VICTIMS, Victim, train_victim
from unseg_lib.victims.run import VictimRun
from unseg_lib.victims.training import autocast, cross_entropy, own_randomness, plain_loss, train_epoch, train_step

# the rest of the face is loaded when it is asked for: the families import slow libraries
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "mask2former.model": ["quiet"],
        "openmmlab.config": ["load_config", "walk"],
        "openmmlab.runner": ["Images", "loader"],
        "rsprompter": ["Objects", "QueryPrompter", "RSPrompter", "outside"],
        "sam_hq": ["asked", "boxed", "filled_boxes", "object_scores", "one_object"],
    },
)
