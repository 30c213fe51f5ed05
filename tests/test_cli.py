"""The command line: what people mistype is one sentence on stderr and exit code 2, without a traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy_project import make_project

from unseg_lib import UnsegError, cli
from unseg_lib.files import read_json
from unseg_lib.images import write_image
from unseg_lib.pipeline import locked


@pytest.fixture
def toys(tmp_path, project, monkeypatch) -> Path:
    monkeypatch.chdir(make_project(tmp_path, project))
    return tmp_path


@pytest.fixture
def unseg(monkeypatch, capsys):
    """Run a command in this process; return its exit code, stdout and stderr."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unseg", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-p", "stepss=3"), "Unknown parameter 'stepss' of 01_train_generator.ipynb; did you mean 'steps'?"),
        (("-p", "steps=3.5"), "Expected int for the parameter 'steps', found '3.5'"),
        (("-p", "steps"), "Expected -p name=value, found 'steps'"),
    ],
)
def test_a_mistyped_parameter_is_one_sentence(toys, unseg, words, sentence):
    code, _, said = unseg("run", "notebooks/01_train_generator.ipynb", *words)
    assert code == 2
    assert said.startswith(sentence)
    assert said.count("\n") == 1
    assert not (toys / "results").exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "notebooks/07.ipynb"), "Expected a notebook at notebooks/07.ipynb"),
        (("stage", "toyy", "tables"), "Unknown profile 'toyy'; did you mean 'toy'?"),
        (
            ("stage", "toy", "victim/scenes-clean-unet-s9"),
            "Unknown stage of profile toy: 'victim/scenes-clean-unet-s9'",
        ),
        (("stage", "toy", "poison/scenes-unseg"), "Expected generator/own to be done before poison/scenes-unseg"),
        (("report", "results/nothing"), "Expected"),
    ],
)
def test_what_is_not_there_is_one_sentence(toys, unseg, words, sentence):
    code, _, said = unseg(*words)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(sentence)


def test_a_notebook_runs_with_the_parameters_given(toys, unseg):
    code, said, _ = unseg("run", "notebooks/01_train_generator.ipynb", "-p", "steps=3", "--out", "results/a")
    assert code == 0
    assert said == "Result: results/a\n"
    assert read_json(toys / "results" / "a" / "metrics.json") == {"steps": 3}


@pytest.mark.parametrize("out", ["notes.txt", "notes.txt/a"])
def test_a_file_is_no_folder_for_a_result(toys, unseg, out):
    (toys / "notes.txt").write_text("mine")
    code, _, said = unseg("run", "notebooks/01_train_generator.ipynb", "--out", out)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"Expected a folder that can be written at {out}, found none")
    assert (toys / "notes.txt").read_text() == "mine"


def test_a_device_that_is_none_is_one_sentence(tmp_path, unseg, tiny_image):
    write_image(tmp_path / "a.png", tiny_image)
    code, _, said = unseg("protect", tmp_path / "a.png", "--out", tmp_path / "out", "--device", "cpu:x")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("Expected a device") and "found 'cpu:x'" in said


def test_text_values_keep_their_type(toys):
    notebook = toys / "notebooks" / "03_train_victim.ipynb"
    given = cli.read_parameters(notebook, ["size=[128,96]", "poison=8", "eps=4", "poisoned=a=b"])
    assert given == {"size": [128, 96], "poison": "8", "eps": 4.0, "poisoned": "a=b"}
    with pytest.raises(UnsegError, match="did you mean 'epochs'"):
        cli.read_parameters(notebook, ["epoch=1"])


def test_reproduce_names_the_data_that_is_missing(toys, unseg, tmp_path):
    code, _, said = unseg("reproduce", "--profile", "small", "--data", tmp_path)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith(f"Expected Lung, CamVid under {tmp_path} for profile small")
    assert "get it with `unseg data list`, `unseg data get camvid`, or" in said


def test_a_number_of_jobs_below_zero_is_one_sentence(toys, unseg):
    code, _, said = unseg("reproduce", "--profile", "toy", "--jobs", "-1")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("Expected 1 or more jobs") and "found -1" in said
    assert not (toys / "results").exists()


def test_a_dry_run_says_what_would_be_done(toys, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["unseg", "reproduce", "-n", "--profile", "toy", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "victim/scenes-unseg-unet-s0" in capfd.readouterr().out
    assert not (tmp_path / "results").exists()  # it leaves nothing where nothing was


def test_a_dry_run_does_not_wait_for_a_run_at_work(toys, unseg):
    with locked(toys / "results" / "toy"):
        code, _, said = unseg("reproduce", "-n", "--profile", "toy")
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("Expected no run at work in") and "results/toy" in said


def test_a_profile_of_ones_own_is_found_from_another_folder(toys, capfd, monkeypatch):
    own = toys / "else where" / "my toy.yaml"
    own.parent.mkdir()
    own.write_text((toys / "notebooks" / "profiles" / "toy.yaml").read_text())
    monkeypatch.setattr("unseg_lib.pipeline.engine.project_root", lambda: toys)
    monkeypatch.chdir(own.parent)
    monkeypatch.setattr(sys, "argv", ["unseg", "reproduce", "-n", "--profile", own.name])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert not end.value.code
    assert "results/my toy/victim/scenes-unseg-unet-s0" in capfd.readouterr().out


def make(project: Path, *words: str) -> str:
    """The value of UNSEG_DATA that make's commands get, whoever calls make."""
    callers = ("MAKE", "MFLAGS", "UNSEG", "DATA")  # `make test DATA=...` leaves its own words, DATA too, in here
    own = {name: value for name, value in os.environ.items() if not name.startswith(callers)}
    command = ["make", "--no-print-directory", "--eval=show:; @printenv UNSEG_DATA || echo none", "show", *words]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=True, env=own).stdout[:-1]


def test_make_passes_on_a_data_folder_with_a_space(project):
    assert make(project, "DATA=/tmp/da ta") == "/tmp/da ta"
    assert make(project, "DATA=da ta") == f"{project}/da ta"
    assert make(project, "DATA=/data") == "/data"
    assert make(project) == "none"


def test_help_names_every_profile(project):
    profiles = {path.stem for path in (project / "notebooks" / "profiles").glob("*.yaml")}
    assert profiles <= set(re.findall(r"\w+", cli.PROFILES))
    assert profiles == set(re.search(r"PROFILE=([\w|]+)", (project / "Makefile").read_text())[1].split("|"))


def test_help_is_there_without_heavy_imports():
    heavy = ["segmentation_models_pytorch", "mmseg", "pandas", "matplotlib", "papermill", "skimage", "snakemake"]
    program = f"import sys, unseg_lib.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["protect", "bench"])
def test_help_names_every_shipped_generator(command):
    from typer.main import get_command

    from unseg_lib.method import shipped

    (option,) = (one for one in get_command(cli.app).commands[command].params if one.name == "generator")
    assert set(shipped()) <= set(option.help.split(", "))


def test_doctor_tells_what_is_here(toys, unseg, tmp_path):
    code, said, _ = unseg("doctor", "--data", tmp_path)
    assert code == 0
    assert "torch " in said
    assert "missing: Lung, CamVid" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--masks", ""], "Expected something behind --masks, "),
        (["--masks", "nowhere", "-n"], "Expected a folder of masks or COCO's json at nowhere"),
        (["--format", "gif", "-n"], "Expected the format png, keep or jpeg, found 'gif'"),
        (["--eps", "0.03", "-n"], "Expected eps in steps of 255, say 8 and not 8/255, found 0.03"),
        (["--generator", "smal", "-n"], "Expected a generator's name"),
    ],
)
def test_protect_refuses_at_once_and_so_does_its_dry_run(tmp_path, unseg, words, sentence):
    write_image(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8))
    code, _, said = unseg("protect", tmp_path / "a.png", "--out", tmp_path / "out", *words)
    assert (code, said.count("\n")) == (2, 1) and sentence in said
    assert not (tmp_path / "out").exists()
