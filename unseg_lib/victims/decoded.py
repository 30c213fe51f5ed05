"""Room for the decoded images of a data set: memory, or a file where they are too many for it, as COCO's are."""

import os
import tempfile
from math import prod
from pathlib import Path

import numpy as np
import torch

from unseg_lib.errors import UnsegError

MEMORY = 8 << 30  # bytes that are held in memory


def room(shape: tuple[int, ...], folder: str | Path | None = None) -> torch.Tensor:
    """An uint8 tensor of this shape, to be filled.

    One of more than `MEMORY` bytes lies in a file without a name below `folder` (default: where temporary files go),
    of which the system holds in memory what is used; the file is gone when the process is.
    """
    size = prod(shape)
    if size <= MEMORY:
        return torch.empty(shape, dtype=torch.uint8)
    folder = folder or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            # at once: a disk that fills up later would kill the process
            os.posix_fallocate(file.fileno(), 0, size)
            return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
    except (OSError, AttributeError) as error:
        found = getattr(error, "strerror", None) or "this system cannot reserve it"
        raise UnsegError(
            f"Expected {size / 1e9:.0f} GB of disk below {folder} for decoded images, found no such room ({found}); "
            "free it, or take fewer or smaller images."
        ) from error
