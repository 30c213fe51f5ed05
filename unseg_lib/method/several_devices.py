"""Train on several devices from a notebook: a process for each of them, beside the kernel.

For every device Lightning's launcher starts the running script once more, and refuses in an interactive interpreter,
which runs none. So this module is the script: it gets the pickled call, the lines that it and its processes print are
shown, and an `UnsegError` of any of them is raised here.
"""

import logging
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes
from unseg_lib.pipeline import die_with_parent

PARENT = "UNSEG_PARENT"  # environment: the process without which this one ends
CALL, ERROR = "call.pickle", "error.txt"


def interactive() -> bool:
    """Whether this interpreter is a notebook's or a prompt: there is no script that could be started again."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def train_beside(config, pairs, out: Path, how: dict) -> None:
    """`train_generator(config, pairs, out, **how)` in processes of its own, which end with this one.

    pairs: picklable, of a class in a file; each process has its copy. Raises the `UnsegError` of any process, and one
    with the last line where they stop in another way.
    """
    place = out.resolve() / ".partial-devices"
    shutil.rmtree(place, ignore_errors=True)  # of a killed call
    place.mkdir(parents=True)
    try:
        _write_call(place / CALL, (config, pairs, out.resolve(), how))
        status, last = _run(place)
        if (place / ERROR).exists():
            raise UnsegError((place / ERROR).read_text())
        if status:
            raise UnsegError(
                f"Expected the training on {how['devices']} devices to reach its end, found that it stopped ({last}); "
                "mend what the lines above say, and the same call goes on from its last checkpoint."
            )
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _write_call(path: Path, call: tuple) -> None:
    try:
        content = pickle.dumps(call)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise _unreadable(error) from error
    write_bytes(path, content)


def _read_call(path: Path) -> tuple:
    try:
        return pickle.loads(path.read_bytes())
    except (AttributeError, ImportError) as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> UnsegError:
    return UnsegError(
        f"Expected pairs that other processes can read, found some that cannot be pickled ({error}); "
        "put their class into a file that can be imported."
    )


def _run(place: Path) -> tuple[int, str]:
    """Start the first process, show what all of them print; its exit status and their last line."""
    # no word of Slurm's tasks: Lightning would wait for Slurm to start the other processes
    environment = {name: value for name, value in os.environ.items() if name != "SLURM_NTASKS"}
    environment |= {PARENT: str(os.getpid()), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"TORCH_CPP_LOG_LEVEL": "ERROR"}  # its warnings have times, which would stay in an executed notebook
    command, last = [sys.executable, "-m", "unseg_lib.method.several_devices", str(place)], "without a word"
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=environment, text=True, errors="replace", **streams) as process:
        try:
            for line in process.stdout:
                print(line, end="", file=sys.stderr, flush=True)
                last = line.strip() or last
        except BaseException:  # the notebook's stop button, too
            process.kill()
            raise
    return process.returncode, last


def main(place: Path) -> int:
    """Train as one of the processes; Lightning starts the others from the first one, by the same command."""
    die_with_parent(int(os.environ[PARENT]))
    os.environ[PARENT] = str(os.getpid())  # for those that are started from here
    logging.disable(logging.INFO)  # Lightning's lines, whose order would differ from run to run
    from unseg_lib.method.bilevel import train_generator

    try:
        config, pairs, out, how = _read_call(place / CALL)
        train_generator(config, pairs, out, **how)
    except UnsegError as error:
        write_bytes(place / ERROR, str(error).encode())
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
