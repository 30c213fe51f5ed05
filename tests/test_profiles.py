"""A profile becomes the right jobs, Snakemake sees exactly those that are left, and mistakes are one sentence."""

import gzip
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from test_pipeline import finish as finish_victim
from toy_project import code, wait

from unseg_lib import UnsegError
from unseg_lib.files import read_csv, write_json
from unseg_lib.method import BilevelConfig
from unseg_lib.pipeline import Profile, choose, collect, gather, load_profile, missing_data, reproduce
from unseg_lib.pipeline.notebook import RESULT


def change(root: Path, *path: object, value: object) -> None:
    """Set one value of the toy profile as it is now: change(root, "victims", "unet", "epochs", value=4)."""
    file = root / "notebooks" / "profiles" / "toy.yaml"
    content = yaml.safe_load(file.read_text())
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(yaml.safe_dump(content))


def test_a_profile_becomes_stages_with_their_notebooks_parameters(toys):
    stages = load_profile("toy", toys).stages
    assert list(stages) == [
        *("victim/scenes-clean-unet-s0", "generator/own", "poison/scenes-unseg"),
        *("victim/scenes-unseg-unet-s0", "pixels/scenes-unseg", "tables", "mixture"),
    ]
    clean, poisoned = stages["victim/scenes-clean-unet-s0"], stages["victim/scenes-unseg-unet-s0"]
    assert clean.needs == ()
    # what is protected is scored on its own, for the clean victim too
    both = {"epochs": 2, "protected": "disc"}
    assert (both | {"poisoned": "", "eps": 0, "eps_bg": 0}).items() <= clean.values.items()
    copy = {"poisoned": "results/toy/poison/scenes-unseg/dataset", "eps": 8, "eps_bg": 2}
    assert (both | copy).items() <= poisoned.values.items()
    assert stages["poison/scenes-unseg"].values["generator"] == "results/toy/generator/own/generator.safetensors"


def test_a_change_asks_for_exactly_the_jobs_it_touches(toys):
    def touched(*path: object, value: object) -> set[str]:
        before = load_profile("toy", toys).stages
        change(toys, *path, value=value)
        stages = load_profile("toy", toys).stages
        return {key for key, stage in stages.items() if stage.fingerprint != before[key].fingerprint}

    every = set(load_profile("toy", toys).stages)
    assert touched("generators", "own", "steps", value=6) == every - {"victim/scenes-clean-unet-s0"}
    assert touched("pixels", 0, "limit", value=5) == {"pixels/scenes-unseg", "tables", "mixture"}
    assert touched("threads", value=2) == set()


def test_a_label_and_what_an_entry_varies_name_its_stages(toys):
    entry = {"datasets": ["scenes"], "recipes": ["clean"], "victims": ["unet"], "seeds": [3], "set": {"epochs": 9}}
    vary = {"clean_fraction": [0.2, 1.0], "defense": ["none", "jpeg quality=50+median"]}
    change(toys, "grid", value=[entry | {"label": "long"}, entry | {"label": "long", "vary": vary}])
    stages = [stage for key, stage in load_profile("toy", toys).stages.items() if key.startswith("victim/")]
    defenses = ("none", "jpeg-quality-50-median")
    labels = ["long", *(f"long-clean_fraction-{share}-{defense}" for share in (0.2, 1.0) for defense in defenses)]
    assert [stage.name for stage in stages] == [f"scenes-clean-unet-{label}-s3" for label in labels]
    assert all(stage.values["epochs"] == 9 for stage in stages)
    values = stages[-1].values
    assert (values["defense"], values["clean_fraction"]) == ("jpeg quality=50+median", 1.0)
    run = {"setting": "scenes", "recipe": "clean", "victim_key": "unet", "seed": 3}
    assert [stage.names for stage in stages] == [run | {"label": label} for label in labels]


def profile(project, **parts) -> Profile:
    grid = {key: [*parts[key]] for key in ("datasets", "recipes", "victims")} | {"seeds": [0]}
    return Profile("own", project, "own", grid=[grid], **parts)


def test_the_task_of_a_data_set_chooses_the_victims_notebook(project):
    sets = {"nwpu": {"task": "instance", "test_limit": 9, "limit": 5}}
    parts = {"recipes": {"tile": {"poison": "fixed_tile"}}, "victims": {"m2f": {"victim": "mask2former:tiny"}}}
    stages = profile(project, datasets=sets, **parts, pixels=[{"dataset": "nwpu", "recipe": "tile"}]).stages
    victim, poison = stages["victim/nwpu-tile-m2f-s0"], stages["poison/nwpu-tile"]
    assert victim.notebook.name == "03b_instances.ipynb"
    assert (victim.values["task"], victim.values["test_limit"]) == ("instance", 9)
    assert (poison.values["task"], poison.values["limit"]) == ("semantic", 5)  # noise for the union of the objects
    assert stages["pixels/nwpu-tile"].values["task"] == "semantic"


def test_what_is_poisoned_alike_for_two_tasks_is_poisoned_once(project):
    sets = {"whole": {"dataset": "nwpu", "task": "instance"}, "boxes": {"dataset": "nwpu", "task": "detection"}}
    sets |= {"few": {"dataset": "nwpu", "task": "detection", "limit": 5}}
    recipes = {"tile": {"poison": "fixed_tile"}, "weak": {"poison": "fixed_tile", "eps": 4}}
    victims = {"dino": {"victim": "dino:small"}}
    stages = profile(project, datasets=sets, recipes=recipes, victims=victims).stages
    poisons = {key for key, stage in stages.items() if stage.kind == "poison"}
    assert poisons == {f"poison/{name}-{recipe}" for name in ("whole", "few") for recipe in recipes}
    assert stages["victim/boxes-weak-dino-s0"].needs == (stages["poison/whole-weak"],)
    assert stages["victim/few-weak-dino-s0"].values["poisoned"] == "results/own/poison/few-weak/dataset"


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("gird",), [], "Unknown key 'gird'.*did you mean 'grid'"),
        (("victims", "unet", "epoch"), 3, "Unknown key 'epoch' in victims.unet.*did you mean 'epochs'"),
        (("victims", "unet", "epochs"), "3", "victim/scenes-clean-unet-s0: Expected int for the parameter 'epochs'"),
        (("recipes", "random", "epsilon"), 3, "Unknown key 'epsilon' in recipes.random"),
        (("recipes", "random"), None, "Expected keys for recipes.random of profile toy, found None"),
        (("grid", 0, "recipes"), ["unsegg"], "'unsegg'; did you mean 'unseg'"),
        (("grid", 0, "seeds"), 3, "Expected a list for grid.seeds"),
        (("grid", 0, "set"), {"epochs": 1}, "Expected `set` and `label` together"),
        (("grid", 0, "vary"), {"defence": ["none"]}, "Unknown key 'defence' in grid.vary.*mean 'defense'"),
        (("grid", 0, "vary"), {"defense": "none"}, "Expected a list for grid.vary.defense"),
        (("grid", 0, "vary"), ["none"], "Expected keys for grid.vary"),
        (("pages",), {"mixtures": {}}, "Unknown key 'mixtures' in pages.*did you mean 'mixture'"),
        (("pages", "mixture"), {"share": [0.2]}, "Unknown key 'share' in pages.mixture.*did you mean 'shares'"),
        (("jobs",), "two", "Expected a whole number from 1 for jobs of profile toy, found 'two'"),
        (("resources",), {"victims": {}}, "Unknown key 'victims' in resources.*did you mean 'victim'"),
        (("jobs",), 0, "Expected a whole number from 1 for jobs of profile toy, found 0; "),
        (("threads",), -1, "Expected a whole number from 1 for threads of profile toy, found -1; "),
        (("resources",), {"victim": {"mem_gb": "lots"}}, "number from 1 for resources.victim.mem_gb.*found 'lots'; "),
        (("resources",), {"victim": {"gpu": "one"}}, "Expected a whole number from 0 for resources.victim.gpu"),
        (("resources",), {"victim": {"minutes": True}}, "number from 1 for resources.victim.minutes.*found True; "),
        (("data",), [8], "Expected one text for data of profile toy, found 8; "),
        (("recipes", 8), {"poison": "clean"}, "Expected one text for a name under recipes of profile toy, found 8; "),
        (("recipes", "unseg", "generator"), ["own"], r"one text for recipes.unseg.generator.*found \['own'\]; "),
        (("datasets", "scenes", "task"), ["object"], r"one text for datasets.scenes.task.*found \['object'\]; "),
        (("grid", 0, "datasets"), [["scenes"]], r"one text for grid.datasets.*found \['scenes'\]; "),
        (("grid", 0, "recipes"), [8], "Expected one text for grid.recipes.*found 8; "),
        (("grid", 0, "label"), 8, "Expected one text for grid.label of profile toy, found 8; "),
        (("grid", 0, "for"), 4, "Expected one text for grid.for of profile toy, found 4; "),
        (("pixels", 0, "recipe"), None, "Expected one text for pixels.recipe.*found None; "),
    ],
)
def test_a_mistake_is_one_sentence(toys, path, value, sentence):
    change(toys, *path, value=value)
    with pytest.raises(UnsegError, match=sentence):
        load_profile("toy", toys)


def test_without_a_name_small_is_chosen_where_its_data_is(toys, tmp_path, capsys):
    data = tmp_path / "data"
    (data / "Lung").mkdir(parents=True)
    assert missing_data(load_profile("small", toys), data) == ["CamVid"]
    assert choose("", data, toys).name == "smoke" and capsys.readouterr().out.count("\n") == 1
    (data / "CamVid").mkdir()
    assert [choose(name, data, toys).name for name in ("", "toy")] == ["small", "toy"]


def test_the_paper_profile_asks_for_the_list_that_its_voc_is_trained_on(paper, tmp_path):
    listed = "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt"
    for place in set(paper.data) - {listed}:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UnsegError, match=f"Expected {listed} under .*get it with `unseg data get voc-aug`, or"):
        reproduce("paper", str(tmp_path))
    (tmp_path / listed).mkdir(parents=True)
    assert missing_data(paper, tmp_path) == []


ENGINE = ["-m", "snakemake", "--nolock", "--rerun-triggers", "mtime", "--rerun-incomplete", "--config"]


def snakemake(root: Path, *words: str, profile="toy", python=sys.executable) -> subprocess.CompletedProcess:
    command = [python, *ENGINE, f"profile={profile}", *words]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def records(results: Path) -> dict[str, dict]:
    """The lines of stages.jsonl.gz by stage, in their order."""
    written = gzip.decompress((results / "stages.jsonl.gz").read_bytes())
    return {record["stage"]: record for record in map(json.loads, written.splitlines())}


def jobs_of(dry_run: subprocess.CompletedProcess) -> dict[str, int]:
    """The table `rule  count` of a dry run."""
    assert dry_run.returncode == 0, dry_run.stdout + dry_run.stderr
    table = dry_run.stdout.split("Job stats:")[1].split("\n\n")[0].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in table}


def finish(root: Path, key: str) -> None:
    """Make a stage look done, as the runner leaves it."""
    stage = load_profile("toy", root).stages[key]
    for path in (*(stage.folder / name for name in RESULT), stage.product, Path(stage.marker)):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_what_another_job_finishes_while_one_looks_stays_done(toys, monkeypatch):
    stage, looked = load_profile("toy", toys).stages["victim/scenes-clean-unet-s0"], []  # a look lasts until it ends
    monkeypatch.setattr(type(stage), "done", lambda self: looked.append(finish(toys, self.key)))
    stage.settle()
    assert Path(stage.marker).exists() == bool(looked)


@pytest.fixture
def purposes(toys, monkeypatch) -> None:
    """Give the toy profile two purposes that share the clean victim."""
    monkeypatch.setenv("UNSEG_DATA", str(toys))
    entry = {"datasets": ["scenes"], "victims": ["unet"], "seeds": [0, 1]}
    grid = [{"recipes": ["clean", "unseg"], "for": "table 1"}, {"recipes": ["clean", "random"], "for": "figure 2"}]
    change(toys, "grid", value=[entry | one for one in grid])


@pytest.mark.usefixtures("purposes")
def test_only_one_purpose_is_run(toys, capfd):
    assert reproduce("toy", only="figure 2", dry_run=True) == Path("results/toy/rows.csv")
    said = capfd.readouterr().out.replace(sys.prefix, "")  # the checkout itself may be called unseg
    assert "victim/scenes-random-unet-s1" in said and "unseg" not in said and "tables" not in said
    assert "Missing data: nothing\nMissing weights: nothing\nMissing GPUs: nothing" in said
    assert not (toys / "results/toy/rows.csv").exists()
    reproduce("toy", only="figure 2")
    rows = read_csv(toys / "results/toy/rows.csv")
    assert sorted(row["recipe"] for row in rows) == ["clean", "clean", "random", "random"]
    assert not (toys / "results/toy/generator").exists() and not (toys / "results/toy/tables").exists()
    with pytest.raises(UnsegError, match="Unknown purpose of profile toy: 'figure 3'; did you mean 'figure 2'"):
        reproduce("toy", only="figure 3")
    # what is planned no more leaves no row; what is planned keeps its row without its folder
    change(toys, "grid", value=[{"datasets": ["scenes"], "recipes": ["random"], "victims": ["unet"], "seeds": [0, 1]}])
    for _ in range(2):
        gather(load_profile("toy", toys), toys)
        assert [row["recipe"] for row in read_csv(toys / "results/toy/rows.csv")] == ["random", "random"]
        shutil.rmtree(toys / "results/toy/victim/scenes-random-unet-s1", ignore_errors=True)


@pytest.mark.usefixtures("purposes")
def test_a_stage_that_fails_holds_back_only_what_builds_on_it_and_is_told(toys):
    path = toys / "notebooks/02_poison_dataset.ipynb"
    path.write_text(path.read_text().replace("save({", 'assert poison != \\"random\\"\\nsave({'))
    found = r"of 5 stages to be done, found 3 that are not \(poison/scenes-random, victim/scenes-random-unet-s0, victim"
    with pytest.raises(UnsegError, match=found):
        reproduce("toy", only="figure 2", jobs=1)
    left = {stage.key for stage in load_profile("toy", toys).only("figure 2").values() if not stage.done()}
    assert len(left) == 3 and all("random" in key for key in left)
    states = {name: one["state"] for name, one in records(toys / "results/toy").items()}
    assert states["poison/scenes-random"] == "failed" and states["victim/scenes-random-unet-s1"] == "not run"
    assert states["victim/scenes-clean-unet-s1"] == "done"


@pytest.mark.usefixtures("purposes")
def test_what_is_missing_is_of_what_is_asked_for(toys, monkeypatch, capfd):
    monkeypatch.setattr("unseg_lib.runtime.visible_gpus", lambda: ["0"])
    change(toys, "generators", "own", "sam_weights", value="weights/sam.pth")
    change(toys, "resources", value={"generator": {"gpu": 8}, "victim": {"gpu": 1}})
    change(toys, "datasets", "scenes", "dataset", value="voc")
    listed = "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt"
    change(toys, "data", value=["coco", "VOCdevkit/VOC2012", listed])
    reproduce("toy", str(toys), dry_run=True, only="table 1")
    said = capfd.readouterr().out
    voc = f"VOCdevkit/VOC2012, {listed} under {toys}; get it with `unseg data get voc`, `unseg data get voc-aug`\n"
    assert f"Missing data: {voc}" in said
    assert "Missing weights: weights/sam.pth\nMissing GPUs: 8 for a generator, found 1\n" in said
    (toys / listed).mkdir(parents=True)
    with pytest.raises(UnsegError, match=r"Expected the weights weights/sam\.pth for profile toy, found none"):
        reproduce("toy", str(toys), only="table 1")
    with pytest.raises(UnsegError, match=r"Expected coco under .* for profile toy, found none; get it"):
        reproduce("toy", str(toys))
    # a file of the same name in the data root's weights, where `unseg weights get` puts it, is as good
    (toys / "elsewhere/weights").mkdir(parents=True)
    (toys / "elsewhere/weights/sam.pth").touch()
    reproduce("toy", str(toys / "elsewhere"), dry_run=True, only="table 1")
    assert "Missing weights: nothing\n" in capfd.readouterr().out
    (toys / "weights").mkdir()
    (toys / "weights/sam.pth").touch()
    assert missing_data(load_profile("toy", toys), toys) == ["coco"]
    reproduce("toy", str(toys), dry_run=True, only="figure 2")
    # no generator is asked for
    assert "Missing data: nothing\nMissing weights: nothing\nMissing GPUs: nothing\n" in capfd.readouterr().out


def extend(root: Path, **content) -> Profile:
    file = root / "notebooks/profiles/less.yaml"
    file.write_text(yaml.safe_dump({"extends": "toy"} | content))
    return load_profile("less", root)


@pytest.mark.usefixtures("purposes")
def test_a_profile_extends_another_one(toys):
    victims = {"*": {"epochs": 1, "lr": 0.5}, "unet": {"epochs": 3}}
    less = extend(toys, victims=victims, grid={"*": {"seeds": [7]}}, jobs=1)
    toy, stages = load_profile("toy", toys), less.stages
    named = {f"victim/scenes-{recipe}-unet-s7" for recipe in ("clean", "unseg", "random")}
    assert {key for key in stages if key.startswith("victim")} == named
    values = stages["victim/scenes-unseg-unet-s7"].values
    assert (values["epochs"], values["lr"], values["eps"]) == (3, 0.5, 8)
    assert (less.jobs, toy.jobs, less.results, less.recipes) == (1, 2, Path("results/less"), toy.recipes)
    assert extend(toys, pixels=[]).pixels == [] and toy.victims["unet"]["epochs"] == 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"victims": {"unett": {}}}, "entry of victims in .*less.yaml, which extends toy: 'unett'; did you mean 'u"),
        ({"grid": {"first": {}}}, "Unknown entry of grid in .*less.yaml, which extends toy: 'first'"),
        ({"victims": {"*": {"epoch": 1}}}, "Unknown key 'epoch' in victims.unet"),
        ({"extends": "toyy"}, "Unknown profile 'toyy'"),
        ({"extends": ["toy"]}, "Expected one text for extends"),
        ({"extends": "less"}, "Expected another profile in `extends` of less"),
        ({"extends": "ring"}, "Expected another profile in `extends` of ring, found less, which extends it"),
        ({"datasets": None, "pages": None}, "for datasets of profile less, found None"),
    ],
)
def test_a_mistake_in_what_extends_is_one_sentence(toys, content, sentence):
    (toys / "notebooks/profiles/ring.yaml").write_text("extends: less")
    with pytest.raises(UnsegError, match=sentence):
        extend(toys, **content)


def test_snakemake_lists_every_stage_and_skips_what_is_done(toys):
    assert jobs_of(snakemake(toys, "-n")) == {"stage": 7, "report": 1, "all": 1, "total": 9}
    # nobody left needs the poisoned copy, so it and the generator are not made again
    for key in ("victim/scenes-unseg-unet-s0", "pixels/scenes-unseg"):
        finish(toys, key)
    for _ in range(2):
        assert jobs_of(snakemake(toys, "-n")) == {"stage": 3, "report": 1, "all": 1, "total": 5}
        (toys / "results/toy/report.html").write_text("a report of fewer stages")


def test_folders_with_a_space_stay_one_word_of_every_command(toys):
    (toys / "my venv").symlink_to(sys.prefix)
    python, profile = toys / "my venv" / "bin" / Path(sys.executable).name, toys / "my toy.yaml"
    shutil.copy(toys / "notebooks" / "profiles" / "toy.yaml", profile)
    listed = snakemake(toys, "-n", "-p", profile=profile, python=python).stdout
    lines = [line for line in listed.splitlines() if "-m unseg_lib.cli" in line]
    commands = [shlex.split(line.removeprefix("Shell command: ")) for line in lines]
    assert len(commands) == 8
    for command in commands:
        assert command[:3] == [str(python), "-m", "unseg_lib.cli"]
        assert command[3:5] in (["stage", str(profile)], ["report", "results/my toy"])


@pytest.mark.notebook
def test_a_killed_grid_goes_on_and_does_nothing_twice(toys):
    change(toys, "pixels", value=[])
    change(toys, "grid", 0, "recipes", value=["random"])
    tables = load_profile("toy", toys).stages["tables"].marker
    command = [sys.executable, *ENGINE, "profile=toy", "--cores", "2", tables]
    quiet = {"cwd": toys, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, **quiet) as run:
        wait(lambda: list(toys.glob("results/toy/poison/*/.done-*")), 60)
        os.killpg(run.pid, signal.SIGKILL)
    done = snakemake(toys, "--cores", "2", tables)
    assert done.returncode == 0, done.stderr
    ran = (toys / "log.txt").read_text().split()
    assert ran.count("results/toy/poison/scenes-random") == 1
    assert ran[-1] == "results/toy/tables"
    rows = read_csv(toys / "results" / "toy" / "rows.csv")
    assert [row["stage"] for row in rows] == ["victim/scenes-random-unet-s0"]
    shutil.rmtree(toys / "results/toy/victim/scenes-random-unet-s0")
    shutil.rmtree(toys / "results/toy/poison/scenes-random/dataset")  # to save space: needed again for the victim
    left = ["poison/scenes-random", "victim/scenes-random-unet-s0", "tables"]
    assert jobs_of(snakemake(toys, "-n", tables))["stage"] == len(left)
    for key in left:  # as the jobs do, without starting Python and torch for each
        load_profile("toy", toys).stages[key].run()
    assert (toys / "log.txt").read_text().split()[len(ran) :] == [f"results/toy/{key}" for key in left]


def share(root: Path, **changes) -> None:
    """Write the profile `more`: as toy, whose stages it shares, with a second seed."""
    content = yaml.safe_load((root / "notebooks/profiles/toy.yaml").read_text())
    content["grid"][0]["seeds"] = [0, 1]
    (root / "notebooks/profiles/more.yaml").write_text(yaml.safe_dump(content | {"shares": "toy"} | changes))


def test_what_two_profiles_plan_alike_is_done_once(toys):
    share(toys)
    toy, more = (load_profile(name, toys).stages for name in ("toy", "more"))
    for key in ("generator/own", "poison/scenes-unseg", "victim/scenes-unseg-unet-s0", "pixels/scenes-unseg"):
        assert more[key].folder == toy[key].folder and more[key].fingerprint == toy[key].fingerprint
    second = more["victim/scenes-unseg-unet-s1"]
    assert second.folder == Path("results/more/victim/scenes-unseg-unet-s1")
    assert second.values["poisoned"] == "results/toy/poison/scenes-unseg/dataset"
    assert more["tables"].values["results"] == "results/more"
    for key in (key for key, stage in toy.items() if not stage.gathers):
        finish(toys, key)
    assert jobs_of(snakemake(toys, "-n", profile="more")) == {"stage": 4, "report": 1, "all": 1, "total": 6}


def test_both_files_of_a_profile_say_which_run_every_stage_is(toys):
    share(toys)
    stages, results = load_profile("more", toys).stages, Path("results/more")
    for seed in (0, 1):
        finish_victim(stages[f"victim/scenes-clean-unet-s{seed}"])
    write_json(stages["victim/scenes-unseg-unet-s1"].folder / "failed.ipynb", {})
    collect(results, stages.values())
    rows, written = read_csv(results / "rows.csv"), (results / "stages.jsonl.gz").read_bytes()
    clean = {"setting": "scenes", "recipe": "clean", "victim_key": "unet", "label": ""}
    assert all(clean.items() <= row.items() for row in rows)
    assert [row["stage"] for row in rows[::2]] == ["../toy/victim/scenes-clean-unet-s0", "victim/scenes-clean-unet-s1"]
    found = records(results)
    assert list(found) == sorted(found) and not any(name in found for name in ("tables", "mixture"))
    shared = found["../toy/victim/scenes-clean-unet-s0"]
    origin = {"commit": "c0ffee", "minutes": 1.5, "device": "cpu"}
    stage = {"stage": "../toy/victim/scenes-clean-unet-s0", "kind": "victim", "name": "scenes-clean-unet-s0", "seed": 0}
    done = {"state": "done", "parameters": {"epochs": 2}, "metrics": {"score": "miou"}, "provenance": origin}
    assert shared == clean | stage | done
    states = {stage: record["state"] for stage, record in found.items() if record["state"] != "done"}
    assert states.pop("victim/scenes-unseg-unet-s1") == "failed" and set(states.values()) == {"not run"}
    assert found["../toy/victim/scenes-unseg-unet-s0"]["parameters"]["epochs"] == 2
    collect(results, stages.values())
    assert (results / "stages.jsonl.gz").read_bytes() == written  # no time stamp


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"victims": {"unet": {"epochs": 3}}}, "Expected victim/scenes-clean-unet-s0 as in.* toy.*epochs 3, not 2"),
        ({"shares": "more"}, "Expected a profile that shares nothing in `shares` of more, found more"),
        ({"shares": "toyy"}, "Unknown profile 'toyy'; did you mean 'toy'"),
    ],
)
def test_a_shared_name_has_one_meaning(toys, changes, sentence):
    share(toys, **changes)
    with pytest.raises(UnsegError, match=sentence):
        load_profile("more", toys)
    change(toys, "shares", value="more")  # two that share each other would never end
    with pytest.raises(UnsegError, match="Expected a profile that shares nothing in `shares` of toy, found more"):
        load_profile("toy", toys)


@pytest.mark.parametrize(
    "name", ["smoke", "small", "random-start", "systems", "transfer", "ablations", "paper", "paper-tiny"]
)
def test_the_projects_profiles_are_valid(profiles, name):
    profile = profiles(name)
    stages = list(profile.stages.values())
    kinds = {"poison", "victim", "tables", *profile.pages, *["pixels"] * bool(profile.pixels)}
    assert {stage.kind for stage in stages} - {"generator", "segmenter"} == kinds
    assert {stage.results for stage in stages} <= {profile.results, Path("results") / (profile.shares or name)}
    for stage in stages:  # a generator's settings belong together
        if stage.kind == "generator":
            BilevelConfig(**{field.name: stage.values[field.name] for field in fields(BilevelConfig)})
        # a victim reads labels as its poison did, else the noise tells other classes than it learns
        for poison in (need for need in stage.needs if stage.kind == "victim" and need.kind == "poison"):
            own = "object" if stage.values.get("task", "interactive") in ("object", "interactive") else "semantic"
            assert poison.values["task"] == own, stage.key


def test_an_ablation_changes_few_settings_and_has_three_seeds(profiles):
    own = profiles("ablations")
    turns = {"alternation", "surrogate_turn", "generator_turn"}  # these are one thing
    for name, settings in own.generators.items():
        base = own.generators["surrogate-lite0" if name.startswith("lite0-") else "small-seed-1"] | {"seed": 0}
        changed = {key for key in settings if settings[key] != base.get(key)}
        assert len(changed) <= 2 or changed <= turns, f"{name} changes {changed}"
    runs = [tuple(stage.names.values()) for stage in own.stages.values() if stage.kind == "victim"]
    assert min(Counter(run[:-1] for run in runs).values()) >= 3  # the last is the seed


def test_every_recipe_of_a_question_is_run_by_a_profile(project, profiles):
    asked = "\n".join(code(project / "notebooks" / "11_ablations.ipynb"))
    planned = [stage for name in ("small", "ablations") for stage in profiles(name).stages.values()]
    run = {stage.names.get("recipe") for stage in planned}
    assert run >= set(re.findall(r'"(unseg-[a-z0-9.-]+)"', asked)) != set()


@pytest.mark.parametrize("name", ["paper", "ablations"])
def test_a_dry_run_lists_every_stage(project, profiles, name):
    listed = snakemake(project, "-n", profile=name)
    assert listed.returncode == 0, listed.stderr
    assert [key for key, stage in profiles(name).stages.items() if stage.marker not in listed.stdout] == []
