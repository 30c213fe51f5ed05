"""This machine: where to compute, how fast it is, where a number comes from, and how far a loop is.

Importing `unseg_lib` also edits `sys.meta_path`, so that torchvision can be imported beside a CPU-only torch, whose
compiled operators do not load: that remedy is `torchvision_cpu.py`, apart from here because it must not import torch.
"""

import ctypes
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

import torch

from unseg_lib.errors import UnsegError


def choose_device(name: str | torch.device) -> str:
    """ "auto" is CUDA, else Apple's MPS, else the CPU; a device that is not there is an error."""
    name = str(name)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, usable in there.items() if usable)
    if not there.get(name.partition(":")[0], False):
        usable = ", ".join(kind for kind, usable in there.items() if usable)
        raise UnsegError(f"Expected a device of this machine (auto, {usable}), found '{name}'.")
    device_called(name)
    return name


def device_called(name: str | torch.device) -> torch.device:
    """torch's device of this name, be it there or not; a misspelt one is an error."""
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise UnsegError(f"Expected a device such as cpu, cuda or cuda:1, found '{name}'; name one of them.") from error


def device_name(device: str) -> str:
    """What a result says of where it was computed: the GPU's name, or the kind of device."""
    return torch.cuda.get_device_name() if device == "cuda" else device


@cache
def has_bf16(device: str) -> bool:
    """Whether a device ("cpu", "cuda") multiplies bf16 matrices itself: AMX, AVX-512 BF16, GPUs from Ampere on."""
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if kind == "cpu":
        known = getattr(torch.cpu, "get_capabilities", dict)()  # not in older versions of torch: then fp32
        return any(known.get(name, False) for name in ("amx_bf16", "avx512_bf16"))
    return False


def usable_precision(precision: str, device: str) -> str:
    """`precision`, or fp32, and a word about it, where bf16 is asked for and the device has none.

    "bf16" becomes "32"; Lightning's "bf16-mixed" and "bf16-true" become "32-true".
    """
    if not precision.startswith("bf16") or has_bf16(device):
        return precision
    instead = "32-true" if "-" in precision else "32"
    print(f"this {torch.device(device).type} has no bf16 of its own: precision {instead} instead", file=sys.stderr)
    return instead


@cache
def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for the next step of a training; whether the C library could be told.

    glibc gives large blocks back to the system at once and asks for them anew in every step, and each of their pages
    is then cleared again: a tenth of a small training's time on a processor. Elsewhere nothing changes.
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
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# GPUs for jobs side by side: each takes one for itself.


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


@contextmanager
def own_gpu(folder: Path, gpus: int) -> Iterator[dict[str, str]]:
    """Yield the environment that gives a job one GPU nobody else of this run uses; {} where there is no choice.

    The claim is a lock on a file in `folder`: it ends with the process. Where every GPU is taken (more jobs
    than GPUs, as the caller wished), GPUs are shared.
    """
    import fcntl  # not on Windows

    names = visible_gpus() if gpus == 1 else []
    if len(names) < 2:
        yield {}
        return
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for name in names:
            lock = stack.enter_context(open(folder / f".gpu-{name}.lock", "a+"))
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield {"CUDA_VISIBLE_DEVICES": name}
            return
        yield {"CUDA_VISIBLE_DEVICES": names[os.getpid() % len(names)]}


# Where a number comes from.

# packages that can change one
PACKAGES = (
    *("torch", "torchvision", "numpy", "pillow", "segment-anything", "segmentation-models-pytorch", "mmsegmentation"),
    *("torchmetrics", "lightning", "papermill", "snakemake"),
)


def provenance(root: str | Path = ".") -> dict:
    """Describe code, versions and machine, without dates, users, hosts or paths, so that runs can be compared by diff.

    `root` is a folder of the project's git checkout. `commit` is None outside git; `dirty` says whether files other
    than results differ from the commit.
    """
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": bool(_git(root, "status", "--porcelain", "--", ":/", ":(exclude,top)results")),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | found,
    }


def _git(root: str | Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_model() -> str:
    """The processor's name, e.g. "AMD EPYC 9R14"; the architecture where the system does not tell."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# Progress that fits its reader: a bar in a terminal or notebook, a few lines in a log.

LINES = 10  # log lines for one loop


def progress(items: Iterable, name: str, total: int | None = None, initial: int = 0) -> Iterator:
    """Iterate over `items`, showing how far it is.

    In a batch run (`UNSEG_BATCH=1`, set by the notebook runner, or output that is no terminal) it
    prints at most `LINES` lines with the time left; else it draws a tqdm bar. `initial` counts
    what an earlier, interrupted run has done.
    """
    total = total if total is not None else len(items) + initial
    if os.environ.get("UNSEG_BATCH") == "1" or not (_in_notebook() or sys.stderr.isatty()):
        return _log_lines(items, name, total, initial)
    from tqdm.auto import tqdm

    return iter(tqdm(items, desc=name, total=total, initial=initial, leave=False))


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules


def _log_lines(items: Iterable, name: str, total: int, initial: int) -> Iterator:
    start, every = time.monotonic(), max(1, total // LINES)
    for done, item in enumerate(items, start=initial + 1):
        yield item
        if done % every == 0 or done == total:
            spent = time.monotonic() - start
            left = spent / max(1, done - initial) * (total - done)
            print(f"{name}: {done}/{total}, {spent:.0f} s spent, {left:.0f} s left", file=sys.stderr, flush=True)


# How much of a training's time goes to waiting for its data.

END = object()


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
    def waiting(self) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextmanager
    def working(self, samples: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.worked, self.samples = self.worked + time.perf_counter() - start, self.samples + samples

    def watch(self, batches: Iterable, size: int) -> Iterator:
        """The same batches, of `size` samples each; between two of them the loop is at work."""
        iterator = iter(batches)
        while True:
            with self.waiting():
                batch = next(iterator, END)
            if batch is END:
                return
            with self.working(size):
                yield batch

    def report(self) -> dict[str, float]:
        """Samples a second, and the share of the time that was spent waiting for them."""
        spent = max(self.waited + self.worked, 1e-9)
        return {"samples_per_second": self.samples / spent, "share_waiting": self.waited / spent}
