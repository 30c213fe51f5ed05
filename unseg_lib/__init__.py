"""UnSeg: one generator of unlearnable examples against image segmentation, as a library.

Import it before torchvision, segment-anything, timm or segmentation-models-pytorch: on a CPU-only torch it makes them
importable (see `torchvision_cpu`).
"""

import os
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.torchvision_cpu import make_torchvision_importable

make_torchvision_importable()

__version__ = "0.1.0"
__all__ = ["Protected", "Protector", "UnsegError", "__version__", "notebook", "protect", "protect_batch"]


def notebook() -> Path:
    """The first call of every notebook: change to the project's root, from which its paths are meant, and return it."""
    from unseg_lib.pipeline import project_root

    os.chdir(project_root())
    return Path.cwd()


def __getattr__(name: str):
    """Load what needs torch only when it is asked for."""
    if name in ("Protected", "Protector", "protect", "protect_batch"):
        from unseg_lib import protection

        return getattr(protection, name)
    raise AttributeError(f"module 'unseg_lib' has no attribute '{name}'")
