"""The command line: what people mistype is one sentence on stderr and exit code 2, without a traceback."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unseg_lib import UnsegError, cli
from unseg_lib.files import read_json
from unseg_lib.images import write_image
from unseg_lib.pipeline import locked


def refused(told: tuple[int, str, str], sentence: str) -> None:
    code, _, said = told
    assert (code, said.count("\n")) == (2, 1) and said.startswith(sentence), said


TRAIN = ("run", "notebooks/01b_train_generator.ipynb")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((*TRAIN, "-p", "stepss=3"), "Unknown parameter 'stepss' of 01b_train_generator.ipynb; did you mean 'steps'?"),
        ((*TRAIN, "-p", "steps=3.5"), "Expected int for the parameter 'steps', found '3.5'"),
        ((*TRAIN, "-p", "steps"), "Expected -p name=value, found 'steps'"),
        (("run", "notebooks/07.ipynb"), "Expected a notebook at notebooks/07.ipynb"),
        (("stage", "toyy", "tables"), "Unknown profile 'toyy'; did you mean 'toy'?"),
        (("stage", "toy", "victim/s-clean-u-s9"), "Unknown stage of profile toy: 'victim/s-clean-u-s9'"),
        (("stage", "toy", "poison/scenes-unseg"), "Expected generator/own to be done before poison/scenes-unseg"),
        (("report", "results/nothing"), "Expected"),
        (("reproduce", "--profile", "toy", "--jobs", "-1"), "Expected 1 or more jobs, or 0 for the"),
        (("bench", "disk", "--beside", "nope"), "Expected another checkout of this kit at nope, found no unseg_lib"),
    ],
)
def test_what_is_mistyped_or_not_there_is_one_sentence(toys, unseg, words, sentence):
    refused(unseg(*words), sentence)
    assert not (toys / "results").exists()


def test_a_notebook_runs_with_the_parameters_given(toys, unseg):
    code, said, _ = unseg(*TRAIN, "-p", "steps=3", "--out", "results/a")
    assert (code, said) == (0, "Result: results/a\n")
    assert read_json(toys / "results" / "a" / "metrics.json") == {"steps": 3}


def test_paths_are_meant_from_where_the_user_stands(toys, unseg, monkeypatch, tmp_path_factory):
    here, notebook = tmp_path_factory.mktemp("photos"), toys / TRAIN[1]
    (here / "notes.txt").write_text("mine")
    (here / "scenes").mkdir()
    monkeypatch.chdir(here)
    for out in ("notes.txt", "notes.txt/a"):
        refused(unseg("run", notebook, "--out", out), f"Expected a folder that can be written at {out}, found none")
    assert (here / "notes.txt").read_text() == "mine"
    code, said, _ = unseg("run", notebook, "--out", "r{x}", "-p", "data=notes.txt")
    assert (code, said) == (0, "Result: r{x}\n")
    assert read_json(here / "r{x}" / "provenance.json")["parameters"]["data"] == str(here / "notes.txt")
    assert cli.read_parameters(notebook, ["data=scenes"]) == {"data": "scenes"}  # a name, though such a folder is here
    assert cli.read_parameters(notebook, ["data=../x/y.png"]) == {"data": "../x/y.png"}  # not there
    monkeypatch.chdir(toys / "notebooks")
    assert cli.read_parameters(notebook, ["data=../Snakefile"]) == {"data": "Snakefile"}


def test_text_values_keep_their_type(toys):
    notebook = toys / "notebooks" / "03_train_victim.ipynb"
    given = cli.read_parameters(notebook, ["size=[128,96]", "poison=8", "eps=4", "poisoned=a=b"])
    assert given == {"size": [128, 96], "poison": "8", "eps": 4.0, "poisoned": "a=b"}
    with pytest.raises(UnsegError, match="did you mean 'epochs'"):
        cli.read_parameters(notebook, ["epoch=1"])


def test_reproduce_names_the_data_that_is_missing(toys, unseg, tmp_path):
    told = unseg("reproduce", "--profile", "small", "--data", tmp_path)
    refused(told, f"Expected Lung, CamVid under {tmp_path} for profile small")
    assert "get it with `unseg data list`, `unseg data get camvid`, or" in told[2]


def test_a_dry_run_says_what_would_be_done_for_a_profile_of_ones_own(toys, unseg, monkeypatch):
    (toys / "else where").mkdir()
    shutil.copy(toys / "notebooks" / "profiles" / "toy.yaml", toys / "else where" / "my toy.yaml")
    monkeypatch.setattr("unseg_lib.pipeline.engine.project_root", lambda: toys)
    monkeypatch.chdir(toys / "else where")
    code, said, _ = unseg("reproduce", "-n", "--profile", "my toy.yaml", "--data", toys)
    assert code == 0 and "results/my toy/victim/scenes-unseg-unet-s0" in said
    assert not (toys / "results").exists()  # it leaves nothing where nothing was


def test_a_dry_run_does_not_wait_for_a_run_at_work(toys, unseg):
    with locked(toys / "results" / "toy"):
        refused(unseg("reproduce", "-n", "--profile", "toy"), f"Expected no run at work in {toys / 'results' / 'toy'}")


def test_help_names_every_profile(project):
    profiles = {path.stem for path in (project / "notebooks" / "profiles").glob("*.yaml")}
    assert profiles <= set(re.findall(r"[\w-]+", cli.PROFILES))
    assert profiles == set(re.search(r"PROFILE=([\w|-]+)", (project / "Makefile").read_text())[1].split("|"))


def test_help_is_there_without_heavy_imports():
    heavy = ["segmentation_models_pytorch", "mmseg", "pandas", "matplotlib", "papermill", "skimage", "snakemake"]
    program = f"import sys, unseg_lib.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_names_every_shipped_generator():
    from typer.main import get_command

    from unseg_lib.method import shipped

    for command in ("protect", "bench"):
        (option,) = (one for one in get_command(cli.app).commands[command].params if one.name == "generator")
        assert set(shipped()) <= set(option.help.split(", "))


def test_an_image_of_the_change_is_still_called_picture_by_some(tmp_path, unseg, tiny_image):
    write_image(tmp_path / "a.png", tiny_image)
    for option in ("--image", "--picture"):
        assert unseg("inspect", tmp_path / "a.png", tmp_path / "a.png", option, tmp_path / f"{option}.png")[0] == 0
        assert (tmp_path / f"{option}.png").exists()


def test_doctor_tells_what_is_here(toys, unseg, tmp_path):
    code, said, _ = unseg("doctor", "--data", tmp_path)
    assert code == 0 and "torch " in said and "missing: Lung, CamVid" in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--masks", ""], "Expected something behind --masks, "),
        (["--shard", ""], "Expected something behind --shard, found an empty text; is a variable"),
        ([""], "Expected something behind protect, found an empty text"),
        (["--out", ""], "Expected something behind --out, found an empty text"),
        (["--masks", "nowhere", "-n"], "Expected a folder of masks or COCO's json at nowhere"),
        (["--format", "gif", "-n"], "Expected the format png, keep or jpeg, found 'gif'"),
        (["--eps", "0.03", "-n"], "Expected eps in steps of 255, say 8 and not 8/255, found 0.03"),
        (["--generator", "smal", "-n"], "Expected a generator's name"),
        (["--device", "cpu:x"], "Expected a device such as cpu, cuda or cuda:1, found 'cpu:x'"),
    ],
)
def test_protect_refuses_at_once_and_so_does_its_dry_run(tmp_path, unseg, monkeypatch, words, sentence):
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8))
    code, _, said = unseg("protect", tmp_path / "a.png", "--out", tmp_path / "out", *words)
    assert (code, said.count("\n")) == (2, 1) and sentence in said
    assert not (tmp_path / "out").exists()


def test_protect_counts_images_with_a_copy_alone(tmp_path, unseg, weights):
    write_image(tmp_path / "in" / "a.png", np.zeros((20, 20, 3), np.uint8))
    (tmp_path / "in" / "b.png").write_bytes(b"broken")
    (tmp_path / "in" / "notes.txt").write_text("no image")
    code, _, said = unseg("protect", tmp_path / "in", "--out", tmp_path / "out", "--generator", weights)
    assert code == 2 and "Protected 1 of 2 images; 1 left out" in said


def test_protect_ends_well_where_a_name_cannot_be_shown_and_a_strangers_file_is_called_partial(
    tmp_path, unseg, weights, monkeypatch
):
    write_image(tmp_path / "a.png", np.zeros((20, 20, 3), np.uint8))
    strange = os.fsdecode(os.fsencode(tmp_path) + "/ö\x1b".encode() + b"\xff")
    for name in (".partial-foo", ".partial-1x2-a.png"):
        (Path(strange) / name).mkdir(parents=True)
    said = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stdout", said)
    assert unseg("protect", tmp_path / "a.png", "--out", strange, "--generator", weights)[0] == 0
    said.seek(0)
    assert f"Protected images: 1 in {tmp_path}/\\xf6??;" in said.read()
    assert (Path(strange) / "a.png").exists() and (Path(strange) / ".partial-foo").exists()
