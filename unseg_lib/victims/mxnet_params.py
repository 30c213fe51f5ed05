"""Read weights that MXNet has saved (.params), without MXNet: its binary format is a list of arrays and their names.

All numbers are little-endian. uint64 0x112, uint64 0; uint64 count and so many arrays; uint64 count and so many
names, each a uint64 length and its bytes. An array, by the version of MXNet that wrote it:

* of 2016: uint32 number of dimensions, uint32 each; int32 device type, int32 device number; int32 type; values;
* of 2017: uint32 0xF993FAC8, then the same with dimensions int64;
* later: uint32 0xF993FAC9 (or ...CA), int32 0 for "dense", then as of 2017.

Nothing in such a file is executed; sizes that the file cannot hold are refused.
"""

import math
import struct
from pathlib import Path

import numpy as np
import torch

from unseg_lib.errors import UnsegError

MAGIC = 0x112
VERSIONS = {0xF993FAC8: False, 0xF993FAC9: True, 0xF993FACA: True}  # -> whether a storage type follows
TYPES = {0: "<f4", 1: "<f8", 2: "<f2", 3: "u1", 4: "<i4", 5: "i1", 6: "<i8"}


def read_params(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of a .params file by name, e.g. "arg:conv1a_weight"."""
    reader = _Reader(path)
    if reader.number("Q") != MAGIC:
        raise reader.error("its first bytes are others")
    reader.number("Q")
    arrays = [_array(reader) for _ in range(reader.count())]
    names = [reader.take(reader.count()).decode("utf-8", "replace") for _ in range(reader.count())]
    if len(names) != len(arrays) or len(set(names)) < len(names):
        raise reader.error(f"it has {len(arrays)} arrays and {len(set(names))} names")
    return dict(zip(names, arrays))


class _Reader:
    """The bytes of a file, one after the other."""

    def __init__(self, path: Path):
        self.path, self.place, self.content = path, 0, memoryview(path.read_bytes())

    def take(self, length: int) -> bytes:
        if not 0 <= length <= len(self.content) - self.place:
            raise self.error(f"it ends after {len(self.content)} bytes")
        self.place += length
        return bytes(self.content[self.place - length : self.place])

    def number(self, kind: str) -> int:
        return struct.unpack(f"<{kind}", self.take(struct.calcsize(kind)))[0]

    def count(self) -> int:
        """How many things follow, each of a byte at least."""
        found = self.number("Q")
        if found > len(self.content) - self.place:
            raise self.error(f"it ends after {len(self.content)} bytes")
        return found

    def error(self, reason: str) -> UnsegError:
        return UnsegError(f"Expected weights that MXNet has saved in {self.path}, but {reason}; download it again.")


def _array(reader: _Reader) -> torch.Tensor:
    dimensions, wide = reader.number("I"), False
    if dimensions in VERSIONS:
        if VERSIONS[dimensions] and reader.number("i") != 0:
            raise reader.error("an array in it is sparse")
        dimensions, wide = reader.number("I"), True
    if dimensions > 32:
        raise reader.error(f"an array in it has {dimensions} dimensions")
    shape = [reader.number("q" if wide else "I") for _ in range(dimensions)]
    if not shape:
        return torch.zeros(0)  # MXNet's "no array": nothing follows
    reader.take(8)  # where it was computed
    kind = reader.number("i")
    if kind not in TYPES or min(shape) < 0:
        raise reader.error(f"an array in it has type {kind} and shape {shape}")
    values = np.frombuffer(reader.take(math.prod(shape) * np.dtype(TYPES[kind]).itemsize), TYPES[kind])
    return torch.from_numpy(values.reshape(shape).copy())
