"""How a training uses its devices: fused kernels on one, and from a notebook a process for each of several.

Lightning starts a script once more for each device, but forks the kernel of a notebook, which fails once CUDA is in
use there, and hangs behind OpenMP's threads. So here torch spawns processes, which end with the kernel (Linux sees to
that), and each of them trains as one that was started from outside.
"""

import logging
import os
import pickle
import signal
import socket
from functools import partial
from pathlib import Path

from torch import multiprocessing

from unseg_lib.errors import UnsegError
from unseg_lib.method.sam import encode_learning

UNREADABLE = (
    "Expected pairs that other processes can read, found some that cannot be pickled ({}); "
    "put their class into a file that can be imported."
)


def accelerate(game, *, checkpointed: bool = False, compiled: bool = False) -> None:
    """Change the players of a `bilevel.Game` in place, before the first step; their numbers differ by rounding.

    Fused attention (on a CPU where no gradient is wanted), one kernel for an optimiser's step. checkpointed: blocks
    that learn keep no activations and run twice. compiled: the surrogate by torch.compile, once per image size.
    """
    for name in game.players:
        player = game.bare(name)
        if hasattr(player, "encode"):
            player.encode = partial(encode_learning, checkpointed=checkpointed)
        for group in game.optimisers[name].param_groups:
            group.update(fused=True, foreach=False)
    if compiled:
        game.bare("surrogate").compile()


def train_beside(train, config, pairs, out: Path, how: dict) -> None:
    """`train(config, pairs, out, how)` in a process for each of how["devices"], which end with this one.

    pairs: picklable, of a class in a file. Raises the `UnsegError` of any process, or one with another's last line.
    """
    try:
        call = pickle.dumps((train, config, pairs, out.resolve(), how))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UnsegError(UNREADABLE.format(error)) from error
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # their warnings have times, which would stay in a notebook
    told = multiprocessing.get_context("spawn").SimpleQueue()
    started = multiprocessing.start_processes(_train_one, (call, port, told), how["devices"], join=False)
    try:
        while not started.join():
            pass
    except (multiprocessing.ProcessRaisedException, multiprocessing.ProcessExitedException) as error:
        if not told.empty():
            raise UnsegError(told.get()) from error
        raise UnsegError(
            f"Expected the training on {how['devices']} devices to reach its end, found that it stopped "
            f"({str(error).strip().splitlines()[-1]}); mend what the lines above say, and the same call goes on from "
            "its last checkpoint."
        ) from error
    finally:  # the notebook's stop button, too
        for process in started.processes:
            process.kill()


def _train_one(rank: int, call: bytes, port: int, told) -> None:
    """Train as one of the processes, as Lightning does where somebody else has started them."""
    os.environ.update(LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    os.environ.pop("SLURM_NTASKS", None)  # Lightning would wait for Slurm to start the other processes
    # the signal that comes when the kernel ends: it ends this process at once, too; or it came before torch had asked
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not multiprocessing.parent_process().is_alive():
        return
    logging.disable(logging.INFO)  # Lightning's lines, whose order would differ from run to run
    try:
        train, *given = pickle.loads(call)
    except (AttributeError, ImportError) as error:
        told.put(UNREADABLE.format(error))
        raise
    try:
        train(*given)
    except UnsegError as error:
        told.put(str(error))
        raise
