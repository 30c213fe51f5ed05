"""Protect your own images: `unseg protect`, `unseg_lib.protect`, and the notebook 10_protect_your_images."""

import lazy_loader

from unseg_lib.protection.batch import protect_files
from unseg_lib.protection.compare import inspect
from unseg_lib.protection.one import Protected, Protector, protect, protect_batch

__all__ = ["Protected", "Protector", "inspect", "protect", "protect_batch", "protect_files"]

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "batch": ["planned"],
        "compare": ["described", "write_difference"],
        "desk": ["Desk", "VIEW", "free_name", "saved_sentence", "uploaded"],
        "desk_figure": ["changes", "panels", "plot_changes"],
        "desk_panel": ["Panel"],
        "gray": ["NO_COLOURS", "ONE_CHANNEL"],
        "inputs": ["find_inputs", "shown"],
        "lines": ["COLUMNS", "REPORT", "alone"],
        "mask_file": ["read_mask"],
        "photo": ["Photo", "decoded", "encode", "read_photo"],
        "placing": ["add_raw_noise"],
    },
)
