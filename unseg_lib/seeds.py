"""Randomness is explicit: every stream is derived from a seed and the names of what it is for, on every machine alike.

Streams of different names are independent. Nothing here touches torch's or numpy's global state.
"""

import hashlib


def seed_for(*names: object) -> int:
    """Derive a 63-bit seed from names, e.g. `seed_for(seed, "random", image_id)`."""
    text = "\x1f".join(str(name) for name in names)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_rng(*names: object):
    """A CPU `torch.Generator` seeded from names."""
    import torch

    return torch.Generator().manual_seed(seed_for(*names))


def numpy_rng(*names: object):
    """A `numpy.random.Generator` seeded from names."""
    import numpy as np

    return np.random.default_rng(seed_for(*names))
