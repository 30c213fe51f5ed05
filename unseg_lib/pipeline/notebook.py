"""The strict papermill runner: a notebook runs whole, in its own process, or it has not run.

Two hidden files say how far a folder of results is. `.run` is written first and holds the fingerprint of what was asked
for: notebook code, parameters, and the stages it builds on; it says whose checkpoints these are. `.done-FINGERPRINT` is
written last. Neither is committed, so that a fresh clone computes its own results.
"""

import hashlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import hold, read_json, write_bytes, write_json
from unseg_lib.pipeline.parameters import check_parameters, notebook_code_hash

# parameters that say where or how fast, not what: changing them asks for no new result
PLACES = ("out", "data_root", "cache", "jobs", "threads", "device", "workers", "checkpoint_every")
PLACES += ("validation",)  # or only look on
OWNER, RESULT = ".run", ("metrics.json", "provenance.json", "run.ipynb")


def project_root(start: str | Path = ".") -> Path:
    """The checkout that `start` (default: the current folder) is in, else the one the package was installed from."""
    for place in (Path(start).resolve(), Path(__file__).resolve()):
        for folder in (place, *place.parents):
            if (folder / "Snakefile").exists() and (folder / "notebooks").is_dir():
                return folder
    raise UnsegError("Expected a checkout of the project here, found no folder notebooks/; change to it first.")


def fingerprint(notebook: str | Path, values: dict, inputs: tuple[str, ...] = ()) -> str:
    """12 hex digits that change when the notebook's code, a parameter or an input stage changes."""
    text = json.dumps([notebook_code_hash(notebook), decisive(values), sorted(inputs)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def decisive(values: dict) -> dict:
    return {name: value for name, value in values.items() if name not in PLACES}


def marker_of(out: str | Path, mark: str) -> Path:
    """The file that is written last: its name holds the fingerprint, so an outdated one does not count."""
    return Path(out) / f".done-{mark}"


def is_done(out: str | Path, mark: str) -> bool:
    """Whether `out` holds the finished result with this fingerprint, made on this machine."""
    return marker_of(out, mark).exists() and all((Path(out) / name).exists() for name in RESULT)


def run_notebook(
    notebook: str | Path, out: str | Path, parameters: dict, *, inputs: tuple[str, ...] = (), threads: int = 0
) -> Path:
    """Execute `notebook` with `parameters` into the folder `out`, unless that was done before; return `out`.

    `inputs`: fingerprints of the stages it builds on; `threads`: of the CPU (0: the machine's default). Leaves RESULT;
    on failure only failed.ipynb, and raises a one-sentence `UnsegError`. A second runner of the same folder waits.
    """
    from unseg_lib.runtime import provenance

    notebook, out = Path(notebook).resolve(), Path(out)
    root, here = project_root(notebook), out.resolve()
    shown = (here.relative_to(root) if here.is_relative_to(root) else here).as_posix()
    values = check_parameters(notebook, parameters | {"out": shown})
    mark = fingerprint(notebook, values, inputs)
    with locked(out):
        if is_done(out, mark):
            print(f"{shown}: already done", file=sys.stderr)
            return out
        take_over(out, mark)
        start, pending = time.monotonic(), here / ".partial-metrics.json"
        given = {name: values[name] for name in (*parameters, "out")}
        executed = _execute(notebook, root, out, pending, given, threads)
        if not pending.exists():
            raise UnsegError(f"Expected {notebook.name} to end with save_result(out, ...), found none; add it.")
        origin = provenance(root) | {"notebook": f"{notebook.parent.name}/{notebook.name}", "seed": values.get("seed")}
        origin |= {"parameters": decisive(values), "fingerprint": mark, "inputs": sorted(inputs)}
        origin["minutes"] = round((time.monotonic() - start) / 60, 2)
        origin["device"] = read_json(pending).get("device") or (origin["gpus"] or ["cpu"])[0]
        relink(executed["cells"], out, root)
        write_json(out / "run.ipynb", executed)
        write_json(out / "provenance.json", origin)
        os.replace(pending, out / "metrics.json")
        (out / "failed.ipynb").unlink(missing_ok=True)
        marker_of(out, mark).touch()
    return out


def relink(cells: list[dict], place: Path, root: Path) -> None:
    """Make the links of Markdown cells lead from the folder `place` to files of the checkout `root`, if it is there."""
    if (place := place.resolve()).is_relative_to(root := root.resolve()):
        change = partial(re.sub, r"\]\((\.\./)+", f"]({'../' * len(place.relative_to(root).parts)}")
        for cell in (cell for cell in cells if cell["cell_type"] == "markdown"):
            text = cell["source"]  # nbformat has one text, a file has lines
            cell["source"] = change(text) if isinstance(text, str) else list(map(change, text))


def take_over(out: Path, mark: str) -> None:
    """Make `out` the folder of this run: what a run of the same fingerprint left is kept, for its checkpoints; what
    another left (other parameters, or committed by somebody else) is removed; a folder that no run filled is refused.
    """
    owner = out / OWNER
    if not owner.exists() and not any((out / name).exists() for name in RESULT):
        if foreign := sorted(path.name for path in out.iterdir() if path.name != ".lock"):
            said = f"found {foreign[0]} in {out}, which no run left; name another folder with --out."
            raise UnsegError(f"Expected a new or empty folder for the result, {said}")
    elif not owner.exists() or owner.read_text() != mark:
        write_bytes(owner, b"nobody's")  # a kill here: the next run removes the rest
        for path in out.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name not in (".lock", OWNER):
                path.unlink()
    write_bytes(owner, mark.encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, after waiting for it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / ".lock", "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        said = f"Expected a folder that can be written at {folder}, found none ({error.strerror}); name another one."
        raise UnsegError(said) from error
    with lock:
        try:
            hold(lock, f"{folder}: another process is at work here, waiting for it")
        except UnsegError as busy:
            import fcntl  # not on Windows

            print(busy, file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def at_rest(folder: Path) -> Iterator[None]:
    """Keep runs out of `folder` while somebody looks at it, or refuse where one is at work; makes no files."""
    there = (folder / ".lock").exists()  # else nobody has run here
    with open(folder / ".lock", "a+") if there else nullcontext() as lock:
        if lock:
            hold(lock, f"Expected no run at work in {folder}, found one; look again when it has ended.", shared=True)
        yield


def _execute(notebook: Path, root: Path, out: Path, pending: Path, parameters: dict, threads: int) -> dict:
    """Run the notebook in a child process; return the executed copy, scrubbed, or raise `UnsegError`."""
    private, last = pending.with_name(".partial-jupyter"), "it ended without a word"
    shutil.rmtree(private, ignore_errors=True)
    pending.unlink(missing_ok=True)
    # papermill takes braces in paths for fields to fill in
    ran = private / "executed.ipynb"
    source, target = (str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, ran))
    job = {"input_path": source, "output_path": target, "cwd": str(root), "parameters": parameters}
    # by its text and -P: importing the package would only cost time here, and no file of the current folder counts
    command = [sys.executable, "-P", "-c", f"{inspect.getsource(_child)}\n_child()"]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "errors": "replace"}
    try:
        with subprocess.Popen(command, env=_environment(private, pending, threads), **streams) as child:
            child.stdin.write(json.dumps(job) + "\n")
            child.stdin.flush()
            for line in child.stdout:
                print(f"[{out.name}] {line.rstrip()}", file=sys.stderr, flush=True)
                last = line.strip() or last
            status = child.wait()
        written = ran.exists() and ran.stat().st_size
        executed = clean_notebook(read_json(ran), places_of(root, out)) if written else {"cells": []}
        if status:
            raise _failure(notebook, out, executed, last)
        return executed
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _child() -> None:
    """Execute one notebook: a job as JSON on the first line of stdin.

    When the runner ends, however it ends, its end of stdin closes; then this process ends, and the kernel with it, so
    that a killed run leaves nobody behind who would go on writing.
    """
    import json
    import logging
    import os
    import sys
    import threading

    job = json.loads(sys.stdin.readline())
    logging.getLogger("papermill").setLevel("ERROR")  # it warns of folded parameters; ours are checked
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
    import papermill

    how = {"kernel_name": "unseg", "progress_bar": False, "stdout_file": sys.stdout, "stderr_file": sys.stderr}
    try:
        papermill.execute_notebook(**job, **how)
        status = 0
    except papermill.PapermillExecutionError:  # it is told in the notebook
        status = 1
    sys.stdout.flush()
    os._exit(status)


def _environment(private: Path, pending: Path, threads: int) -> dict[str, str]:
    """The notebook's process: its own Jupyter and IPython folders, and a kernel on this very Python."""
    kernel = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--HistoryManager.enabled=False"]
    spec = {"argv": kernel, "display_name": "Python 3", "language": "python"}
    write_json(private / "kernels" / "unseg" / "kernel.json", spec)
    places = {"JUPYTER_PATH": "", "JUPYTER_RUNTIME_DIR": "runtime", "JUPYTER_CONFIG_DIR": "config", "IPYTHONDIR": "ipy"}
    environment = os.environ | {name: str(private / place) for name, place in places.items()}
    environment |= {"UNSEG_BATCH": "1", "UNSEG_METRICS": str(pending), "PYTHONHASHSEED": "0"}
    if os.environ.get("UNSEG_DATA"):
        environment["UNSEG_DATA"] = str(Path(os.environ["UNSEG_DATA"]).resolve())
    return environment | ({"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} if threads else {})


def _failure(notebook: Path, out: Path, ran: dict, last: str) -> UnsegError:
    """The sentence for a notebook that failed; keeps the failed copy for reading."""
    outputs = (output for cell in ran["cells"] for output in cell.get("outputs", []))
    error = next((output for output in outputs if output["output_type"] == "error"), None)
    if error is None:
        return UnsegError(f"{notebook.name} stopped before its end ({last}); run the same command again to go on.")
    name, text = error["ename"], error["evalue"]
    if name == "OSError" and "No space left" in text:
        said = "the disk is full; free some space and run the same command again, finished work is kept."
        return UnsegError(f"{notebook.name} failed: {said}")
    write_json(out / "failed.ipynb", ran)
    said = " ".join((text if name == "UnsegError" else f"{name}: {text}").split()).rstrip(".")
    return UnsegError(f"{notebook.name} failed: {said} (see {out / 'failed.ipynb'})")


# scrubbing: an executed notebook is the same on every machine, without times, paths, process numbers or addresses

ENCODED = ("image/png", "image/jpeg", "application/pdf")  # base64: not text
VOLATILE = [
    (re.compile(r"\S*ipykernel_\d+/\d+\.py"), "<cell>"),
    (re.compile(r" at 0x[0-9a-f]{6,}"), " at 0x0"),
    (re.compile(r"^.*: \d+/\d+, \d+ s spent, \d+ s left\n", re.M), ""),  # unseg_lib.runtime
]


def clean_notebook(notebook: dict, places: dict[str, str]) -> dict:
    """The notebook without execution metadata; `places` maps absolute paths to what to call them."""
    longest_first = map(re.escape, sorted(places, key=len, reverse=True))
    paths = re.compile(rf"({'|'.join(longest_first)})(?![\w.-])")

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {key: item if key in ENCODED else clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        if isinstance(value, str):
            for pattern, name in VOLATILE:
                value = pattern.sub(name, value)
            return paths.sub(lambda match: places[match[1]], value)
        return value

    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cleaned = {name: notebook[name] for name in ("nbformat", "nbformat_minor")}
    cleaned["metadata"] = {"kernelspec": kernel, "language_info": {"name": "python"}}
    return cleaned | {"cells": [_clean_cell(cell, clean) for cell in notebook["cells"]]}


def _clean_cell(cell: dict, clean: Callable) -> dict:
    tags = cell.get("metadata", {}).get("tags", [])
    cleaned = {**cell, "metadata": {"tags": tags} if tags else {}}
    if "injected-parameters" in tags:  # papermill's: its id is random
        cleaned |= {"source": clean(cell["source"]), "id": "injected-parameters"}
    if "outputs" not in cell:
        return cleaned
    joined: list[dict] = []
    for output in cell["outputs"]:
        output = output | ({"text": "".join(output["text"])} if "text" in output else {})
        if "text" in output and joined and joined[-1].get("name") == output["name"]:
            joined[-1]["text"] += output["text"]  # how one stream was cut depends on timing
        else:
            joined.append(output)
    cleaned["outputs"] = [output for output in clean(joined) if output.get("text") != ""]
    for output in cleaned["outputs"]:
        if any(kind.startswith("image/") for kind in output.get("data", {})):
            output["data"].pop("text/plain", None)  # some hold the image again
    return cleaned


def places_of(root: Path, out: Path) -> dict[str, str]:
    """The absolute paths that could show up in outputs, and what to call each."""
    places = {tempfile.gettempdir(): "$TMP", str(Path.home()): "~", sys.prefix: "$VENV", str(root): "."}
    here = out.resolve()
    places[str(here)] = here.relative_to(root).as_posix() if here.is_relative_to(root) else out.name
    if os.environ.get("UNSEG_DATA"):
        places[str(Path(os.environ["UNSEG_DATA"]).resolve())] = "$UNSEG_DATA"
    return {path: name for path, name in places.items() if path not in ("/", "")}
