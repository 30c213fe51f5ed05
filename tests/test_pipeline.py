"""The strict runner: a notebook runs whole or has not run, is not run twice, and leaves nothing of the machine."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from toy_project import wait, write_notebook

from unseg_lib import UnsegError
from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import read_csv, read_json, write_json
from unseg_lib.pipeline import Stage, check_parameters, collect, locked, run_notebook, save_result
from unseg_lib.pipeline.notebook import OWNER, at_rest, clean_notebook, fingerprint, is_done, marker_of, take_over
from unseg_lib.runtime import own_gpu, progress

# toys write their result without importing the library, and torch with it
SAVE = """import json, os, pathlib
pathlib.Path(os.environ["UNSEG_METRICS"]).write_text(json.dumps({"eps": eps}))"""
COUNT = """with open(pathlib.Path(out, "count.log"), "a") as log:
    log.write("ran ")"""
PARAMETERS = """eps: float = 8.0  # budget
jobs: int = 1  # processes
out: str = "results/toy"  # where"""


@pytest.fixture
def notebook(tmp_path):
    (tmp_path / "Snakefile").touch()  # marks the root of the checkout
    cells = ("import os; print(os.getcwd(), flush=True); print(os.environ['OMP_NUM_THREADS'])\nobject()", SAVE, COUNT)
    return write_notebook(tmp_path / "notebooks" / "toy.ipynb", *cells, parameters=PARAMETERS)


def test_a_run_leaves_three_whole_files_and_is_not_repeated(notebook, tmp_path):
    out = tmp_path / "results" / "{toy}"  # braces are letters
    assert run_notebook(notebook, out, {"eps": 4}, threads=1) == out
    assert read_json(out / "metrics.json") == {"eps": 4.0}
    origin = read_json(out / "provenance.json")
    assert (origin["parameters"], origin["notebook"]) == ({"eps": 4.0}, "notebooks/toy.ipynb")
    assert {"commit", "dirty", "cpu", "cores", "device", "seed", "minutes", "versions", "gpus"} <= set(origin)
    assert origin["versions"]["python"] == platform.python_version()

    text = (out / "run.ipynb").read_text() + (out / "provenance.json").read_text()
    for secret in (str(tmp_path), str(Path.home()) + "/", platform.node(), time.strftime("%Y-%m-%d"), "papermill_"):
        assert secret not in text, secret
    cells = read_json(out / "run.ipynb")["cells"]
    assert all(set(cell["metadata"]) <= {"tags"} for cell in cells)
    # one stream however it was cut; the working folder is the checkout, and threads are as asked
    assert [one["text"] for cell in cells for one in cell["outputs"] if "text" in one] == [".\n1\n"]

    run_notebook(notebook, out, {"eps": 4, "jobs": 2})  # how fast is not what
    assert (out / "count.log").read_text() == "ran "
    assert not list(out.glob(".partial*"))

    # done is what has all its files and a marker of its own; one that somebody committed has none
    assert is_done(out, origin["fingerprint"]) and not is_done(out, "another")
    for needed in (out / "metrics.json", marker_of(out, origin["fingerprint"])):
        needed.rename(kept := out / "kept")
        assert not is_done(out, origin["fingerprint"])
        kept.rename(needed)


LUCK = "raise ValueError('no such\\nluck')"


@pytest.mark.parametrize(
    ("cells", "sentence"),
    [([SAVE, LUCK], r"failed: ValueError: no such luck \(see .*failed.ipynb\)"), (["1"], "save_result")],
)
def test_a_failed_run_keeps_its_notebook_for_reading(notebook, tmp_path, cells, sentence):
    out = tmp_path / "results" / "toy"
    write_notebook(notebook, *cells, parameters=PARAMETERS)
    with pytest.raises(UnsegError, match=f"toy.ipynb.*{sentence}"):
        run_notebook(notebook, out, {})
    assert LUCK not in cells or "luck" in (out / "failed.ipynb").read_text()
    assert not any(one.name.startswith(("run.ipynb", "metrics.json", ".done")) for one in out.iterdir())


def test_a_folder_belongs_to_one_run(tmp_path):
    def leave(*names):
        (tmp_path / "deep").mkdir(exist_ok=True)
        for name in names:
            (tmp_path / name).write_text("abc")

    leave("notes.txt")
    for _ in range(2):  # a person's folder: a run of it would be followed by one that removes everything
        with pytest.raises(UnsegError, match=r"Expected a new or empty folder for the result, found deep in .*--out"):
            take_over(tmp_path, "abc")
    shutil.rmtree(tmp_path / "deep")
    (tmp_path / "notes.txt").unlink()
    take_over(tmp_path, "abc")
    leave("checkpoint.pt", "deep/image.png")
    take_over(tmp_path, "abc")  # the same run again: it goes on
    assert (tmp_path / "checkpoint.pt").exists()
    for names in ((), ("provenance.json", "metrics.json", "training.json"), ("run.ipynb",)):
        if names:  # results that came with the clone; first it is what a run with other parameters left
            (tmp_path / OWNER).unlink()
        leave(*names)
        take_over(tmp_path, "xyz")
        assert [path.name for path in tmp_path.iterdir()] == [OWNER]


def test_a_wrong_parameter_stops_before_anything_runs(notebook, tmp_path):
    for given in ({"epss": 8}, {"eps": "8"}):
        with pytest.raises(UnsegError):
            run_notebook(notebook, tmp_path / "results" / "toy", given)
    assert not (tmp_path / "results").exists()


RUN = "import sys; from unseg_lib.pipeline.notebook import run_notebook; run_notebook(sys.argv[1], sys.argv[2], {})"


def test_a_killed_run_is_not_done_and_the_same_command_finishes(notebook, tmp_path):
    out = tmp_path / "results" / "toy"
    sleeps = """import time
if not pathlib.Path(out, "go").exists():
    pathlib.Path(out, "up").touch()
    time.sleep(60)"""
    write_notebook(notebook, SAVE, sleeps, COUNT, parameters=PARAMETERS)
    with subprocess.Popen([sys.executable, "-c", RUN, notebook, out], stderr=subprocess.DEVNULL) as runner:
        wait((out / "up").exists, 120)
        os.kill(runner.pid, signal.SIGKILL)
    assert (out / "up").exists()
    assert not any((out / name).exists() for name in ("run.ipynb", "metrics.json", "count.log"))
    assert not list(out.glob(".done*"))
    (out / "go").touch()
    run_notebook(notebook, out, {})
    assert (out / "count.log").read_text() == "ran "
    assert not list(out.glob(".partial*"))


def test_two_runs_of_one_folder_do_the_work_once(notebook, tmp_path):
    out = tmp_path / "results" / "toy"
    with ThreadPoolExecutor() as pool:
        assert list(pool.map(run_notebook, [notebook] * 2, [out] * 2, [{}] * 2)) == [out, out]
    assert (out / "count.log").read_text() == "ran "


def test_who_looks_makes_no_files_and_refuses_where_a_run_is_at_work(tmp_path):
    folder = tmp_path / "results"
    with at_rest(folder):
        assert not folder.exists()
    with locked(folder), pytest.raises(UnsegError, match=r"Expected no run at work in .*results, found one"):
        at_rest(folder).__enter__()
    with at_rest(folder), at_rest(folder):  # two may look at once
        pass


def test_the_fingerprint_follows_code_values_and_inputs(notebook):
    first = fingerprint(notebook, {"eps": 8.0, "jobs": 1, "out": "a"}, ("x", "y"))
    assert first == fingerprint(notebook, {"eps": 8.0, "jobs": 4, "out": "b"}, ("y", "x"))
    for other in ({"eps": 4.0}, ("x", "y")), ({"eps": 8.0}, ("x", "z")):
        assert first != fingerprint(notebook, *other)
    # better words and other defaults ask for no new result
    content = read_json(notebook)
    content["cells"].insert(0, {"cell_type": "markdown", "metadata": {}, "source": "# What is it about?"})
    content["cells"][1]["source"] = "eps: float = 2.0  # budget, over 255"
    write_json(notebook, content)
    assert first == fingerprint(notebook, {"eps": 8.0}, ("x", "y"))
    assert first != fingerprint(notebook, check_parameters(notebook, {}), ("x", "y"))
    write_notebook(notebook, "another(code)", parameters=PARAMETERS)
    assert first != fingerprint(notebook, {"eps": 8.0}, ("x", "y"))


def scrubbed(*outputs: dict) -> list[dict]:
    cell = {"cell_type": "code", "metadata": {"papermill": {"start_time": "now"}}, "outputs": outputs, "source": "1"}
    cleaned = clean_notebook({"cells": [cell], "nbformat": 4, "nbformat_minor": 5}, {"/data/set": "$UNSEG_DATA"})
    assert cleaned["cells"][0]["metadata"] == {}
    return cleaned["cells"][0]["outputs"]


def test_scrubbing_joins_streams_and_leaves_images_alone(capsys, monkeypatch):
    said = {"output_type": "stream", "name": "stdout"}
    first = said | {"text": ["in /data/set/a.png, ", "or "]}
    second = said | {"text": "/tmp/ipykernel_7/1.py:3: <A at 0x7f00aa11bb22> /data/settle"}
    data = {"image/png": "/data/set", "text/plain": "<A>" * 999}
    image = {"output_type": "display_data", "data": data, "metadata": {}}
    text, shown, after = scrubbed(first, second, image, said | {"text": "below it"})
    assert text["text"] == "in $UNSEG_DATA/a.png, or <cell>:3: <A at 0x0> /data/settle"
    assert shown["data"] == {"image/png": "/data/set"} and after["text"] == "below it"
    # progress is not part of a result
    monkeypatch.setenv("UNSEG_BATCH", "1")
    list(progress(range(20), "training"))
    lines = capsys.readouterr().err
    assert "20/20" in lines and scrubbed(said | {"text": lines}) == []
    assert [output["text"] for output in scrubbed(said | {"text": lines + "careful\n"})] == ["careful\n"]


@pytest.mark.parametrize("names", [["4", "5"], ["MIG-GPU-7a/1/0", "MIG-GPU-7a/2/0"]])  # an old driver's, too
def test_jobs_on_several_gpus_take_one_each(names, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(names))
    with own_gpu(tmp_path, 1) as first, own_gpu(tmp_path, 1) as second, own_gpu(tmp_path, 1) as third:
        taken = [one["CUDA_VISIBLE_DEVICES"] for one in (first, second, third)]
    assert taken[:2] == names and taken[2] in taken[:2]  # more jobs than GPUs share
    with own_gpu(tmp_path, 0) as nothing:
        assert nothing == {}


def test_save_result_takes_arrays_and_refuses_what_is_no_result(tmp_path):
    save_result(tmp_path, {"iou": np.array([0.5, 1.0]), "n": np.int64(3), "path": Path("a/b"), "ok": np.bool_(True)})
    assert read_json(tmp_path / "metrics.json") == {"iou": [0.5, 1.0], "n": 3, "path": "a/b", "ok": True}
    for wrong in (float("nan"), np.array([1.0, np.inf]), object()):
        with pytest.raises(UnsegError, match=r"metrics\.a\.b"):
            save_result(tmp_path, {"a": {"b": wrong}})


def finish(stage: Stage, **changes: object) -> None:
    """Leave the result of a victim: two rows, with changes."""
    filled = {*stage.names, "commit", "stage", "device", "precision"}
    row = {name: 0 for name in COLUMNS if name not in filled} | {"metric": "miou", "victim": "u"} | changes
    write_json(stage.folder / "metrics.json", {"rows": [row, row | {"metric": "iou:car"}], "score": "miou"})
    origin = {"commit": "c0ffee", "minutes": 1.5, "device": "cpu", "parameters": {"epochs": 2}}
    write_json(stage.folder / "provenance.json", origin)


def test_rows_are_collected_in_a_fixed_order(tmp_path):
    named, stages = {"setting": "s", "recipe": "r", "victim_key": "v", "label": ""}, []
    for seed in (10, 9, 1):
        own = tmp_path / "no.ipynb", tmp_path
        stages.append(Stage("victim", f"v-s{seed}", *own, {}, names=named | {"seed": seed}))
        finish(stages[-1], minutes=seed)
    rows = read_csv(collect(tmp_path, stages))
    assert list(rows[0]) == list(COLUMNS)
    assert [row["seed"] for row in rows] == ["1", "1", "9", "9", "10", "10"]
    assert [row["metric"] for row in rows] == ["iou:car", "miou"] * 3
    known = {"commit": "c0ffee", "stage": "victim/v-s1", "device": "cpu", "minutes": "1", "recipe": "r", "setting": "s"}
    assert known.items() <= rows[0].items()
    assert rows[0]["precision"] == ""  # that of trainings which did not say it
    write_json(tmp_path / "victim/v-s9/result.json", {"precision": "bf16"})
    assert read_csv(collect(tmp_path, stages[1:2]))[0]["precision"] == "bf16"
    finish(stages[1], sead=3)
    with pytest.raises(UnsegError, match=r"Unknown column 'sead'.*did you mean 'seed'"):
        collect(tmp_path, stages)
