"""What a profile needs: every training of it is counted once, and its arithmetic as by hand."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from unseg_lib.datasets import SOURCES
from unseg_lib.datasets.registry import OFFICIAL
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json
from unseg_lib.poisons import POISONS
from unseg_lib.speed import needs
from unseg_lib.speed.bench import bench
from unseg_lib.speed.measure import flop_counter
from unseg_lib.speed.needs import victim_step

CPU = torch.device("cpu")


def given(victim="unet-resnet18", task="object", classes=2, side=32):
    how = {"size": (side, side), "lr": 1e-3, "precision": "32", "defense": "none"}
    return {"victim": victim, "task": task, "classes": classes, **how}


def step(*what, batch=2, **how):
    return victim_step(batch, 1, CPU, **given(*what, **how))


def test_steps_are_counted_and_the_work_ends_with_the_last_one():
    model, seen = torch.nn.Linear(3, 2, bias=False), []
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)

    def work():
        for i in range(10):
            seen.append(i)
            optimiser.zero_grad()
            model(torch.ones(5, 3)).sum().backward()
            optimiser.step()

    found = needs.cost_of_steps(work, 3, CPU)
    assert seen == [0, 1, 2, 3, 4] and found.seconds > 0
    assert found.flop == 2 * (2 * 5 * 3 * 2)  # forwards, and the gradient of the weights; of one step
    optimiser.step()  # nobody watches any more
    with pytest.raises(RuntimeError, match="Expected 5 steps of an optimiser, found 0"):
        needs.cost_of_steps(lambda: None, 3, CPU)


def test_attention_on_a_processor_counts():
    q = torch.rand(1, 2, 8, 4)  # 2 heads, 8 tokens of 4 numbers
    with flop_counter() as counter, torch.no_grad():
        F.scaled_dot_product_attention(q, q, q)
    assert counter.get_total_flops() == 2 * (2 * 2 * 8 * 8 * 4)


@pytest.fixture(autouse=True)
def _none_of_the_sets_is_here(monkeypatch, tmp_path):
    monkeypatch.setenv("UNSEG_DATA", str(tmp_path))


def test_every_training_of_the_paper_is_in_one_trial(paper):
    found = [stage.key for stages in needs.trials(paper).values() for stage, _ in stages]
    trained = {stage.key for stage in paper.stages.values() if stage.kind in ("generator", "victim")}
    poisons = {key: stage.values["poison"] for key, stage in paper.stages.items() if stage.kind == "poison"}
    asked = {key for key, poison in poisons.items() if POISONS[poison].needs_generator}
    assert len(found) == len(set(found)) and set(found) == trained | asked and asked


def test_samples_are_images_times_epochs(paper):
    samples = {stage.key: (trial, number) for trial, stages in needs.trials(paper).items() for stage, number in stages}
    trial, number = samples["victim/voc-clean-deeplabv3-r50-s0"]
    assert number == OFFICIAL["voc"][0] * 50 and trial.name.endswith(", semantic, 473 x 473, 21 classes")
    mixture = "unetpp-resnet50-clean_fraction-0.2-s0"
    assert samples[f"victim/kvasir-clean-{mixture}"][1] == 160 * 50  # the clean fifth alone
    assert samples[f"victim/kvasir-unseg-{mixture}"][1] == 800 * 50
    trial, number = samples["generator/sam-vit-b"]
    assert number == 44_320 * 27 and trial.devices == 8
    assert trial.name == "generator vit_b (noise head), surrogate sam on 8 devices"
    assert "(noise head)" not in samples["generator/random-vit-b"][0].name


def test_the_official_numbers_are_those_of_the_registry():
    told = {name: SOURCES[name].official for name in OFFICIAL.keys() - {"voc", "lung", "kvasir", "coco-instances"}}
    assert all(f"train {OFFICIAL[name][0]}," in text for name, text in told.items())
    assert f"({OFFICIAL['voc'][0]} with voc-aug)" in SOURCES["voc"].official
    fifths = {name: int(SOURCES[name].official.split(",")[0]) / 5 for name in ("lung", "kvasir")}  # are for the test
    assert all(OFFICIAL[name][0] == round(4 * fifth) for name, fifth in fifths.items())


def test_a_set_is_looked_for_once_for_all_stages(paper, monkeypatch):
    def nothing(name, *_):
        asked.append(name)
        raise UnsegError("none is here")

    asked = []
    monkeypatch.setattr("unseg_lib.datasets.registry.load_dataset", nothing)
    needs.trials(paper)
    assert sorted(asked) == sorted(OFFICIAL.keys() - {"coco"})  # whose images the profile reads as coco-instances


def test_a_defence_that_works_in_every_step_is_a_trial_of_its_own(paper):
    defended = {dict(trial.given)["defense"] for trial in needs.trials(paper) if trial.measure is victim_step}
    assert {"none", "pgd_at", "ddc_at"} <= defended and "jpeg quality=50" not in defended


def test_a_larger_batch_and_more_classes_are_more_arithmetic():
    two, four = (step(batch=batch) for batch in (2, 4))
    assert four.flop == pytest.approx(2 * two.flop, rel=1e-6) and two.seconds > 0
    few, many = (step(task="semantic", classes=n) for n in (7, 40))
    assert many.flop > few.flop


def test_a_trial_has_a_process_of_its_own_and_one_that_fails_is_a_sentence():
    tried = lambda *victim: needs.alone(needs.Trial("any", 4, victim_step, (*given(*victim).items(),)), 2, 1, CPU)  # noqa: E731
    found, problem = tried()
    assert (found.flop, problem, found.seconds > 0) == (step().flop, "", True)
    found, problem = tried("unet-resnet999")
    assert found is None and "resnet999" in problem


PROFILE = """
generators:
  mine: {data: scenes, layout: tiny, surrogate_size: 32, batch_size: 2, steps: 6, loss_points: 64}
datasets: {scenes: {task: object, size: [32, 32], limit: 20}}
recipes: {clean: {poison: clean}, unseg: {poison: unseg, generator: mine}}
victims: {unet: {victim: unet-resnet18, epochs: 3, batch_size: 4, lr: 0.001}}
grid: [{datasets: [scenes], recipes: [clean, unseg], victims: [unet], seeds: [0, 1]}]
"""


def test_the_command_measures_a_profile(tmp_path, capsys, monkeypatch):
    # here: a process for each of them takes most of a minute
    monkeypatch.setattr(needs, "alone", lambda trial, *how: (trial.measure(*how, **dict(trial.given)), ""))
    (tmp_path / "mine.yaml").write_text(PROFILE)
    bench("needs", batch=2, device="cpu", profile=str(tmp_path / "mine.yaml"), json=str(tmp_path / "needs.json"))
    said = capsys.readouterr().out
    rows = {row["training"]: row for row in read_json(tmp_path / "needs.json")["rows"]}
    victim, generator = rows["unet-resnet18, object, 32 x 32, 2 classes"], rows["generator tiny, surrogate unet"]
    assert (victim["stages"], victim["samples"], victim["batch"], victim["planned_batch"]) == (4, 4 * 20 * 3, 2, 4)
    assert victim["hours"] == pytest.approx(4 * victim["hours_a_stage"]) and victim["flop"] > 1e6
    assert generator["samples"] == 12 and generator["flop"] > 0 and rows["noise of tiny"]["samples"] == 20
    assert not any(row["problem"] for row in rows.values()) and "noise of tiny" in said
    # an entry of the grid that names no table is with its data set's
    one, whole = read_json(tmp_path / "needs.json")["tables"]
    assert one["table"] == "data set scenes" and whole["table"] == "in all" and "disk, GB" in said
    assert one | {"table": "in all"} == whole and (whole["trainings"], whole["copies"]) == (5, 1)
    assert whole["hours"] == pytest.approx(sum(row["hours"] for row in rows.values()))
    assert whole["disk_gb"] == pytest.approx(20 * 96 * 96 * 2.0 / 1e9)
    assert whole["megabytes"] == max(filter(None, (row["megabytes"] for row in rows.values())), default=None)


def test_every_stage_is_for_some_table(paper):
    tables, beside = {purpose: paper.only(purpose) for purpose in paper.purposes}, {"pixels", "tables", *paper.pages}
    assert {f"table {number}" for number in range(1, 12)} | {"figure 4"} <= set(tables)
    assert "generator/random-vit-b" in tables["table 11"] and "generator/random-vit-b" not in tables["table 4"]
    assert {"victim/voc-unseg-deeplabv1-s0", "poison/voc-unseg"} <= set(tables["table 1"])
    # an entry that names no table is with its data set's
    nameless = {key: value for key, value in paper.grid[0].items() if key != "for"}
    assert set(replace(paper, grid=[nameless]).purposes) == {"data set voc"}
    assert set().union(*tables.values()) == {key for key, one in paper.stages.items() if one.kind not in beside}


def test_disk_is_that_of_the_copies_and_of_the_largest_training_and_gaps_are_told(paper):
    found = {key: one for key, one in paper.only("table 2").items() if "/coco-panoptic-" in key}
    row = needs.table_row("2", found, {key: (1.0, 5.0) for key in found if not key.endswith("swin-t-lsj-s0")})
    copies, decoded = 3 * 118_287 * 0.28e6 * 0.5, 118_287 * 3 * 1024 * 1024  # three poisons as JPEG
    assert row["disk_gb"] == pytest.approx((copies + decoded) / 1e9) and (row["copies"], row["megabytes"]) == (3, 5.0)
    assert row["trainings"] == 6 and row["problem"] == "without 2 that could not be measured"
    assert row["hours"] == 4 + 3  # four trainings and three copies, an hour each


FAMILIES = [("mask2former:tiny", "panoptic", 64), ("mask2former:tiny", "instance", 64)]
FAMILIES += [("rsprompter:tiny", "instance", 128), ("sam-hq:tiny", "interactive", 128)]
FAMILIES += [("deeplabv1:wideresnet38-tiny", "semantic", 32)]


@pytest.mark.parametrize("victim, task, side", FAMILIES)
def test_every_family_can_be_tried(victim, task, side):
    found = step(victim, task, 7, side)
    assert found.seconds > 0 and found.flop > 1e6 and (found.megabytes is None or found.megabytes > 0)
