"""Protect your own images: `unseg protect`, `unseg_lib.protect`, and the notebook 10_protect_your_images."""

import lazy_loader

from unseg_lib.images import outlined  # noqa: F401 - the face of the package: what others import from it

DESK = ["VIEW", "Desk", "Panel", "changes", "free_name", "panels", "plot_changes", "saved_sentence", "uploaded"]
# loaded when asked for: who protects files need not wait for what the desk draws with
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "api": ["Batch", "Protected", "Protector", "protect", "protect_batch", "protect_files"],
        "desk": DESK,
        "inputs": ["find_inputs", "shown"],
        "photo": ["NO_COLOURS", "ONE_CHANNEL", "Photo", "read_photo"],
        "report": ["COLUMNS", "REPORT", "check_new_png", "summary"],
    },
)
