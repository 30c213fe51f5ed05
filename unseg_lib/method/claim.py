"""A folder belongs to one training: a note says which, and another one is refused there."""

import hashlib
from dataclasses import asdict
from pathlib import Path

import numpy as np

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, sha256_of, write_json
from unseg_lib.method.config import BilevelConfig

LATER = ("data", "devices", "precision", "fast", "checkpointed", "compiled")  # not in the notes of older versions


def claim(out: Path, config: BilevelConfig, pairs, way: dict) -> None:
    """Note in `out` what is trained there; raise `UnsegError` rather than continue something else.

    pairs: as `train_generator` takes them; way: what else changes the numbers, by the names of `LATER`. What an older
    version began is continued whatever its note does not say.
    """
    weights = {
        k: sha256_of(v) for k in ("sam_weights", "mae_weights") if (v := getattr(config, k)) and Path(v).is_file()
    }
    mine = {k: list(v) if isinstance(v, tuple) else v for k, v in (asdict(config) | weights).items()}
    mine |= {"images": len(pairs), "data": digest(pairs)} | way
    note = out / "training.json"
    if not note.exists():
        write_json(note, mine)
        return
    found = read_json(note)
    known = {k: v for k, v in mine.items() if k in found or k not in LATER}
    if found != known:
        changed = sorted(k for k in known | found if known.get(k) != found.get(k))
        raise UnsegError(
            f"Expected {out} to hold this training, found one with other settings ({', '.join(changed)}); "
            "choose another folder or delete this one."
        )


def digest(pairs) -> str:
    """SHA-256 of the first and the last pair, with their shapes: all would mean to decode a large set once more."""
    sha = hashlib.sha256()
    for i in range(0, len(pairs), max(1, len(pairs) - 1)):
        for part in pairs[i]:
            sha.update(f"{part.dtype}{part.shape}".encode())
            sha.update(np.ascontiguousarray(part).tobytes())
    return sha.hexdigest()
