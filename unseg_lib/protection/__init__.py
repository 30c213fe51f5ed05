"""Protect your own images: `unseg protect`, `unseg_lib.protect`, and the notebook 10_protect_your_images."""
# ruff: noqa: F401 - the face of the package: what others import from it

import lazy_loader

from unseg_lib.images import outlined
from unseg_lib.protection.api import Batch, Protected, Protector, protect, protect_batch, protect_files
from unseg_lib.protection.inputs import find_inputs, shown
from unseg_lib.protection.photo import NO_COLOURS, ONE_CHANNEL, Photo, read_photo
from unseg_lib.protection.report import COLUMNS, REPORT, described, inspect, summary, write_difference

# the desk draws, and who protects files need not wait for what it draws with
DESK = ["VIEW", "Desk", "Panel", "changes", "free_name", "panels", "plot_changes", "saved_sentence", "uploaded"]
__getattr__, __dir__, _names = lazy_loader.attach(__name__, submod_attrs={"desk": DESK})
