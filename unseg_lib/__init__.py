"""UnSeg: one generator of unlearnable examples against image segmentation, as a library.

Import it before torchvision, segment-anything, timm or segmentation-models-pytorch: on a CPU-only
torch it makes them importable (see `torchvision_cpu`).
"""

from unseg_lib.errors import UnsegError
from unseg_lib.torchvision_cpu import make_torchvision_importable
from unseg_lib.version import VERSION

make_torchvision_importable()

__version__ = VERSION
__all__ = ["UnsegError", "__version__"]
