"""Victims: segmentation models trained by ordinary recipes on pictures that may be poisoned.

A victim is tested on clean pictures it has never seen; where a protection works, it fails there.
"""

from unseg_lib.victims.registry import VICTIMS, train_victim

__all__ = ["VICTIMS", "train_victim"]
