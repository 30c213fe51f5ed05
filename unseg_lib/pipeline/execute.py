"""The process that executes one notebook: `python -P execute.py` with a job as JSON on stdin.

It dies with the runner that started it, and the kernel dies with it, so that a killed run leaves nobody
behind who would go on writing.
"""

import ctypes
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h
FAILED_IN_A_CELL = 3  # exit status: the error is in the notebook


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when the one that started it ends; elsewhere the lock protects."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise SystemExit("the runner is gone")


def main() -> int:
    job = json.load(sys.stdin)
    die_with_parent(job["parent"])
    import papermill

    try:
        papermill.execute_notebook(
            job["notebook"],
            job["to"],
            parameters=job["parameters"],
            kernel_name=job["kernel"],
            cwd=job["root"],
            progress_bar=False,
            stdout_file=sys.stdout,
            stderr_file=sys.stderr,
        )
    except papermill.PapermillExecutionError:
        return FAILED_IN_A_CELL
    return 0


if __name__ == "__main__":
    sys.exit(main())
