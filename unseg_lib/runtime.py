"""This machine: where to compute, how fast it is, where a number comes from, and how far a loop is.

torch is imported by those functions alone that ask it: it takes seconds, and whoever only starts a notebook needs none.
Importing `unseg_lib` also edits `sys.meta_path`, so that torchvision can be imported beside a CPU-only torch: that
remedy is `torchvision_cpu.py`, apart from here because it must not import torch.
"""

import ctypes
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from unseg_lib.errors import UnsegError
from unseg_lib.files import hold

if TYPE_CHECKING:
    import torch


def choose_device(name: "str | torch.device") -> str:
    """ "auto" is CUDA, else Apple's MPS, else the CPU; a device that is not there is an error."""
    import torch

    name = str(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    usable = [kind for kind, is_there in there.items() if is_there]
    if name == "auto":
        return usable[0]
    if name.partition(":")[0] not in usable:
        raise UnsegError(f"Expected a device of this machine (auto, {', '.join(usable)}), found '{name}'.")
    device_called(name)
    return name


def device_called(name: "str | torch.device") -> "torch.device":
    """torch's device of this name, be it there or not; a misspelt one is an error."""
    import torch

    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UnsegError(f"Expected a device such as cpu, cuda or cuda:1, found '{name}'; name one of them.") from error


def device_name(device: str) -> str:
    """What a result says of where it was computed: the GPU's name, or the kind of device."""
    import torch

    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


@cache
def has_bf16(device: str) -> bool:
    """Whether a device ("cpu", "cuda") multiplies bf16 matrices itself: AMX, AVX-512 BF16, GPUs from Ampere on."""
    import torch

    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    known = torch.cpu.get_capabilities() if kind == "cpu" else {}
    return any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def usable_precision(precision: str, device: str) -> str:
    """`precision`, or fp32 ("32", for Lightning's names "32-true"), and a word about it, where a device has no bf16."""
    if not precision.startswith("bf16") or has_bf16(device):
        return precision
    instead = "32-true" if "-" in precision else "32"
    print(f"this {device_called(device).type} has no bf16 of its own: precision {instead} instead", file=sys.stderr)
    return instead


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for the next step of a training; whether the C library could be told.

    glibc gives large blocks back and asks for them anew in every step, and each page is cleared again: a tenth of a
    small training's time on a processor.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    no_mapping, trim_late = (-4, 0), (-1, 2**31 - 1)  # M_MMAP_MAX, M_TRIM_THRESHOLD in bytes
    return all([mallopt(*no_mapping), mallopt(*trim_late)])


@contextmanager
def thread_count(threads: int) -> Iterator[None]:
    """Use so many CPU threads for a while; 0 leaves torch's number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# How much memory is in use.


def forget_peak(device: "torch.device") -> None:
    """From here on `peak` counts."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts anew


def peak(device: "torch.device") -> float | None:
    """The most memory in use since `forget_peak`, MB: on a GPU by torch, else by this process; None if unknown."""
    import torch

    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else resident("VmHWM")


def resident(name: str = "VmRSS") -> float | None:
    """Memory of this process now, MB (or another line of Linux's /proc/self/status); None where it is not told."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:")), None)


# GPUs for jobs side by side: each takes one for itself.


def gpu_count() -> int:
    """How many GPUs torch sees; asked without it where its build knows none."""
    if metadata.version("torch").endswith("+cpu"):
        return 0
    import torch

    return torch.cuda.device_count()


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them; -1 there hides all of them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",") if named and named != "-1" else [str(i) for i in range(gpu_count())]


@contextmanager
def own_gpu(folder: Path, gpus: int) -> Iterator[dict[str, str]]:
    """Yield the environment that gives a job one GPU nobody else of this run uses; {} where there is no choice.

    The claim is a lock on a file in `folder`. More jobs than GPUs, as the caller wished, share them.
    """
    names = visible_gpus() if gpus == 1 else []
    if len(names) < 2:
        yield {}
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        mine = names[os.getpid() % len(names)]
        for name in names:
            with suppress(UnsegError):
                hold(stack.enter_context(open(folder / f".gpu-{name.replace('/', '-')}.lock", "a+")), "taken")
                mine = name
                break
        yield {"CUDA_VISIBLE_DEVICES": mine}


# Where a number comes from.

# packages that can change one
PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "segment-anything", "segmentation-models-pytorch", "mmsegmentation"),
    *("torchmetrics", "lightning", "papermill", "snakemake"),
)


def provenance(root: str | Path = ".") -> dict:
    """Describe code, versions and machine, without dates, users, hosts or paths, so that runs can be compared by diff.

    `root` is in the project's git checkout. `commit` is None outside git; `dirty`: files other than results differ.
    """
    found = {}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": bool(_git(root, "status", "--porcelain", "--", ":/", ":(exclude,top)results")),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpus": [device_name(f"cuda:{i}") for i in range(gpu_count())],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | found,
    }


def _git(root: str | Path, *words: str) -> str | None:
    with suppress(FileNotFoundError, subprocess.CalledProcessError):
        return subprocess.check_output(["git", "-C", root, *words], text=True, stderr=subprocess.DEVNULL).strip()
    return None


def cpu_model() -> str:
    """The processor's name, e.g. "AMD EPYC 9R14"; the architecture where the system does not tell."""
    known = Path("/proc/cpuinfo")
    named = re.search(r"^model name\s*:\s*(.+)", known.read_text(), re.M) if known.exists() else None
    return named[1].strip() if named else platform.processor() or platform.machine()


# Progress that fits its reader: a bar in a terminal or notebook, a few lines in a log.

LINES = 10  # log lines for one loop


def progress(items: Iterable, name: str, total: int | None = None, initial: int = 0) -> Iterator:
    """Iterate over `items`, showing how far it is; `initial` counts what an earlier, interrupted run has done.

    In a batch run (`UNSEG_BATCH=1`, set by the notebook runner, or output that is no terminal) it prints at most
    `LINES` lines with the time left; else it draws a tqdm bar.
    """
    total = total if total is not None else len(items) + initial
    if os.environ.get("UNSEG_BATCH") == "1" or not ("ipykernel" in sys.modules or sys.stderr.isatty()):
        return _log_lines(items, name, total, initial)
    from tqdm.auto import tqdm

    return iter(tqdm(items, desc=name, total=total, initial=initial, leave=False))


def _log_lines(items: Iterable, name: str, total: int, initial: int) -> Iterator:
    start, every = time.monotonic(), max(1, math.ceil(total / LINES))
    for done, item in enumerate(items, start=initial + 1):
        yield item
        if done % every == 0 or done == total:
            spent = time.monotonic() - start
            left = spent / max(1, done - initial) * (total - done)
            print(f"{name}: {done}/{total}, {spent:.0f} s spent, {left:.0f} s left", file=sys.stderr, flush=True)


# How much of a training's time goes to waiting for its data.


class Stopwatch:
    """Seconds spent `waiting()` for data and `working()` on them; `watch(items)` does both for the body of a loop.

    Somebody else's loop calls `lap` between the two, after a first `start`.
    """

    def __init__(self):
        self.waited, self.worked, self.samples, self.begun = 0.0, 0.0, 0, 0.0

    def start(self) -> None:
        self.begun = time.perf_counter()

    def lap(self, samples: int = 0) -> None:
        """The time since the last call went into work on so many samples, or, without any, into waiting."""
        spent, self.begun = time.perf_counter() - self.begun, time.perf_counter()
        if samples:
            self.worked, self.samples = self.worked + spent, self.samples + samples
        else:
            self.waited += spent

    @contextmanager
    def working(self, samples: int = 0) -> Iterator[None]:
        self.start()
        yield
        self.lap(samples)

    waiting = working  # on no samples

    def watch(self, batches: Iterable, size: int) -> Iterator:
        """The same batches, of `size` samples each; between two of them the loop is at work."""
        self.start()
        for batch in batches:
            self.lap()
            yield batch
            self.lap(size)
        self.lap()

    def report(self) -> dict[str, float]:
        """Samples a second, and the share of the time that was spent waiting for them."""
        spent = max(self.waited + self.worked, 1e-9)
        return {"samples_per_second": self.samples / spent, "share_waiting": self.waited / spent}
