"""Protect your own images: `unseg protect`, `unseg_lib.protect`, and the notebook 10_protect_your_images."""

import lazy_loader

from unseg_lib.protection.api import Batch, Protected, Protector, protect, protect_batch, protect_files
from unseg_lib.protection.inputs import find_inputs, masks_and_prompts, shown
from unseg_lib.protection.photo import NO_COLOURS, ONE_CHANNEL, Photo, read_photo
from unseg_lib.protection.report import COLUMNS, REPORT, alone, described, inspect, summary, write_difference

__all__ = ["Batch", "Protected", "Protector", "inspect", "protect", "protect_batch", "protect_files"]
__all__ += ["COLUMNS", "NO_COLOURS", "ONE_CHANNEL", "REPORT", "Photo", "alone", "described", "find_inputs"]
__all__ += ["masks_and_prompts", "read_photo", "shown", "summary", "write_difference"]

# the desk draws, and who protects files need not wait for what it draws with
DESK = ["VIEW", "Desk", "Panel", "changes", "free_name", "panels", "plot_changes", "saved_sentence", "uploaded"]
__getattr__, __dir__, _names = lazy_loader.attach(__name__, submod_attrs={"desk": DESK, "outline": ["outlined"]})
