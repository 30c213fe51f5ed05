"""Parallel jobs on a machine with several GPUs: each takes one for itself."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


def visible_gpus() -> list[str]:
    """The GPUs this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",") if named else [str(i) for i in range(torch.cuda.device_count())]


@contextmanager
def own_gpu(folder: Path, gpus: int) -> Iterator[dict[str, str]]:
    """Yield the environment that gives a job one GPU nobody else of this run uses; {} where there is no choice.

    The claim is a lock on a file in `folder`: it ends with the process. Where every GPU is taken (more jobs
    than GPUs, as the caller wished), GPUs are shared.
    """
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
