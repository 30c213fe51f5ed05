"""The pins agree with each other, and the set-up with what it promises."""

import os
import re
import subprocess
from importlib import import_module, metadata

import pytest
import yaml

import unseg_lib


def pins(path) -> dict[str, str]:
    lines = [line.strip() for line in path.read_text().splitlines()]
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_the_lock_pins_all_that_is_asked_for_and_is_installed(project):
    lock = pins(project / "requirements.lock")
    assert pins(project / "requirements.in").items() <= lock.items()
    assert not [name for name in lock if name.startswith(("nvidia", "triton", "cuda"))]
    assert not [version for version in lock.values() if "+" in version]
    installed = {name: metadata.version(name).partition("+")[0] for name in pins(project / "requirements.in")}
    assert installed == {name: lock[name] for name in installed}


def test_conda_gets_the_same_python_and_the_same_pins(project):
    packages = yaml.safe_load((project / "environment.yml").read_text())["dependencies"]
    assert "python=3.11" in packages
    # conda hands these lines to pip as a requirements file, where most options of the command line are refused
    assert next(entry["pip"] for entry in packages if isinstance(entry, dict)) == ["-r requirements.lock", "-e ."]
    assert "--python-version 3.11" in (project / "requirements.in").read_text()
    assert '">=3.11,' in (project / "pyproject.toml").read_text()


def test_one_version_everywhere(project):
    assert metadata.version("unseg_lib") == unseg_lib.__version__
    assert yaml.safe_load((project / "CITATION.cff").read_text())["version"] == unseg_lib.__version__


def test_the_licence_is_apache_2(project):
    text = (project / "LICENSE").read_text()
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    assert 'license = "Apache-2.0"' in (project / "pyproject.toml").read_text()


def test_ci_runs_the_test_command_and_nothing_more(project):
    script = project / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().rstrip().endswith("exec make test")
    assert len(re.findall(r"^\s*(?:exec )?make\b", script.read_text(), re.M)) == 1


def make(project, *words: str) -> str:
    """What make says, whoever calls: `make test DATA=...` leaves its own words, DATA too, in the environment."""
    callers = ("MAKE", "MFLAGS", "UNSEG", "DATA")
    own = {name: value for name, value in os.environ.items() if not name.startswith(callers)}
    return subprocess.run(["make", *words], cwd=project, capture_output=True, text=True, check=True, env=own).stdout


def test_make_passes_on_a_data_folder_with_a_space(project):
    show = ("--no-print-directory", "--eval=show:; @printenv UNSEG_DATA || echo none", "show")
    for given, found in {"/tmp/da ta": "/tmp/da ta", "da ta": f"{project}/da ta", "/data": "/data", "": "none"}.items():
        assert make(project, *show, f"DATA={given}") == f"{found}\n"


def test_the_main_commands_pass_on_what_is_given(project):
    for asked, command in {
        ("reproduce",): ["reproduce"],
        ("reproduce", "PROFILE=smoke", "JOBS=3"): ["reproduce", "--profile", "smoke", "--jobs", "3"],
        ("report-pdf",): ["pdf", "results/small"],
        ("report-pdf", "PROFILE=smoke"): ["pdf", "results/smoke"],
    }.items():
        assert make(project, "-n", *asked).splitlines()[-1].split() == [".venv/bin/unseg", *command]


def test_a_changed_lock_is_installed_again_with_plain_pip(project):
    recipe = make(project, "-n", "-W", "requirements.lock", "setup")
    assert "pip install" in recipe and "-r requirements.lock" in recipe
    assert recipe.rstrip().endswith("touch .venv/.installed")


@pytest.mark.parametrize(
    ("package", "names"),
    [
        ("method", "BilevelConfig Generator train_generator"),
        ("poisons", "POISONS PoisonSettings poison_dataset"),
        ("protection", "Desk Protector protect read_photo"),
        ("victims", "RSPrompter VICTIMS train_victim"),
    ],
)
def test_the_names_of_a_package_are_offered_before_they_are_loaded(package, names):
    """By the tab key of a notebook."""
    assert set(names.split()) <= set(dir(import_module(f"unseg_lib.{package}")))
