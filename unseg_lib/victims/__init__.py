"""Victims: segmentation models trained by ordinary recipes on images that may be poisoned.

A victim is tested on clean images it has never seen; where a protection works, it fails there.
"""

import lazy_loader

# the face of the package: what others import from it; loaded when asked for, because the families import slow libraries
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data": ["MEMORY", "mixed", "normalise", "tensors"],
        "registry": ["VICTIMS", "Victim", "train_victim"],
        "run": ["VictimRun"],
        "training": ["autocast", "cross_entropy", "own_randomness", "plain_loss", "train_epoch", "train_step"],
        "mask2former.model": ["quiet"],
        "openmmlab.config": ["load_config", "walk"],
        "openmmlab.runner": ["Images", "loader"],
        "rsprompter": ["Objects", "QueryPrompter", "RSPrompter", "outside"],
        "sam_hq": ["asked", "boxed", "filled_boxes", "object_scores", "one_object"],
    },
)
