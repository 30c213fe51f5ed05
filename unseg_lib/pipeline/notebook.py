"""The strict papermill runner: a notebook runs whole, in its own process, or it has not run.

A folder of results is done when its `.done` holds the fingerprint of what was asked for: notebook text,
parameters, and the fingerprints of the stages it builds on. `.done` is written last and is not committed,
so that a fresh clone computes its own results.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import hold, read_json, whole_file, write_bytes, write_json
from unseg_lib.pipeline import execute
from unseg_lib.pipeline.parameters import check_parameters, notebook_code_hash
from unseg_lib.pipeline.provenance import provenance
from unseg_lib.pipeline.scrub import clean_notebook, places_of

# parameters that say where or how fast, not what: changing them asks for no new result
PLACES = ("out", "data_root", "cache", "jobs", "threads", "device", "workers", "checkpoint_every")
KERNEL = "unseg"
BEGUN = ".partial-begun"  # holds the fingerprint of a run that has not ended


def fingerprint(notebook: str | Path, values: dict, inputs: tuple[str, ...] = ()) -> str:
    """12 hex digits that change when the notebook's code, a parameter or an input stage changes."""
    what = {name: value for name, value in values.items() if name not in PLACES}
    text = json.dumps([notebook_code_hash(notebook), what, sorted(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def is_done(out: str | Path, mark: str, products: tuple[str, ...] = ()) -> bool:
    """Whether `out` holds the finished result with this fingerprint, made on this machine."""
    out = Path(out)
    files = ("metrics.json", "provenance.json", "run.ipynb", *products)
    done = out / ".done"
    return done.exists() and done.read_text() == mark and all((out / name).exists() for name in files)


def run_notebook(
    notebook: str | Path,
    out: str | Path,
    parameters: dict,
    *,
    inputs: tuple[str, ...] = (),
    products: tuple[str, ...] = (),
    threads: int = 0,
) -> Path:
    """Execute `notebook` with `parameters` into the folder `out`, unless that was done before; return `out`.

    `inputs` are fingerprints of the stages it builds on, `products` files in `out` it must leave, `threads` the
    CPU threads it may use (0: the machine's default). Leaves run.ipynb, metrics.json and provenance.json; on
    failure only failed.ipynb, with a one-sentence `UnsegError`. A second runner of the same folder waits.
    """
    notebook, out = Path(notebook).resolve(), Path(out)
    root = project_root(notebook)
    inside = out.resolve().is_relative_to(root)
    shown = out.resolve().relative_to(root).as_posix() if inside else str(out.resolve())
    values = check_parameters(notebook, parameters | {"out": shown})
    mark = fingerprint(notebook, values, inputs)
    with locked(out):
        if is_done(out, mark, products):
            print(f"{shown}: already done", file=sys.stderr)
            return out
        claim(out, mark)
        start = time.monotonic()
        given = {name: values[name] for name in (*parameters, "out")}
        executed = _execute(notebook, root, out, given, threads)
        metrics = _result(notebook, out, products)
        origin = provenance(root) | {
            "notebook": f"{notebook.parent.name}/{notebook.name}",
            "parameters": {name: value for name, value in values.items() if name not in PLACES},
            "fingerprint": mark,
            "inputs": sorted(inputs),
            "seed": values.get("seed"),
            "minutes": round((time.monotonic() - start) / 60, 2),
        }
        origin["device"] = metrics.get("device") or (origin["gpus"] or ["cpu"])[0]
        write_json(out / "run.ipynb", executed)
        write_json(out / "provenance.json", origin)
        os.replace(_pending(out), out / "metrics.json")
        (out / "failed.ipynb").unlink(missing_ok=True)
        write_bytes(out / ".done", mark.encode())
        (out / BEGUN).unlink()
    return out


def claim(out: Path, mark: str) -> None:
    """Make `out` the folder of this run: what a run of the same fingerprint left is kept, for its checkpoints;
    what another run left (other parameters, or the committed results of somebody else) is removed.

    A folder with files that no run left is refused: the next run would remove them.
    """
    owners = [(out / name).read_text() for name in (BEGUN, ".done") if (out / name).exists()]
    of_a_run = owners or (out / "provenance.json").exists()
    foreign = [] if of_a_run else [path.name for path in out.iterdir() if path.name != ".lock"]
    if foreign:
        raise UnsegError(
            f"Expected a new or empty folder for the result, found {sorted(foreign)[0]} in {out}, which no run left; "
            "name another folder with --out."
        )
    if of_a_run and mark not in owners:
        write_bytes(out / BEGUN, b"nobody's")  # a kill here: the next run removes the rest
        for path in out.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (".lock", BEGUN):
                path.unlink()
    write_bytes(out / BEGUN, mark.encode())
    (out / ".done").unlink(missing_ok=True)


def project_root(notebook: Path) -> Path:
    """The checkout the notebook belongs to: the first folder above it with a Snakefile, else the current one."""
    return next((folder for folder in notebook.parents if (folder / "Snakefile").exists()), Path.cwd())


def _pending(out: Path) -> Path:
    """Where `save_result` writes until the whole notebook has run."""
    return out.resolve() / ".partial-metrics.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process; the lock vanishes with the process, so it is never stale."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise UnsegError(
            f"Expected a folder that can be written at {folder}, found none ({error.strerror}); name another one."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process is at work here, waiting for it", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def at_rest(folder: Path) -> Iterator[None]:
    """Keep runs out of `folder` while somebody looks at it, or refuse where one is at work; makes no files."""
    if not (folder / ".lock").exists():  # nobody has run here
        yield
        return
    with open(folder / ".lock", "a+") as lock:
        hold(lock, f"Expected no run at work in {folder}, found one; look again when it has ended.", shared=True)
        yield


def _environment(private: Path, out: Path, threads: int) -> dict[str, str]:
    """The notebook's process: its own Jupyter and IPython folders, and a kernel on this very Python."""
    spec = {
        "argv": [
            sys.executable,
            "-m",
            "ipykernel_launcher",
            "-f",
            "{connection_file}",
            "--HistoryManager.enabled=False",
        ],
        "display_name": "Python 3",
        "language": "python",
    }
    write_json(private / "kernels" / KERNEL / "kernel.json", spec)
    environment = os.environ | {
        "UNSEG_BATCH": "1",
        "UNSEG_METRICS": str(_pending(out)),
        "JUPYTER_PATH": str(private),
        "JUPYTER_RUNTIME_DIR": str(private / "runtime"),
        "JUPYTER_CONFIG_DIR": str(private / "config"),
        "IPYTHONDIR": str(private / "ipython"),
        "PYTHONHASHSEED": "0",
    }
    if os.environ.get("UNSEG_DATA"):
        environment["UNSEG_DATA"] = str(Path(os.environ["UNSEG_DATA"]).resolve())
    if threads:
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return environment


def _execute(notebook: Path, root: Path, out: Path, parameters: dict, threads: int) -> dict:
    """Run the notebook in a child process; return the executed copy, scrubbed, or raise `UnsegError`."""
    private = out.resolve() / ".partial-jupyter"
    shutil.rmtree(private, ignore_errors=True)
    _pending(out).unlink(missing_ok=True)
    try:
        with whole_file(private / "executed.ipynb") as partial:
            job = {"notebook": str(notebook), "to": str(partial), "parameters": parameters, "kernel": KERNEL}
            job |= {"root": str(root), "parent": os.getpid()}
            status, last = _run_child(job, _environment(private, out, threads), out.name)
            ran = json.loads(partial.read_text()) if partial.exists() and partial.stat().st_size else None
            if ran:
                ran = clean_notebook(ran, places_of(root, out))
            if status:
                raise _failure(notebook, out, ran if status == execute.FAILED_IN_A_CELL else None, last)
            return ran
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _run_child(job: dict, environment: dict, label: str) -> tuple[int, str]:
    """Start the executing process, show its lines with the label of the stage; return status and last line."""
    # by path and -P: importing the package, and torch with it, would only cost seconds here
    command = [sys.executable, "-P", execute.__file__]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    last = "it ended without a word"
    with subprocess.Popen(command, env=environment, text=True, errors="replace", **streams) as child:
        child.stdin.write(json.dumps(job))
        child.stdin.close()
        for line in child.stdout:
            print(f"[{label}] {line.rstrip()}", file=sys.stderr, flush=True)
            last = line.strip() or last
    return child.returncode, last


def _failure(notebook: Path, out: Path, ran: dict | None, last: str) -> UnsegError:
    """The sentence for a notebook that failed; keeps the failed copy for reading."""
    outputs = [output for cell in (ran or {}).get("cells", []) for output in cell.get("outputs", [])]
    errors = [output for output in outputs if output["output_type"] == "error"]
    if not errors:
        return UnsegError(f"{notebook.name} stopped before its end ({last}); run the same command again to go on.")
    name, text = errors[0]["ename"], errors[0]["evalue"]
    said = text if name == "UnsegError" else f"{name}: {text}"
    if name == "OSError" and "No space left" in text:
        said = "the disk is full; free some space and run the same command again, finished work is kept"
        return UnsegError(f"{notebook.name} failed: {said}.")
    write_json(out / "failed.ipynb", ran)
    return UnsegError(f"{notebook.name} failed: {' '.join(said.split()).rstrip('.')} (see {out / 'failed.ipynb'})")


def _result(notebook: Path, out: Path, products: tuple[str, ...]) -> dict:
    """Read what `save_result` left; a notebook that left nothing has failed."""
    if not _pending(out).exists():
        raise UnsegError(f"Expected {notebook.name} to end with save_result(out, ...), found no metrics.json; add it.")
    for name in products:
        if not (out / name).exists():
            raise UnsegError(f"Expected {notebook.name} to write {out / name}, found no such file.")
    return read_json(_pending(out))
