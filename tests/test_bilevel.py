"""The game: whose turn it is, who is trained, both targets, and a resume that changes nothing."""

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from lightning.fabric import Fabric
from safetensors.torch import load_file

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, read_json, write_json
from unseg_lib.method import (
    LATER,
    BilevelConfig,
    Game,
    bilevel,
    keys_of,
    load_generator,
    noise_statistics,
    phase_of,
    segmentation_loss,
    train_generator,
    variants,
)
from unseg_lib.seeds import torch_rng

TINY = dict(
    layout="tiny",
    batch_size=2,
    steps=6,
    alternation="steps",
    surrogate_turn=1,
    generator_turn=1,
    loss_points=64,
    train_eps=8.0,
    train_eps_bg=2.0,
    scales=(0.5, 1.5),
)


def pairs(n=6):
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        mask = np.zeros((24, 30), bool)
        mask[4 : 10 + i, 6:20] = True
        made.append((rng.integers(0, 256, (24, 30, 3), dtype=np.uint8), mask))
    return made


def test_published_alternation_is_one_epoch_in_four():
    config = BilevelConfig()
    turns = ["S" if phase_of(config, e * 1385, 1385) == "surrogate" else "G" for e in range(27)]
    assert [e for e, turn in enumerate(turns) if turn == "S"] == [0, 4, 8, 12, 16, 20, 24]
    assert turns.count("G") == 20


def test_alternation_by_steps():
    config = BilevelConfig(alternation="steps", surrogate_turn=2, generator_turn=3)
    assert "".join(phase_of(config, s, 100)[0] for s in range(10)) == "ssgggssggg"


def test_every_image_once_per_epoch_and_shared_between_ranks():
    config = BilevelConfig(**TINY)
    ranks = [list(keys_of(8, config, 0, 2, rank, 2)) for rank in range(2)]
    seen = [i for batch in (*ranks[0], *ranks[1]) for _, i in batch]
    assert sorted(seen) == list(range(8))
    later = list(keys_of(8, config, 1, 2, 0, 2))
    assert later == ranks[0][1:]  # starting at a step gives that step's batch


def state_of(game, name):
    return {k: v.clone() for k, v in game.bare(name).state_dict().items()}


@pytest.mark.parametrize("phase", ["surrogate", "generator"])
@pytest.mark.parametrize("target", ["ones", "true"])
def test_a_step_moves_one_player_only(phase, target):
    config, fabric = BilevelConfig(**TINY | {"target": target}), Fabric(accelerator="cpu")
    game = Game(config, fabric)
    before = {name: state_of(game, name) for name in game.players}
    x, y = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    y[..., 4:20, 4:20] = 1
    row = bilevel.train_step(config, fabric, game, (x, y), phase, 0)
    assert math.isfinite(row["loss"]) and row["gradient"] > 0
    for name in game.players:
        same = all(torch.equal(v, before[name][k]) for k, v in game.bare(name).state_dict().items())
        assert same == (name != phase)
    assert all(p.requires_grad for p in game.bare("surrogate").parameters())


@pytest.mark.parametrize("leaking", [False, True])
def test_a_waiting_player_drifts_only_where_its_momentum_leaks(leaking):
    """Adam after one gradient g, then one of zero: the step is lr * 0.9 / (1 + 0.9) over sqrt(0.999 / 1.999)."""
    config = BilevelConfig(**TINY | {"optimiser": "adam_leaking" if leaking else "adam", "surrogate_lr": 0.01})
    fabric = Fabric(accelerator="cpu")
    game = Game(config, fabric)
    x, y = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    y[..., 4:20, 4:20] = 1
    start = state_of(game, "generator")
    bilevel.train_step(config, fabric, game, (x, y), "surrogate", 0)
    assert all(torch.equal(v, start[k]) for k, v in state_of(game, "generator").items())  # no momentum yet
    before = state_of(game, "surrogate")
    bilevel.train_step(config, fabric, game, (x, y), "generator", 1)
    moved = max((v - before[k]).abs().max().item() for k, v in state_of(game, "surrogate").items())
    expected = 0.01 * (0.9 / 1.9) / (0.999 / 1.999) ** 0.5
    assert moved == pytest.approx(expected if leaking else 0, rel=0.01)


@pytest.mark.parametrize(
    "target,phase,share", [("ones", "generator", 1.0), ("true", "generator", 0.5), ("ones", "surrogate", 0.5)]
)
def test_label_modification_changes_the_generators_target(monkeypatch, target, phase, share):
    asked = []

    def spy(logits, target, rng, count):
        asked.append(target)
        return segmentation_loss(logits, target, rng, count)

    monkeypatch.setattr(bilevel, "segmentation_loss", spy)
    x, y = torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    y[..., :16] = 1
    config, fabric = BilevelConfig(**TINY | {"target": target}), Fabric(accelerator="cpu")
    bilevel.train_step(config, fabric, Game(config, fabric), (x, y), phase, 0)
    assert asked[0].mean().item() == pytest.approx(share, abs=0.02)


def test_noise_obeys_the_training_budget_inside_and_outside():
    config = BilevelConfig(**TINY)
    x, y = torch.full((1, 3, 32, 32), 0.5), torch.zeros(1, 1, 32, 32)
    y[..., :16] = 1
    noise = torch.ones(1, 3, 32, 32)
    result, _ = bilevel.noised(config, x, y, noise, 32)
    change = (result - x)[0, 0] * 255
    assert change[:, :16].allclose(torch.tensor(8.0)) and change[:, 16:].allclose(torch.tensor(2.0), atol=1e-4)


def test_gray_images_get_the_mean_of_the_noise():
    noise = torch.tensor([1.0, 0.0, -0.4]).view(1, 3, 1, 1).expand(2, 3, 4, 4)
    result = variants.gray_part(noise, torch.tensor([True, False]))
    assert torch.allclose(result[0], torch.tensor(0.2)) and torch.equal(result[1], noise[1])


def test_noise_that_is_the_same_everywhere_has_nothing_left_when_the_shared_part_is_removed():
    noise = torch.rand(1, 3, 8, 8).repeat(4, 1, 1, 1)
    assert variants.without_shared(noise).abs().max() < 1e-6


def test_a_file_wears_fine_noise_more_than_coarse_noise():
    fine = (torch.arange(32) % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    coarse = (torch.arange(32) // 8 % 2 * 2.0 - 1).expand(1, 3, 32, 32)
    left = [variants.through_a_file(noise, 32).std().item() for noise in (fine, coarse)]
    assert left[0] < 0.6 < 0.9 < left[1]


def test_random_sizes_can_be_halved_and_reach_both_ends():
    sizes = {variants.random_size(96, 0.5, torch_rng(i)) for i in range(100)}
    assert sizes == {48, 64, 80, 96} and variants.random_size(50, 1.0, torch_rng(0)) == 50


def test_signs_of_a_degenerate_generator():
    constant = noise_statistics(torch.ones(4, 3, 8, 8))
    assert constant["rms"] == 1 and constant["spatial_std"] == 0 and constant["image_std"] == 0
    tile = noise_statistics(torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).repeat(4, 1, 1, 1))
    assert tile["spatial_std"] > 0.2 and tile["image_std"] < 1e-6


class Killed(Exception):
    pass


def dying(data, after):
    """Pairs that die after a number of reads: a crash in the middle of a run."""

    class Dying(list):
        reads = 0

        def __getitem__(self, i):
            Dying.reads += 1
            if Dying.reads > after:
                raise Killed
            return list.__getitem__(self, i)

    return Dying(data)


def reads(steps):
    """How many pairs are read for so many steps: two in a step, and the first and the last one for the note."""
    return 2 * steps + 2


def test_a_killed_run_continues_from_its_checkpoint_to_the_same_bytes(tmp_path):
    config = BilevelConfig(**TINY)
    whole = train_generator(config, pairs(), tmp_path / "whole", device="cpu", checkpoint_every=2)
    with pytest.raises(Killed):
        train_generator(config, dying(pairs(), reads(5)), tmp_path / "killed", device="cpu", checkpoint_every=2)
    assert not (tmp_path / "killed/generator.safetensors").exists()
    assert (tmp_path / "killed/checkpoint.pt").exists()  # after step 4 of 6
    resumed = train_generator(config, dying(pairs(), reads(2)), tmp_path / "killed", device="cpu", checkpoint_every=2)
    assert whole.read_bytes() == resumed.read_bytes()
    assert read_csv(tmp_path / "whole/log.csv") == read_csv(tmp_path / "killed/log.csv")
    assert not list((tmp_path / "killed").glob("checkpoint*"))


SCRIPT = """
import sys, unseg_lib; sys.path.insert(0, {tests!r})
import test_bilevel as t
from pathlib import Path
config = t.BilevelConfig(**t.TINY | dict(steps=40))
{more}
t.train_generator(config, t.pairs(), Path({out!r}), device="cpu", checkpoint_every=1, devices={devices})
"""


def killed_after_a_step(out, devices=1, more=""):
    """Start 40 steps in another process and kill it with -9 as soon as there is a checkpoint."""
    script = SCRIPT.format(tests=str(Path(__file__).parent), out=str(out), devices=devices, more=more)
    process = subprocess.Popen([sys.executable, "-c", script])
    deadline = time.monotonic() + 240
    while not (out / "checkpoint.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and (out / "checkpoint.pt").exists()


def step_of(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)["step"]


def test_kill_minus_nine_loses_nothing(tmp_path):
    config = BilevelConfig(**TINY | dict(steps=40))
    out = tmp_path / "run"
    killed_after_a_step(out)
    left = dying(pairs(), reads(40 - step_of(out)))
    resumed = train_generator(config, left, out, device="cpu", checkpoint_every=1)
    whole = train_generator(config, pairs(), tmp_path / "whole", device="cpu", checkpoint_every=50)
    one, two = load_file(resumed), load_file(whole)
    # another process may use other threads: equal to rounding, not to the bit
    assert all(torch.allclose(one[k], two[k], atol=1e-3) for k in one)


TWO_PROCESSES = """
import sys, unseg_lib; sys.path.insert(0, {tests!r})
import test_bilevel as t
t.train_generator(t.BilevelConfig(**t.TINY | dict(steps=2)), t.pairs(), {out!r}, device="cpu", devices=2)
"""


@pytest.fixture
def notebook(monkeypatch):
    """What IPython does to the interpreter of a notebook."""
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)


class Noting(list):
    """Pairs that write into a file which of them was read: every process has its own copy of them."""

    def __init__(self, data, path):
        super().__init__(data)
        self.path = path

    def __getitem__(self, i):
        with open(self.path, "a") as file:
            file.write(f"{i}\n")
        return super().__getitem__(i)


def test_two_processes_train_one_generator_from_a_script_or_a_notebook(tmp_path, notebook, capfd, monkeypatch):
    script = tmp_path / "two.py"  # a file: each process starts it again
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent), out=str(tmp_path / "script")))
    subprocess.run([sys.executable, script], check=True, timeout=240, cwd=tmp_path)
    capfd.readouterr()
    monkeypatch.setenv("SLURM_NTASKS", "1")  # as in a notebook that Slurm has started
    config, read = BilevelConfig(**TINY | dict(steps=2)), tmp_path / "read.txt"
    path = train_generator(config, Noting(pairs(), read), tmp_path / "notebook", device="cpu", devices=2)
    assert len(read_csv(tmp_path / "script/log.csv")) == 2 and load_generator(path)
    assert path.read_bytes() == (tmp_path / "script/generator.safetensors").read_bytes()
    assert len(read.read_text().split()) == 2 + 2 * reads(2)  # here for the note, and by each of the two
    said = capfd.readouterr().err
    assert said.count("generator: 2/2") == 1 and "distributed_backend" not in said  # shown, and once
    assert {file.name for file in path.parent.iterdir()} == {path.name, "log.csv", "speed.json", "training.json"}


def test_an_error_of_several_processes_is_one_sentence_in_the_notebook(tmp_path, notebook):
    config = BilevelConfig(**TINY | dict(surrogate_lr=1e30, generator_lr=1e30))
    with pytest.raises(UnsegError, match=r"^Expected a finite loss and gradient[^\n]*full precision\.$"):
        train_generator(config, pairs(), tmp_path, device="cpu", devices=2)
    assert not (tmp_path / ".partial-devices").exists()


def test_pairs_that_no_other_process_can_read_are_refused_before_one_is_started(tmp_path, notebook):
    with pytest.raises(UnsegError, match="put their class into a file"):
        train_generator(BilevelConfig(**TINY), dying(pairs(), 9), tmp_path, device="cpu", devices=2)


def test_several_processes_die_with_their_notebook_and_continue_from_their_checkpoint(tmp_path, notebook):
    out, read = tmp_path / "run", tmp_path / "read.txt"
    killed_after_a_step(out, devices=2, more="sys.ps1 = 'In : '")
    deadline = time.monotonic() + 10
    while (alive := working_on(out)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive
    left = 40 - step_of(out)
    config = BilevelConfig(**TINY | dict(steps=40))
    train_generator(config, Noting(pairs(), read), out, device="cpu", devices=2)
    assert len(read.read_text().split()) == 2 + 2 * reads(left) and left < 40
    assert [int(row["step"]) for row in read_csv(out / "log.csv")] == list(range(40))


def working_on(out):
    """The processes that a training of this folder has started from a notebook."""
    commands = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    return [command for command in commands if str(out / ".partial-devices") in command]


def test_a_finished_run_is_not_done_again_and_another_one_is_refused(tmp_path):
    config = BilevelConfig(**TINY | dict(steps=2))
    path = train_generator(config, pairs(), tmp_path, device="cpu")
    stamp = path.stat().st_mtime_ns
    assert train_generator(config, pairs(), tmp_path, device="cpu").stat().st_mtime_ns == stamp
    with pytest.raises(UnsegError, match="\(seed 42 there, 1 asked\)"):
        train_generator(BilevelConfig(**TINY | dict(steps=2, seed=1)), pairs(), tmp_path, device="cpu")


def test_a_folder_belongs_to_one_way_of_training_on_one_set(tmp_path, bf16_everywhere):
    config = BilevelConfig(**TINY | dict(steps=2))
    how = {"device": "cpu", "precision": "bf16-mixed"}
    train_generator(config, pairs(), tmp_path, **how)
    other = pairs()
    other[-1][0][0, 0] ^= 1  # a pixel of the last image
    shape = [(image[:, :20], mask[:, :20]) for image, mask in pairs()]
    for changed, name in ((other, "data"), (shape, "data")):
        with pytest.raises(UnsegError, match=rf"\({name} "):
            train_generator(config, changed, tmp_path, **how)
    for way in ({"devices": 2}, {"precision": "32-true"}, {"fast": True}):
        with pytest.raises(UnsegError, match=rf"\({next(iter(way))} "):
            train_generator(config, pairs(), tmp_path, **how | way)


def test_bf16_that_the_device_has_not_is_noted_as_what_it_became(tmp_path, monkeypatch):
    monkeypatch.setattr("unseg_lib.runtime.has_bf16", lambda device: False)
    train_generator(BilevelConfig(**TINY | dict(steps=1)), pairs(), tmp_path, device="cpu", precision="bf16-mixed")
    assert read_json(tmp_path / "training.json")["precision"] == "32-true"


def test_what_an_older_version_began_is_continued_but_not_with_another_seed(tmp_path):
    config = BilevelConfig(**TINY)
    with pytest.raises(Killed):
        train_generator(config, dying(pairs(), reads(5)), tmp_path, device="cpu", checkpoint_every=2)
    note = tmp_path / "training.json"
    older = {key: value for key, value in read_json(note).items() if key not in LATER}
    assert set(read_json(note)) == set(older) | set(LATER) and "seed" in older
    write_json(note, older)
    with pytest.raises(UnsegError, match="\(seed 42 there, 1 asked\)"):
        train_generator(BilevelConfig(**TINY | dict(seed=1)), pairs(), tmp_path, device="cpu")
    assert train_generator(config, dying(pairs(), reads(2)), tmp_path, device="cpu").exists()


def test_a_loss_that_is_not_finite_stops_with_a_sentence(tmp_path):
    config = BilevelConfig(**TINY | dict(surrogate_lr=1e30, generator_lr=1e30))
    with pytest.raises(UnsegError, match=r"finite loss and gradient.*at step \d.*phase"):
        train_generator(config, pairs(), tmp_path, device="cpu")


def test_bf16_trains(tmp_path, bf16_everywhere):
    config = BilevelConfig(**TINY | dict(steps=2))
    assert train_generator(config, pairs(), tmp_path, device="cpu", precision="bf16-mixed").exists()


@pytest.mark.parametrize(
    "wrong,message",
    [
        (dict(layout="vitb"), "did you mean 'vit_b'"),
        (dict(target="all"), "Expected target to be one of ones, true"),
        (dict(train_eps=1.0, train_eps_bg=2.0), "train_eps_bg <= train_eps"),
        (dict(batch_size=0), "at least 1"),
    ],
)
def test_wrong_settings_are_refused(wrong, message):
    with pytest.raises(UnsegError, match=message):
        BilevelConfig(**wrong)


def test_too_few_images_and_wrong_masks(tmp_path):
    with pytest.raises(UnsegError, match="at least 2 images"):
        train_generator(BilevelConfig(**TINY), pairs(1), tmp_path / "a", device="cpu")
    broken = [(p, m[:5]) for p, m in pairs()]
    with pytest.raises(UnsegError, match="Expected mask"):
        train_generator(BilevelConfig(**TINY), broken, tmp_path / "b", device="cpu")
