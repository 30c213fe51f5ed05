"""A profile becomes the right jobs, Snakemake sees exactly those that are left, and mistakes are one sentence."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from toy_project import make_project

from unseg_lib import UnsegError
from unseg_lib.files import read_csv
from unseg_lib.pipeline import Profile, choose, load_profile, missing_data
from unseg_lib.pipeline.reproduce import reproduce


@pytest.fixture
def toys(tmp_path, project) -> Path:
    return make_project(tmp_path, project)


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
    assert clean.values["poisoned"] == ""
    assert (clean.values["eps"], clean.values["eps_bg"]) == (0, 0)
    assert (poisoned.values["eps"], poisoned.values["eps_bg"]) == (8, 2)
    assert poisoned.values["poisoned"] == "results/toy/poison/scenes-unseg/dataset"
    assert poisoned.values["epochs"] == 2
    # what is protected is scored on its own, for the clean victim too
    assert clean.values["protected"] == poisoned.values["protected"] == "disc"
    assert stages["poison/scenes-unseg"].values["generator"] == "results/toy/generator/own/generator.safetensors"


def test_a_change_asks_for_exactly_the_jobs_it_touches(toys):
    def marks():
        return {key: stage.fingerprint for key, stage in load_profile("toy", toys).stages.items()}

    before = marks()
    change(toys, "generators", "own", "steps", value=6)
    changed = {key for key, mark in marks().items() if mark != before[key]}
    assert changed == set(before) - {"victim/scenes-clean-unet-s0"}
    before = marks()
    change(toys, "pixels", 0, "limit", value=5)
    assert {key for key, mark in marks().items() if mark != before[key]} == {"pixels/scenes-unseg", "tables", "mixture"}
    before = marks()
    change(toys, "threads", value=2)
    assert marks() == before


def test_a_label_names_what_a_grid_entry_sets(toys):
    entry = {"datasets": ["scenes"], "recipes": ["clean"], "victims": ["unet"], "seeds": [3]}
    change(toys, "grid", value=[entry | {"label": "long", "set": {"epochs": 9}}])
    stages = load_profile("toy", toys).stages
    assert stages["victim/scenes-clean-unet-long-s3"].values["epochs"] == 9


def test_what_a_grid_entry_varies_gives_a_stage_for_every_combination(toys):
    entry = {"datasets": ["scenes"], "recipes": ["clean"], "victims": ["unet"], "seeds": [3], "set": {"epochs": 9}}
    vary = {"clean_fraction": [0.2, 1.0], "defense": ["none", "jpeg quality=50+median"]}
    change(toys, "grid", value=[entry | {"label": "long", "vary": vary}])
    stages = load_profile("toy", toys).stages
    assert [key for key in stages if key.startswith("victim/")] == [
        f"victim/scenes-clean-unet-long-clean_fraction-{share}-{defense}-s3"
        for share in (0.2, 1.0)
        for defense in ("none", "jpeg-quality-50-median")
    ]
    values = stages["victim/scenes-clean-unet-long-clean_fraction-1.0-jpeg-quality-50-median-s3"].values
    assert (values["defense"], values["clean_fraction"], values["epochs"]) == ("jpeg quality=50+median", 1.0, 9)


def test_the_task_of_a_data_set_chooses_the_victims_notebook(project):
    entry = {"datasets": {"nwpu": {"task": "instance", "test_limit": 9, "limit": 5}}, "recipes": {"tile": {}}}
    entry["recipes"]["tile"] = {"poison": "fixed_tile"}
    entry |= {"victims": {"m2f": {"victim": "mask2former:tiny"}}}
    entry |= {"grid": [{"datasets": ["nwpu"], "recipes": ["tile"], "victims": ["m2f"], "seeds": [0]}]}
    entry |= {"pixels": [{"dataset": "nwpu", "recipe": "tile"}]}
    stages = Profile("own", project, "own", **entry).stages
    victim, poison = stages["victim/nwpu-tile-m2f-s0"], stages["poison/nwpu-tile"]
    assert victim.notebook.name == "03b_instances.ipynb"
    assert (victim.values["task"], victim.values["test_limit"]) == ("instance", 9)
    assert (poison.values["task"], poison.values["limit"]) == ("semantic", 5)  # noise for the union of the objects
    assert stages["pixels/nwpu-tile"].values["task"] == "semantic"


def test_what_is_poisoned_alike_for_two_tasks_is_poisoned_once(project):
    sets = {"whole": {"dataset": "nwpu", "task": "instance"}, "boxes": {"dataset": "nwpu", "task": "detection"}}
    sets |= {"few": {"dataset": "nwpu", "task": "detection", "limit": 5}}
    recipes = {"tile": {"poison": "fixed_tile"}, "weak": {"poison": "fixed_tile", "eps": 4}}
    grid = {"datasets": [*sets], "recipes": [*recipes], "victims": ["dino"], "seeds": [0]}
    parts = {"datasets": sets, "recipes": recipes, "victims": {"dino": {"victim": "dino:small"}}, "grid": [grid]}
    stages = Profile("own", project, "own", **parts).stages
    poisons = {key for key, stage in stages.items() if stage.kind == "poison"}
    assert poisons == {f"poison/{name}-{recipe}" for name in ("whole", "few") for recipe in recipes}
    assert stages["victim/boxes-weak-dino-s0"].needs == (stages["poison/whole-weak"],)
    assert stages["victim/few-weak-dino-s0"].values["poisoned"] == "results/own/poison/few-weak/dataset"


def test_the_paper_profile_has_a_stage_for_every_system_of_the_paper(project):
    stages = load_profile("paper", project).stages
    runs = {
        (s.values["victim"].partition(":")[0], s.values["dataset"], s.notebook.stem)
        for s in stages.values()
        if s.kind == "victim"
    }
    assert runs >= {
        *(("mask2former", name, "03_train_victim") for name in ("ade20k", "cityscapes")),
        *(("mask2former", name, "03b_instances") for name in ("ade20k", "cityscapes", "coco-panoptic")),
        *(("rsprompter", name, "03b_instances") for name in ("whu", "nwpu", "ssdd")),
        *(("deeplabv1", "voc", "03_train_victim"), ("mmseg", "voc", "03_train_victim")),
        *(("sam-hq", "hqseg44k", "03c_interactive"), ("dino", "coco", "03b_instances")),
        *(("unetplusplus-resnet50", name, "03_train_victim") for name in ("lung", "kvasir")),
    }


def test_the_paper_profile_leaves_no_image_out_and_follows_each_sets_recipe(project):
    stages = load_profile("paper", project).stages.values()
    limits = {s.key: s.values[name] for s in stages for name in ("limit", "test_limit") if name in s.values}
    assert not any(value for key, value in limits.items() if key.startswith(("victim/", "poison/")))
    of = lambda *names: {s.values["victim"] for s in stages if s.kind == "victim" and s.values["dataset"] in names}  # noqa: E731
    assert of("cityscapes") == {"mask2former:resnet50 crop=0.5", "mask2former:swin-tiny crop=0.5"}
    assert {victim.partition(" ")[2] for victim in of("coco-panoptic")} == {"scale_low=0.1 colour=False"}
    assert of("whu", "ssdd") == {"rsprompter:vit_h queries=100", "rsprompter:vit_h queries=30"}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("gird",), [], "Unknown key 'gird'.*did you mean 'grid'"),
        (("victims", "unet", "epoch"), 3, "Unknown key 'epoch' in victims.unet.*did you mean 'epochs'"),
        (("victims", "unet", "epochs"), "3", "victim/scenes-clean-unet-s0: Expected int for the parameter 'epochs'"),
        (("recipes", "random", "epsilon"), 3, "Unknown key 'epsilon' in recipes.random"),
        (("recipes", "random"), None, "Expected keys under recipes.random"),
        (("grid", 0, "recipes"), ["unsegg"], "'unsegg'; did you mean 'unseg'"),
        (("grid", 0, "seeds"), 3, "Expected a list for seeds"),
        (("grid", 0, "set"), {"epochs": 1}, "Expected `set` and `label` together"),
        (("grid", 0, "vary"), {"defence": ["none"]}, "Unknown key 'defence' in a grid entry's vary.*mean 'defense'"),
        (("grid", 0, "vary"), {"defense": "none"}, "Expected a list for defense"),
        (("grid", 0, "vary"), ["none"], "Expected parameters under vary"),
        (("pages",), {"mixtures": {}}, "Unknown key 'mixtures' in pages.*did you mean 'mixture'"),
        (("pages", "mixture"), {"share": [0.2]}, "Unknown key 'share' in pages.mixture.*did you mean 'shares'"),
        (("jobs",), "two", "Expected int for 'jobs'"),
        (("resources",), {"victims": {}}, "Unknown key 'victims' in resources.*did you mean 'victim'"),
        (("jobs",), 0, "Expected a whole number from 1 for 'jobs' in profile toy, found 0; "),
        (("threads",), -1, "Expected a whole number from 1 for 'threads' in profile toy, found -1; "),
        (("resources",), {"victim": {"mem_gb": "lots"}}, "number from 1 for resources.victim.mem_gb.*found 'lots'; "),
        (("resources",), {"victim": {"gpu": "one"}}, "Expected a whole number from 0 for resources.victim.gpu"),
        (("resources",), {"victim": {"minutes": True}}, "number from 1 for resources.victim.minutes.*found True; "),
        (("data",), [8], "Expected one text for data of profile toy, found 8; "),
        (("recipes", 8), {"poison": "clean"}, "Expected one text for a name under recipes of profile toy, found 8; "),
        (("recipes", "unseg", "generator"), ["own"], r"one text for recipes.unseg.generator.*found \['own'\]; "),
        (("datasets", "scenes", "task"), ["object"], r"one text for datasets.scenes.task.*found \['object'\]; "),
        (("grid", 0, "datasets"), [["scenes"]], r"one text for a name under datasets in grid.*found \['scenes'\]; "),
        (("grid", 0, "recipes"), [8], "Expected one text for a name under recipes in grid.*found 8; "),
        (("grid", 0, "label"), 8, "Expected one text for label in grid of profile toy, found 8; "),
        (("pixels", 0, "recipe"), None, "Expected one text for a name under recipes in pixels.*found None; "),
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
    assert choose("", data, toys).name == "smoke"
    assert capsys.readouterr().out.count("\n") == 1
    (data / "CamVid").mkdir()
    assert choose("", data, toys).name == "small"
    assert choose("toy", data, toys).name == "toy"
    with pytest.raises(UnsegError, match="Unknown profile 'smal'; did you mean 'small'"):
        choose("smal", data, toys)


def test_the_paper_profile_asks_for_the_list_that_its_voc_is_trained_on(project, tmp_path):
    profile, listed = load_profile("paper", project), "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt"
    for place in set(profile.data) - {listed}:
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
    with pytest.raises(UnsegError, match=f"Expected {listed} under .*get it with `unseg data get voc-aug`, or"):
        reproduce("paper", str(tmp_path))
    (tmp_path / listed).parent.mkdir(parents=True)
    (tmp_path / listed).touch()
    assert missing_data(profile, tmp_path) == []


ENGINE = ["-m", "snakemake", "--config", "profile=toy", "--nolock", "--rerun-triggers", "mtime", "--ignore-incomplete"]


def snakemake(root: Path, *words: str, profile: str = "toy") -> subprocess.CompletedProcess:
    engine = [word.replace("profile=toy", f"profile={profile}") for word in ENGINE]
    return subprocess.run([sys.executable, *engine, *words], cwd=root, capture_output=True, text=True, check=False)


def jobs_of(dry_run: subprocess.CompletedProcess) -> dict[str, int]:
    """The table `rule  count` of a dry run."""
    assert dry_run.returncode == 0, dry_run.stdout + dry_run.stderr
    table = dry_run.stdout.split("Job stats:")[1].split("\n\n")[0].splitlines()[3:]
    return {line.split()[0]: int(line.split()[1]) for line in table}


def finish(root: Path, key: str) -> None:
    """Make a stage look done, as the runner leaves it."""
    stage = load_profile("toy", root).stages[key]
    for name in ("metrics.json", "provenance.json", "run.ipynb", *stage.products):
        path = root / stage.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (root / stage.folder / ".done").write_text(stage.fingerprint)


def test_snakemake_lists_every_stage_and_skips_what_is_done(toys):
    every = {"generator": 1, "poison": 1, "victim": 2, "pixels": 1, "tables": 1, "page": 1, "report": 1, "all": 1}
    assert jobs_of(snakemake(toys, "-n")) == every | {"total": 9}
    for key in ("victim/scenes-unseg-unet-s0", "pixels/scenes-unseg"):
        finish(toys, key)
    # nobody left needs the poisoned copy, so it and the generator are not made again
    left = {"victim": 1, "tables": 1, "page": 1, "report": 1, "all": 1, "total": 5}
    assert jobs_of(snakemake(toys, "-n")) == left
    (toys / "results/toy/report.html").write_text("a report of fewer stages")
    assert jobs_of(snakemake(toys, "-n")) == left


def test_folders_with_a_space_stay_one_word_of_every_command(toys):
    (toys / "my venv").symlink_to(sys.prefix)
    python, profile = toys / "my venv" / "bin" / Path(sys.executable).name, toys / "my toy.yaml"
    profile.write_text((toys / "notebooks" / "profiles" / "toy.yaml").read_text())
    words = [word.replace("profile=toy", f"profile={profile}") for word in ENGINE]
    listed = subprocess.run([python, *words, "-n", "-p"], cwd=toys, capture_output=True, text=True, check=True).stdout
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
    command = [sys.executable, *ENGINE, "--cores", "2", tables]
    quiet = {"cwd": toys, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    with subprocess.Popen(command, **quiet) as run:
        deadline = time.monotonic() + 60
        while not list(toys.glob("results/toy/poison/*/.done-*")) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.killpg(run.pid, signal.SIGKILL)
    done = snakemake(toys, "--cores", "2", tables)
    assert done.returncode == 0, done.stderr
    ran = (toys / "log.txt").read_text().split()
    assert ran.count("results/toy/poison/scenes-random") == 1
    assert ran[-1] == "results/toy/tables"
    rows = read_csv(toys / "results" / "toy" / "rows.csv")
    assert [row["notebook"] for row in rows] == ["victim/scenes-random-unet-s0/run.ipynb"]
    shutil.rmtree(toys / "results/toy/victim/scenes-random-unet-s0")
    shutil.rmtree(toys / "results/toy/poison/scenes-random/dataset")  # to save space: needed again for the victim
    assert snakemake(toys, "--cores", "2", tables).returncode == 0
    again = (toys / "log.txt").read_text().split()[len(ran) :]
    assert [place.removeprefix("results/toy/") for place in again] == [
        *("poison/scenes-random", "victim/scenes-random-unet-s0", "tables")
    ]


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
    for key, stage in toy.items():
        if stage.kind in ("generator", "poison", "victim", "pixels"):
            finish(toys, key)
    left = {"victim": 2, "tables": 1, "page": 1, "report": 1, "all": 1, "total": 6}
    assert jobs_of(snakemake(toys, "-n", profile="more")) == left


def test_rows_of_a_shared_stage_lead_to_its_notebook(toys, monkeypatch):
    from unseg_lib.files import read_csv, write_json
    from unseg_lib.pipeline import collect

    monkeypatch.chdir(toys)
    share(toys)
    stages, results = load_profile("more", toys).stages, Path("results/more")
    for key in ("victim/scenes-clean-unet-s0", "victim/scenes-clean-unet-s1"):
        folder, values = stages[key].folder, stages[key].values
        names = ["task", "dataset", "victim", "init", "poison", "eps", "eps_bg", "defense", "clean_fraction", "seed"]
        row = {name: values[name] for name in names} | {"metric": "miou", "final": 1.0, "peak": 1.0, "epochs": 2}
        write_json(folder / "metrics.json", {"rows": [row]})
        write_json(folder / "provenance.json", {"commit": "c", "minutes": 1.0, "device": "cpu"})
        (folder / "run.ipynb").touch()
    collect(results, [stages[key].seen_from(results) for key in stages if "clean-unet" in key])
    assert {row["notebook"] for row in read_csv(results / "rows.csv")} == {
        *("../toy/victim/scenes-clean-unet-s0/run.ipynb", "victim/scenes-clean-unet-s1/run.ipynb")
    }


def test_two_profiles_do_not_share_each_other(toys):
    change(toys, "shares", value="more")
    share(toys)
    with pytest.raises(UnsegError, match="Expected a profile that shares nothing under `shares` of toy, found more"):
        load_profile("toy", toys)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"victims": {"unet": {"epochs": 3}}},
            "Expected victim/scenes-clean-unet-s0 as in profile toy.*epochs 3, not 2",
        ),
        ({"shares": "more"}, "Expected a profile that shares nothing under `shares` of more, found more"),
        ({"shares": "toyy"}, "Unknown profile 'toyy'; did you mean 'toy'"),
    ],
)
def test_a_shared_name_has_one_meaning(toys, changes, sentence):
    share(toys, **changes)
    with pytest.raises(UnsegError, match=sentence):
        load_profile("more", toys)


@pytest.mark.parametrize("name", ["smoke", "small", "paper", "ablations"])
def test_the_projects_profiles_are_valid(project, name):
    profile = load_profile(name, project)
    kinds = {stage.kind for stage in profile.stages.values()}
    pixels = {"pixels"} if profile.pixels else set()
    assert kinds == {"generator", "poison", "victim", "tables", *pixels, *profile.pages}
    places = {profile.results, *([Path("results") / profile.shares] if profile.shares else [])}
    assert {stage.results for stage in profile.stages.values()} == places


def test_an_ablation_changes_few_settings_and_has_three_seeds(project):
    small, own = (load_profile(name, project) for name in ("small", "ablations"))
    base = own.generators["texture"]
    assert own.victims == small.victims
    for name in ("small", "colour", "texture"):
        assert own.generators[name] == small.generators[name]
    for name in ("voc-object", "lung", "camvid"):
        assert own.datasets[name] == small.datasets[name]
    turns = {"alternation", "surrogate_turn", "generator_turn"}  # these are one thing
    for name, settings in own.generators.items():
        changed = {key for key in settings if settings[key] != base.get(key)}
        assert len(changed) <= 2 or changed <= turns, f"{name} changes {changed}"
    seeds = {}
    for stage in own.stages.values():
        if stage.kind == "victim":
            seeds.setdefault(stage.name.rpartition("-s")[0], set()).add(stage.values["seed"])
    assert all(len(found) >= 3 for found in seeds.values())


@pytest.mark.parametrize("name", ["smoke", "small", "paper", "ablations"])
def test_every_generators_settings_belong_together(project, name):
    from dataclasses import fields

    from unseg_lib.method import BilevelConfig

    stages = [stage for stage in load_profile(name, project).stages.values() if stage.kind == "generator"]
    for stage in stages:
        BilevelConfig(**{field.name: stage.values[field.name] for field in fields(BilevelConfig)})


@pytest.mark.parametrize("name", ["paper", "ablations"])
def test_a_dry_run_lists_every_stage(project, name):
    stages = load_profile(name, project).stages
    listed = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n", "--nolock", "--config", f"profile={name}"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stderr
    assert [key for key, stage in stages.items() if stage.marker not in listed.stdout] == []
