"""Protect your own pictures: `unseg protect`, `unseg_lib.protect`, and the notebook 10_protect_your_pictures."""

from unseg_lib.protection.batch import protect_files
from unseg_lib.protection.compare import inspect
from unseg_lib.protection.one import Protected, Protector, protect, protect_batch

__all__ = ["Protected", "Protector", "inspect", "protect", "protect_batch", "protect_files"]
