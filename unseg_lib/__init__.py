"""UnSeg: one generator of unlearnable examples against image segmentation, as a library.

Import it before torchvision, segment-anything, timm or segmentation-models-pytorch: on a CPU-only
torch it makes them importable (see `torchvision_cpu`).
"""

from unseg_lib.errors import UnsegError
from unseg_lib.torchvision_cpu import make_torchvision_importable
from unseg_lib.version import VERSION

make_torchvision_importable()

__version__ = VERSION
__all__ = ["Protected", "Protector", "UnsegError", "__version__", "protect", "protect_batch"]


def __getattr__(name: str):
    """Load what needs torch only when it is asked for."""
    if name in ("Protected", "Protector", "protect", "protect_batch"):
        from unseg_lib import protection

        return getattr(protection, name)
    raise AttributeError(f"module 'unseg_lib' has no attribute '{name}'")
