"""What is measured is what is said: arithmetic counted by hand, rows complete, waiting told from working."""

import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric

from unseg_lib import method, speed
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, read_json
from unseg_lib.method import LAYOUTS, BilevelConfig, Inference, build_image_encoder, encode
from unseg_lib.poisons import POISONS, Poison
from unseg_lib.runtime import Stopwatch
from unseg_lib.speed.bench import bench
from unseg_lib.speed.ladder import differences, rungs
from unseg_lib.speed.measure import cost, flop_counter, generator_of, image

CPU = torch.device("cpu")
TINY = BilevelConfig(layout="tiny", batch_size=2, loss_points=64, steps=4, alternation="steps", generator_turn=1)


def test_vit_b_is_a_little_more_than_a_teraflop():
    """On tensors without memory, but for the rest after the encoder, where a prompt's values decide the way."""
    layout = LAYOUTS["vit_b"]
    with torch.device("meta"), torch.no_grad(), flop_counter() as counter:
        found = encode(build_image_encoder(layout), torch.empty(1, 3, 1024, 1024))
    generator = method.Generator(replace(layout, depth=0, global_blocks=()))
    generator.encode = lambda encoder, x: [torch.zeros(one.shape) for one in found]
    with flop_counter() as rest:
        generator.noise(np.zeros((8, 8, 3), np.uint8), mask=np.ones((8, 8), bool))
    assert counter.get_total_flops() + rest.get_total_flops() == pytest.approx(1.037e12, rel=1e-3)


def test_a_deeper_encoder_costs_one_block_more(monkeypatch):
    layout = replace(LAYOUTS["tiny"], global_blocks=(1, 2))  # 64 tokens of 32 channels, 2 heads of 16
    found = []
    for depth in (2, 3):
        monkeypatch.setitem(LAYOUTS, "tiny", replace(layout, depth=depth))
        way = Inference(generator_of("tiny", CPU), reference=True)
        prepared = way.prepare(image(0, 32)[0], mask=image(0, 32)[1])
        found.append(cost(partial(way, [prepared]), CPU, 1, counted=True).flop)
    linear = 2 * 64 * 32 * (3 + 1 + 4 + 4) * 32
    attention = 2 * 2 * 64 * 64 * 32 + 2 * 2 * 64 * 8 * 32  # weights and values; positions down and across
    assert found[1] - found[0] == linear + attention


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch):
    """The machine's peak in a moment."""
    monkeypatch.setattr("unseg_lib.speed.measure.SIDES", (256,))


def test_the_ladder_has_a_reference_stays_within_a_step_and_takes_bf16_only_where_protecting_does(monkeypatch):
    monkeypatch.setattr("unseg_lib.method.inference.has_bf16", lambda device: True)
    # too small for bf16, which would move its noise by three steps
    found = speed.protect_ladder("tiny", CPU, side=40, batch=2, repeats=1)
    first, *others = found["rows"]
    assert (first["speedup"], first["largest_difference"], first["share_different"]) == (1, 0, 0)
    assert others and all(row["largest_difference"] <= 1 and row["share_different"] < 0.01 for row in others)
    assert all(row["images_per_second"] > 0 and row["megabytes"] > 10 for row in found["rows"])
    assert found["peak"]["32"] > 1e8 and found["flop"] > 1e6 and {row["precision"] for row in found["rows"]} == {"32"}
    ways = rungs("protect", bf16=True, compiled=False).values()
    assert [way["precision"] for way in ways] == ["32", "32", "bf16", "bf16"]


def test_differences_are_in_steps_and_shares_of_values():
    a = np.zeros((2, 2, 3), np.uint8)
    b = a.copy()
    b[0, 0, 0], b[1, 1, 1] = 255, 1
    assert differences([a], [b]) == {"largest_difference": 255, "share_different": 2 / 12}


def test_a_training_step_has_a_row_for_each_way():
    rows = speed.step_ladder(CPU, frozen=True, **vars(TINY))
    assert rows[0]["speedup"] == 1 and len(rows) >= 2
    for row in rows:
        assert row["step"] == pytest.approx((row["surrogate"] + row["generator"]) / 2)
        assert row["samples_per_second"] == pytest.approx(2 / row["step"])


def test_disk_to_disk_protects_every_file_and_leaves_none(monkeypatch, tmp_path):
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # no processes here
    (tmp_path / "unseg_lib").symlink_to(Path(speed.__file__).parents[1])
    rows = speed.throughput("tiny", CPU, count=3, side=24, jobs=(1, 2), beside=str(tmp_path))
    ways = ["model alone", "overlapped, 1 thread", "overlapped, 2 threads", "this version", f"{tmp_path}, same pixels"]
    assert [row["way"] for row in rows] == ways and rows[3]["kilobytes"] == rows[4]["kilobytes"]
    assert rows[0]["share"] == 1 and all(row["images_per_second"] > 0 for row in rows)
    assert 0.5 < rows[1]["kilobytes"] == rows[2]["kilobytes"] < 3  # of 24 x 24 pixels
    found = speed.memory("tiny", CPU, count=4, side=24)
    assert (found["images"], found["problems"]) == (4, 0) and found["megabytes_end"] > 10


def test_tables_are_aligned_and_know_the_unknown():
    rows = [{"way": "a", "images_per_second": 1234.5, "share": 1, "kilobytes": 3}]
    rows += [{"way": "long", "images_per_second": 2, "share": None, "kilobytes": None}]
    first, second, third = speed.table(rows, "disk").to_string().splitlines()
    assert first.split()[:2] == ["way", "images/s"] and second.split() == ["a", "1,234.50", "100", "3"]
    assert third.endswith("–") and len(second) == len(third)
    assert "long" in speed.table(rows, "disk")._repr_html_()


def test_the_command_refuses_what_it_does_not_know_and_keeps_what_it_found(tmp_path, capsys):
    for what, generator, options, sentence in (
        ("swim", "tiny", {}, "Unknown measurement 'swim'; .*Known: disk, memory, needs, poisons, protect, train"),
        ("protect", "tiny", {"batch": -1}, "at least 1"),
        ("train", "colour", {}, "Unknown training 'colour'"),
        ("disk", "tiny", {"images": 2, "side": 24, "beside": str(tmp_path)}, "Expected another checkout of this kit"),
    ):
        with pytest.raises(UnsegError, match=sentence):
            bench(what, generator, device="cpu", **options)
    for what, word in {"protect": "GFLOP an image", "train": "surrogate's step, s", "memory": "megabytes_end"}.items():
        bench(what, "tiny", side=24, images=2, device="cpu", json=str(tmp_path / f"{what}.json"))
        assert word in capsys.readouterr().out
    assert read_json(tmp_path / "memory.json")["images"] == 2 and not (tmp_path / "protect.json").exists()


def test_a_fast_game_plays_the_same_game_to_rounding(tmp_path):
    mask, logs = np.zeros((40, 30), bool), {}
    mask[10:30, 5:20] = True
    pairs = [(np.random.default_rng(i).integers(0, 256, (40, 30, 3), dtype=np.uint8), mask) for i in range(4)]
    ways = {"plain": {}, "fast": {"fast": True}, "checkpointed": {"fast": True, "checkpointed": True}}
    for name, way in ways.items():
        method.train_generator(TINY, pairs, tmp_path / name, device="cpu", **way)
        logs[name] = read_csv(tmp_path / name / "log.csv")
        told = read_json(tmp_path / name / "speed.json")
        assert told["samples_per_second"] > 0 and 0 <= told["share_waiting"] < 1
    for name in ("fast", "checkpointed"):
        for plain, quick in zip(logs["plain"], logs[name], strict=True):
            assert plain["phase"] == quick["phase"]
            assert float(quick["loss"]) == pytest.approx(float(plain["loss"]), rel=1e-3)
    with pytest.raises(UnsegError, match="Expected fast=True beside checkpointed or compiled"):
        method.train_generator(TINY, pairs, tmp_path / "neither", device="cpu", compiled=True)
    assert not (tmp_path / "neither").exists()


def test_accelerate_asks_for_one_kernel_a_step():
    game = method.Game(TINY, Fabric(accelerator="cpu", devices=1))
    method.accelerate(game)
    assert all(group["fused"] for optimiser in game.optimisers.values() for group in optimiser.param_groups)


def test_the_stopwatch_tells_waiting_from_working_and_reading_ahead_keeps_the_order():
    def slow():
        for i in range(4):
            time.sleep(0.02)
            yield i

    watch = Stopwatch()
    assert list(watch.watch(slow(), 2)) == [0, 1, 2, 3]
    assert watch.samples == 8 and watch.report()["share_waiting"] > 0.5
    for _ in watch.watch(range(4), 2):
        time.sleep(0.1)
    assert watch.samples == 16 and watch.report()["share_waiting"] < 0.5
    with watch.waiting():
        time.sleep(1)
    assert watch.report()["share_waiting"] > 0.5 and watch.report()["samples_per_second"] < 16
    assert list(method.ahead(slow())) == [0, 1, 2, 3] and list(method.ahead([])) == []
    with pytest.raises(ZeroDivisionError):
        list(method.ahead(1 / i for i in (1, 0)))


def test_images_to_measure_with_are_always_the_same():
    assert all(np.array_equal(a, b) for a, b in zip(image(3, 20), image(3, 20)))
    assert not np.array_equal(image(3, 20)[0], image(4, 20)[0])


def test_poisons_that_need_no_training_are_timed(monkeypatch):
    monkeypatch.setitem(POISONS, "mine", Poison(lambda settings: lambda image: image.pixels, "mine"))
    rows = {row["poison"]: row for row in speed.poisons(32, repeats=1)}
    assert {"mine", "random", "ar"} <= set(rows) and not {"clean", "unseg", "error_min"} & set(rows)
    assert all(0 < row["milliseconds"] < 1000 for row in rows.values())
