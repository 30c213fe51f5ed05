"""Victims: segmentation models trained by ordinary recipes on images that may be poisoned.

A victim is tested on clean images it has never seen; where a protection works, it fails there.
"""

import lazy_loader

from unseg_lib.victims.registry import VICTIMS, train_victim

__all__ = ["VICTIMS", "train_victim"]

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "data": ["MEAN", "STD", "mixed", "normalise", "tensors"],
        "mask2former.model": ["quiet"],
        "mmseg_config": ["load_config", "walk"],
        "mmseg_parts": ["Images", "loader"],
        "mxnet_params": ["read_params"],
        "options": ["with_options"],
        "rsprompter": ["Objects"],
        "rsprompter.model": ["QueryPrompter", "RSPrompter", "outside"],
        "run": ["VictimRun"],
        "sam_hq.objects": ["asked", "boxed", "filled_boxes", "object_scores", "one_object"],
        "training": ["autocast", "cross_entropy", "own_randomness", "plain_loss"],
        "wideresnet38": ["WIDTHS", "WideResNet38", "units"],
        "wideresnet38_weights": ["load_encoder", "names_of", "read_weights"],
    },
)
