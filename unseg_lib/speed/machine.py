"""What a device can do at best, and how much time and memory a piece of work takes on it."""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SIDES = (1024, 2048, 4096)  # of square matrices; the best of them is the peak


@dataclass(frozen=True)
class Cost:
    """seconds: the fastest of all calls. megabytes: the most memory that was in use at any moment, None if unknown:
    on a GPU what torch had allocated, else the whole process as it lay in memory.
    """

    seconds: float
    megabytes: float | None


def cost(work: Callable[[], object], device: torch.device, repeats: int = 2) -> Cost:
    """Time and memory of some work: the fastest of a first call (compiling, first touch of memory) and `repeats` more.

    The fastest, because whatever else the machine does can only make a call slower.
    """
    gc.collect()
    forget_peak(device)
    return Cost(min(seconds(work, device) for _ in range(1 + repeats)), peak(device))


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, until the device has done it."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best square matrix multiplication in this type: what no encoder can exceed."""
    best = 0.0
    for side in SIDES:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        best = max(best, 2 * side**3 / cost(lambda a=a, b=b: a @ b, device, repeats=3).seconds)
    return best


def resident() -> float:
    """Memory of this process now, MB; not a number where the system does not tell."""
    return _status("VmRSS") or float("nan")


def wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forget_peak(device: torch.device) -> None:
    """From here on `peak` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts anew
    except OSError:
        return


def peak(device: torch.device) -> float | None:
    """The most memory in use since `forget_peak`, MB, see `Cost`."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    return _status("VmHWM")


def _status(name: str) -> float | None:
    """A line of Linux's /proc/self/status, MB."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 / 1e6 if found else None
