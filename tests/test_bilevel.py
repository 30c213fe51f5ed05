"""The game: whose turn it is, who is trained, both targets, and a resume that changes nothing."""

import math
import os
import runpy
import signal
import sys
import time
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from lightning.fabric import Fabric
from torch import multiprocessing
from toy_project import wait
from toys import interrupt

from unseg_lib import method
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv, read_json, write_json
from unseg_lib.images import write_image
from unseg_lib.method import BilevelConfig, bilevel, subset, train_generator, variants
from unseg_lib.method.validation import Validation
from unseg_lib.seeds import torch_rng

TINY = dict(layout="tiny", batch_size=2, steps=6, alternation="steps", surrogate_turn=1, generator_turn=1)
TINY |= dict(loss_points=64, train_eps=8.0, train_eps_bg=2.0, scales=(0.5, 1.5))
DIVERGING = dict(surrogate_lr=1e30, generator_lr=1e30)


def pairs(n=6):
    images = np.random.default_rng(0).integers(0, 256, (n, 24, 30, 3), dtype=np.uint8)
    masks = np.zeros((n, 24, 30), bool)
    for i, mask in enumerate(masks):
        mask[4 : 10 + i, 6:20] = True
    return list(zip(images, masks))


def test_whose_turn_it_is():
    published = [method.phase_of(BilevelConfig(), epoch * 1385, 1385) for epoch in range(27)]  # one epoch in four
    assert [e for e, turn in enumerate(published) if turn == "surrogate"] == [0, 4, 8, 12, 16, 20, 24]
    assert published.count("generator") == 20
    config = BilevelConfig(alternation="steps", surrogate_turn=2, generator_turn=3)
    assert "".join(method.phase_of(config, step, 100)[0] for step in range(10)) == "ssgggssggg"


def test_every_image_once_per_epoch_and_shared_between_ranks():
    config = BilevelConfig(**TINY)
    ranks = [list(method.keys_of(8, config, 0, 2, rank, 2)) for rank in range(2)]
    assert sorted(i for batch in (*ranks[0], *ranks[1]) for _, i in batch) == list(range(8))
    assert list(method.keys_of(8, config, 1, 2, 0, 2)) == ranks[0][1:]  # starting at a step gives that step's batch


def test_jitter_keeps_image_and_mask_together():
    """The first channel is what the mask is not, the second is white: mask and first add up to it, padding included."""
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    mask[10:30, 20:50] = 255
    image = torch.stack([~mask, mask | 255, mask // 3])
    for seed in range(20):
        x, y = method.large_scale_jitter(image, mask, 32, torch_rng(seed))
        assert x.shape == (3, 32, 32) and y.shape == (1, 32, 32) and x.min() >= 0 and x.max() <= 1 + 1e-5
        assert torch.allclose(x[:1] + y, x[1:2], atol=1e-5) and y.any()


def test_jitter_pads_black_when_it_shrinks():
    image = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    x, _ = method.large_scale_jitter(image, image[0], 32, torch_rng(0), (0.5, 0.5))
    assert torch.allclose(x[:, :16, :16], torch.ones(3, 16, 16)) and x[:, 16:].sum() == 0 and x[:, :, 16:].sum() == 0


def new_game(**settings):
    """A game, and `step(phase)`, one step of it on two images whose upper half is the object."""
    config, fabric = BilevelConfig(**TINY | settings), Fabric(accelerator="cpu")
    game, x, y = method.Game(config, fabric), torch.rand(2, 3, 32, 32), torch.zeros(2, 1, 32, 32)
    y[..., :16, :] = 1
    return game, lambda phase, number=0: method.train_step(config, fabric, game, (x, y), phase, number)


def largest_changes(game, step, *when):
    """How far a step moves each of the players."""
    before = {name: deepcopy(game.bare(name).state_dict()) for name in game.players}
    row, now = step(*when), {name: game.bare(name).state_dict() for name in game.players}
    far = lambda name: max((now[name][key] - old).abs().max().item() for key, old in before[name].items())  # noqa: E731
    return row, {name: far(name) for name in game.players}


@pytest.mark.parametrize("phase", ["surrogate", "generator"])
@pytest.mark.parametrize("target", ["ones", "true"])
def test_a_step_moves_one_player_only_and_asks_the_generator_for_ones(phase, target, monkeypatch):
    asked, loss = [], method.segmentation_loss
    spy = lambda logits, target, *rest: asked.append(target.mean().item()) or loss(logits, target, *rest)  # noqa: E731
    monkeypatch.setattr(bilevel, "segmentation_loss", spy)
    game, step = new_game(target=target)
    row, moved = largest_changes(game, step, phase)
    assert math.isfinite(row["loss"]) and row["gradient"] > 0
    assert {name for name, far in moved.items() if far} == {phase}
    assert all(p.requires_grad for p in game.bare("surrogate").parameters())
    assert asked == [pytest.approx(1.0 if (phase, target) == ("generator", "ones") else 0.5, abs=0.02)]


def test_noise_obeys_the_training_budget_inside_and_outside():
    x, y = torch.full((1, 3, 32, 32), 0.5), (torch.arange(32) < 16).float().expand(1, 1, 32, 32)
    change = (bilevel.noised(BilevelConfig(**TINY), x, y, torch.ones_like(x), 32)[0] - x)[0, 0] * 255
    assert change[:, :16].allclose(torch.tensor(8.0)) and change[:, 16:].allclose(torch.tensor(2.0), atol=1e-4)


@pytest.mark.parametrize("leaking", [False, True])
def test_a_waiting_player_drifts_only_where_its_momentum_leaks(leaking):
    """Adam after one gradient g, then one of zero: the step is lr * 0.9 / (1 + 0.9) over sqrt(0.999 / 1.999)."""
    game, step = new_game(optimiser="adam_leaking" if leaking else "adam", surrogate_lr=0.01)
    assert largest_changes(game, step, "surrogate")[1]["generator"] == 0  # no momentum yet
    expected = 0.01 * (0.9 / 1.9) / (0.999 / 1.999) ** 0.5 if leaking else 0
    assert largest_changes(game, step, "generator", 1)[1]["surrogate"] == pytest.approx(expected, rel=0.01)


X = torch.rand(4, 3, 32, 32, generator=torch_rng("images"))


def hooked(noise, **settings):
    """What the hook of the variants makes of X, of what the generator is shown, and of noise and its size."""
    config = BilevelConfig(**TINY | {"surrogate": "unet"} | settings)
    x, show, put = variants.hook(config, X, subset, lambda config, x, y, noise, size: (noise, size), torch_rng(0))
    return x, show, *put(config, x, None, noise, 32)


def test_with_the_papers_settings_the_hook_gives_back_what_it_is_given():
    noise = torch.rand(4, 3, 8, 8)
    same, show, worn, size = hooked(noise)
    assert torch.equal(same, X) and torch.equal(worn, noise) and (show, size) == (subset, 32)


def test_variants_change_what_is_shown_and_how_noise_arrives():
    noise, everything = torch.rand(1, 3, 8, 8).repeat(4, 1, 1, 1), torch.ones(4, 1, 32, 32)
    assert hooked(noise, shown="mask")[1](method.all_prompts(everything, 32, torch_rng(0)), None).use.sum() == 4
    assert hooked(noise, shared_removed=1.0)[2].abs().max() < 1e-6  # the same noise for all: nothing is left
    x, _, worn, _ = hooked(noise, gray=1.0)
    assert all(torch.allclose(one, one.mean(dim=1, keepdim=True), atol=1e-6) for one in (x, worn))
    assert torch.allclose(worn[:, :1], noise.mean(dim=1, keepdim=True))
    some = variants.gray_part(noise[:2], torch.tensor([True, False]))
    assert torch.equal(some[1], noise[1]) and not torch.equal(some[0], noise[0])
    assert hooked(noise, smallest=0.5)[2].shape[-1] == hooked(noise, smallest=0.5)[3] in (16, 32)


def test_a_file_wears_fine_noise_more_than_coarse_noise_at_any_size():
    stripes = [(torch.arange(32) // cell % 2 * 2.0 - 1).expand(1, 3, 32, 32) for cell in (1, 8)]
    fine, coarse = (variants.through_a_file(noise, 32).std().item() for noise in stripes)
    assert fine < 0.6 < 0.9 < coarse
    # and random sizes can be halved, and reach both ends
    sizes = {variants.random_size(96, 0.5, torch_rng(i)) for i in range(100)}
    assert sizes == {48, 64, 80, 96} and variants.random_size(50, 1.0, torch_rng(0)) == 50


def test_a_renewed_surrogate_is_what_it_was_at_first_and_remembers_no_step():
    game, step = new_game(surrogate="unet", renew=2)
    first = deepcopy(game.bare("surrogate").state_dict())
    assert largest_changes(game, step, "surrogate")[1]["surrogate"] > 0
    game.renew()
    assert all(torch.equal(first[key], now) for key, now in game.bare("surrogate").state_dict().items())
    assert not game.state()["optimisers"]["surrogate"]["state"]


class Pairs(list):
    """Pairs that note in a file what is read, as each process has its own copy; after so many reads they act."""

    def __init__(self, path, reads=10**9, act=interrupt):
        super().__init__(pairs())
        self.path, self.reads, self.act = path, reads, act

    def __getitem__(self, i):
        with open(self.path, "a") as file:
            file.write(f"{i}\n")
        if self.read() > self.reads:
            self.act()
        return super().__getitem__(i)

    def read(self):
        return len(self.path.read_text().split())


@pytest.mark.parametrize("older", [False, True])
def test_a_killed_run_continues_from_its_checkpoint_to_the_same_bytes(tmp_path, older):
    config, how, out = BilevelConfig(**TINY), {"device": "cpu", "checkpoint_every": 2}, tmp_path / "killed"
    whole = train_generator(config, pairs(), tmp_path / "whole", **how)
    with pytest.raises(KeyboardInterrupt):  # in step 5; two pairs are read for the note, and two in a step
        train_generator(config, Pairs(tmp_path / "first", 2 + 2 * 5), out, **how)
    assert not (out / "generator.safetensors").exists() and step_of(out) == 4
    note = read_json(out / "training.json")
    assert set(method.LATER) < set(note)
    if older:  # what an older version began is continued, but not with another seed
        write_json(out / "training.json", {key: value for key, value in note.items() if key not in method.LATER})
    with pytest.raises(UnsegError, match=r"same training, found another one in .* \(seed 42 there, 1 asked\)"):
        train_generator(BilevelConfig(**TINY | dict(seed=1)), pairs(), out, **how)
    resumed = train_generator(config, Pairs(tmp_path / "second", 2 + 2 * 2), out, **how)
    assert whole.read_bytes() == resumed.read_bytes()
    assert read_csv(tmp_path / "whole/log.csv") == read_csv(out / "log.csv")
    assert not list(out.glob("checkpoint*"))


SCRIPT = f"""
import sys, unseg_lib; sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_bilevel as t
t.train_generator(t.BilevelConfig(**t.TINY), t.pairs(), "script", device="cpu", devices=2)
"""


def step_of(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)["step"] if (out / "checkpoint.pt").exists() else 0


def forked(function, *arguments, **more):
    """A process that need not import everything again."""
    process = multiprocessing.get_context("fork").Process(target=function, args=arguments, kwargs=more)
    process.start()
    return process


def run_script(path):
    """What Python does to a script in a file."""
    del sys.ps1, os.environ["SLURM_NTASKS"]
    sys.argv = [str(path)]
    os.chdir(path.parent)
    runpy.run_path(str(path), run_name="__main__")


def killed_in_step(step, out):
    """Kill a notebook with -9 in the middle of its training; the processes that it has started."""
    given = BilevelConfig(**TINY), Pairs(out.with_suffix(".read"), 2 + 2 * 2 * step, partial(time.sleep, 600)), out
    killed = forked(train_generator, *given, device="cpu", checkpoint_every=1, devices=2)
    wait(lambda: step_of(out) >= step or not killed.is_alive(), 240)
    others = psutil.Process(killed.pid).children(recursive=True)
    killed.kill()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL and step_of(out) == step
    return others


@pytest.fixture
def notebook(monkeypatch):
    """What IPython and Slurm do to a notebook, whose processes start at once: they need not import everything again.

    The notebook test of 01b starts them as users do; so does this where CUDA is, because autograd refuses to fork then.
    """
    start = partial(multiprocessing.start_processes, start_method="spawn" if torch.cuda.is_available() else "fork")
    monkeypatch.setattr(multiprocessing, "start_processes", start)
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "1")
    monkeypatch.setenv("UNSEG_BATCH", "1")  # lines, not a bar, even where another test has loaded ipykernel


def test_two_processes_train_one_generator_from_a_script_or_a_dying_notebook(tmp_path, notebook, capfd):
    out, noting = tmp_path / "notebook", Pairs(tmp_path / "read.txt")
    # Lightning starts the file of a script again
    (tmp_path / "two.py").write_text(SCRIPT)
    script = forked(run_script, tmp_path / "two.py")
    script.join(240)
    assert script.exitcode == 0
    # and those of a notebook die with it
    others = killed_in_step(3, out)
    assert len(others) >= 2 and not psutil.wait_procs(others, timeout=10)[1]
    capfd.readouterr()
    path = train_generator(BilevelConfig(**TINY), noting, out, device="cpu", devices=2)
    said = capfd.readouterr().err
    assert noting.read() == 2 + 2 * 2 * 3  # here for the note, and by both in the three steps that were left
    assert said.count("generator: 6/6") == 1 and "distributed_backend" not in said  # shown, and once
    assert {file.name for file in out.iterdir()} == {path.name, "log.csv", "speed.json", "training.json"}
    for folder in (out, tmp_path / "script"):
        assert [int(row["step"]) for row in read_csv(folder / "log.csv")] == list(range(6))
    one, two = (method.load_generator(file).state_dict() for file in (path, tmp_path / "script/generator.safetensors"))
    assert all(torch.allclose(one[key], two[key], atol=1e-3) for key in one)  # others may use other threads


def test_an_error_of_several_processes_is_one_sentence_in_the_notebook(tmp_path, notebook):
    with pytest.raises(UnsegError, match=r"^Expected a finite loss and gradient[^\n]*full precision\.$"):
        train_generator(BilevelConfig(**TINY | DIVERGING), pairs(), tmp_path, device="cpu", devices=2)


def test_pairs_that_no_other_process_can_read_are_refused_before_one_is_started(tmp_path, notebook):
    class Mine(list):
        pass

    with pytest.raises(UnsegError, match="put their class into a file"):
        train_generator(BilevelConfig(**TINY), Mine(pairs()), tmp_path, device="cpu", devices=2)


def test_a_folder_belongs_to_one_way_of_training_on_one_set_and_is_trained_in_once(tmp_path, bf16_everywhere):
    config, how = BilevelConfig(**TINY | dict(steps=2)), {"device": "cpu", "precision": "bf16-mixed"}
    path = train_generator(config, pairs(), tmp_path, **how)
    stamp = path.stat().st_mtime_ns
    assert train_generator(config, pairs(), tmp_path, **how).stat().st_mtime_ns == stamp
    pixel, shape = pairs(), [(image[:, :20], mask[:, :20]) for image, mask in pairs()]
    pixel[-1][0][0, 0] ^= 1  # of the last image
    for changed in (pixel, shape):
        with pytest.raises(UnsegError, match=r"\(data "):
            train_generator(config, changed, tmp_path, **how)
    for way in ({"devices": 2}, {"precision": "32-true"}, {"fast": True}):
        with pytest.raises(UnsegError, match=rf"\({next(iter(way))} "):
            train_generator(config, pairs(), tmp_path, **how | way)


def test_bf16_that_the_device_has_not_is_noted_as_what_it_became(tmp_path, monkeypatch):
    monkeypatch.setattr("unseg_lib.runtime.has_bf16", lambda device: False)
    train_generator(BilevelConfig(**TINY | dict(steps=1)), pairs(), tmp_path, device="cpu", precision="bf16-mixed")
    assert read_json(tmp_path / "training.json")["precision"] == "32-true"


def test_wrong_settings_are_refused():
    wrong = {"did you mean 'vit_b'": dict(layout="vitb"), "Expected target to be one of ones, true": dict(target="all")}
    wrong |= {"train_eps_bg <= train_eps": dict(train_eps=1.0, train_eps_bg=2.0), "at least 1": dict(batch_size=0)}
    unknown = dict(surrogate="unett", mae_weights="x.pth")
    wrong |= {"did you mean 'unet'": unknown, "no mae_weights": dict(surrogate="unet+lite0", mae_weights="x.pth")}
    wrong |= {"odd window": dict(mean_free=4), "smallest = 1 with the surrogate 'sam'": dict(smallest=0.5)}
    for message, settings in wrong.items():
        with pytest.raises(UnsegError, match=message):
            BilevelConfig(**settings)


def test_too_few_images_wrong_masks_and_a_loss_that_is_not_finite(tmp_path):
    wrong = {"at least 2 images": (pairs(1), {}), "Expected mask": ([(image, mask[:5]) for image, mask in pairs()], {})}
    wrong[r"finite loss and gradient.*at step \d.*phase"] = pairs(), DIVERGING
    for i, (message, (given, settings)) in enumerate(wrong.items()):
        with pytest.raises(UnsegError, match=message):
            train_generator(BilevelConfig(**TINY | settings), given, tmp_path / str(i), device="cpu")


def test_looking_at_the_surrogate_after_every_epoch_changes_no_byte_and_goes_on_after_a_kill(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSEG_DATA", str(tmp_path))
    for i, (image, mask) in enumerate(pairs(15)):
        write_image(tmp_path / f"val/im/{i}.png", image)
        write_image(tmp_path / f"val/gt/{i}.png", 255 * np.repeat(mask[..., None], 3, 2).astype(np.uint8))
    how, plain = {"device": "cpu", "checkpoint_every": 2}, BilevelConfig(**TINY | {"steps": 7})  # epochs of 3 steps
    looking = replace(plain, validation="folder:val")
    bare, seen = (
        train_generator(one, pairs(), tmp_path / name, **how) for name, one in {"a": plain, "b": looking}.items()
    )
    assert bare.read_bytes() == seen.read_bytes() and not (bare.parent / "validation.csv").exists()
    assert read_csv(bare.parent / "log.csv") == read_csv(seen.parent / "log.csv")
    rows = read_csv(seen.parent / "validation.csv")
    assert [(row["step"], row["set"], row["images"]) for row in rows] == [(s, "folder:val", "3") for s in "256"]
    assert all(0 <= float(row[name]) <= 1 for row in rows for name in ("iou", "boundary_iou"))
    with pytest.raises(KeyboardInterrupt):
        train_generator(looking, Pairs(tmp_path / "first", 2 + 2 * 5), tmp_path / "killed", **how)
    train_generator(looking, pairs(), tmp_path / "killed", **how)
    assert read_csv(tmp_path / "killed/validation.csv") == rows
    with pytest.raises(UnsegError, match="nowhere"):
        train_generator(replace(plain, validation="folder:nowhere"), pairs(), tmp_path / "other", **how)


class Answers(torch.nn.Module):
    """A player that notes what it is asked, and gives `answer(prompts)`."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.asked, self.size, self.grid = answer, [], 32, 8

    def forward(self, x, prompts):
        self.asked.append((x, prompts))
        return self.answer(prompts)


def left_half(prompts):
    (left, top, right, bottom), y = prompts.boxes[0].int().tolist(), -torch.ones(1, 1, 32, 32)
    y[..., top : bottom + 1, left : (left + right + 1) // 2] = 1
    return y


def test_the_surrogate_is_asked_by_the_box_about_images_with_the_trainings_noise(tmp_path):
    label = np.zeros((32, 32), np.uint8)
    label[8:24, 8:24] = 1
    source = SimpleNamespace(ids=("one", "none"), name="toy", image=lambda id: np.full((32, 32, 3), 100, np.uint8))
    source.label = lambda id: label * (id == "one")
    players = {"generator": Answers(lambda _: torch.ones(1, 3, 8, 8)), "surrogate": Answers(left_half)}
    validation = Validation(BilevelConfig(**TINY), bilevel.noised, tmp_path)
    given = source, SimpleNamespace(bare=players.__getitem__), Fabric(accelerator="cpu")
    assert validation.scores(given[0], 1, *given[1:]) is None  # no object: nothing to ask for
    iou, border = validation.scores(given[0], 0, *given[1:])
    # borders are 1 pixel wide: 44 of the answer's 16 x 8 and 60 of the mask's 16 x 16, 30 of them in common
    assert (iou, border) == (0.5, 30 / (44 + 60 - 30))
    ((_, shown),), ((x, asked),) = (player.asked for player in players.values())
    assert shown.use.tolist() == [[False, False, True]] and asked.use.tolist() == [[True, False, False]]
    assert set(shown.masks.unique().tolist()) == {0, 255} and asked.boxes.tolist() == [[8, 8, 23, 23]]
    steps = torch.where(torch.from_numpy(label == 1), 8.0, 2.0)
    torch.testing.assert_close(255 * x[0], (100 + steps).expand(3, -1, -1), atol=1e-3, rtol=0)
