"""How a training uses its devices: fused kernels on one, and from a notebook a process for each of several.

Lightning's own way in a notebook, `fabric.launch(function)` with "ddp_notebook", forks the kernel: it refuses once CUDA
is in use there, and on a CPU it hangs behind OpenMP's threads. From a script Lightning starts that script once more for
each device, and a notebook has none. So here torch spawns the processes, which end with the kernel (torch asks Linux
for that), and each of them trains as one that was started from outside.
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

    Fused attention wherever no gradient is wanted (the frozen encoder, the idle generator), and on GPUs everywhere;
    one kernel for all parameters of an optimiser's step. checkpointed: blocks that learn keep no activations and run
    twice, for memory. compiled: the surrogate by torch.compile (once per size at which it sees images).
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

    pairs: picklable, of a class in a file; each process has its copy. Raises the `UnsegError` of any process, and one
    with the last line of the error where they stop in another way.
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
        last = str(error).strip().splitlines()[-1]
        raise UnsegError(
            f"Expected the training on {how['devices']} devices to reach its end, found that it stopped ({last}); mend "
            "what the lines above say, and the same call goes on from its last checkpoint."
            if told.empty()
            else told.get()
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
        try:
            train, *given = pickle.loads(call)
        except (AttributeError, ImportError) as error:
            raise UnsegError(UNREADABLE.format(error)) from error
        train(*given)
    except UnsegError as error:
        told.put(str(error))
        raise
