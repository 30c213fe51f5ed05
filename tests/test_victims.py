"""Victims through `train_victim`: training, resume, refusals; of every family that learns label maps."""

import random
from dataclasses import replace
from functools import partial
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from toy_instances import MASK2FORMER, SAM_HQ
from toy_set import HOW, SMALL_MMSEG, VICTIM, boxes, interrupted_after_saving, only_on_a_cpu

from unseg_lib import UnsegError
from unseg_lib.files import read_json
from unseg_lib.images import write_image
from unseg_lib.victims import VICTIMS, Victim, deeplabv1, mixed, train_victim, training

DEEPLAB, JSON = "deeplabv1:wideresnet38-tiny", ("result", "speed", "training")
CASES = {
    "smp": (VICTIM, {}),
    "deeplabv1": (DEEPLAB, {"lr": 0.02}),
    "deeplabv1, weights of a file": (DEEPLAB, {"lr": 1e-3, "init": "e.pth"}),
    "deeplabv3": ("deeplabv3:tiny", {"lr": 0.01}),
    "mmseg": (SMALL_MMSEG, {"lr": 0.01}),
}


@pytest.fixture(scope="module", params=CASES)
def trained(request, sets, tmp_path_factory):
    """One uninterrupted training of each: the call, its folder and result."""
    (victim, how), out = CASES[request.param], tmp_path_factory.mktemp("trained")
    if request.param == "mmseg":
        only_on_a_cpu()
    if "init" in how:
        how = how | {"init": str(out.with_name("e.pth"))}
        torch.save(deeplabv1.build("wideresnet38-tiny", 2, "random", 7).encoder.state_dict(), how["init"])
    train = partial(train_victim, victim, **(HOW | how))
    return train, out, train(*sets, out)


@pytest.mark.parametrize(
    ("victim", "how"),
    [
        (VICTIM, {"epochs": 6, "lr": 5e-3}),
        (f"{DEEPLAB} label_padding=ignore", {"epochs": 12, "lr": 0.1, "batch_size": 3}),
    ],
)
def test_a_victim_learns_boxes(sets, tmp_path, victim, how):
    result = train_victim(victim, *sets, tmp_path, **(HOW | how))
    assert result["peak"]["iou"][1] > (0.5 if victim == VICTIM else 0.3)
    assert result["epochs"][-1]["loss"] < (0.7 if victim == VICTIM else 0.8) * result["epochs"][0]["loss"]


def test_result_and_files(sets, trained):
    _, out, result = trained
    assert result["classes"] == ["background", "object"] and result["device"] == "cpu" and result["minutes"] > 0
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2]
    for epoch in result["epochs"]:
        assert set(epoch) == {"epoch", "loss", "miou", "iou"} and epoch["loss"] > 0
        assert epoch["miou"] == pytest.approx(sum(epoch["iou"]) / 2)
    assert result["final"] == {name: result["epochs"][-1][name] for name in ("miou", "iou")}
    assert result["peak"]["miou"] == max(epoch["miou"] for epoch in result["epochs"])
    assert result["peak"]["iou"][1] == max(epoch["iou"][1] for epoch in result["epochs"])
    assert {file.name for file in out.iterdir()} == {"predictions.npz", *(f"{name}.json" for name in JSON)}
    _, speed, note = (read_json(out / f"{name}.json") for name in JSON)
    assert speed["samples_per_second"] > 0 and 0 < speed["share_waiting"] < 1
    assert str(sets[0].root) not in str(note) and str(out.parent) not in str(note)
    assert note["init"] == "random" or (note["init"].startswith("e.pth ") and len(note["init"]) == 6 + 64)
    shown = np.load(out / "predictions.npz")
    assert shown["image"].shape == (4, 32, 32, 3) and shown["image"].dtype == np.uint8
    assert shown["truth"].shape == shown["prediction"].shape == (4, 32, 32)
    assert set(np.unique(shown["prediction"])) <= {0, 1}


def test_the_score_is_that_of_the_saved_predictions(sets, tmp_path):
    """Four test images are all shown, so their predictions must give the last epoch's score."""
    test = replace(sets[1], ids=sets[1].ids[:4])
    result = train_victim(VICTIM, sets[0], test, tmp_path, **HOW)
    shown = np.load(tmp_path / "predictions.npz")
    seen = shown["truth"] != 255
    for c in (0, 1):
        truth, prediction = (shown[name][seen] == c for name in ("truth", "prediction"))
        assert result["final"]["iou"][c] == pytest.approx((truth & prediction).sum() / (truth | prediction).sum())


def global_state() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_killed_after_an_epoch_it_ends_with_the_same_numbers(sets, trained, tmp_path, monkeypatch):
    """All state goes through the checkpoint's file; nothing of the first half is left in the second."""
    train, out, expected = trained
    with interrupted_after_saving(monkeypatch):
        train(*sets, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "result.json").exists()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = global_state()
    assert train(*sets, tmp_path)["epochs"] == expected["epochs"]  # bit for bit
    assert (tmp_path / "predictions.npz").read_bytes() == (out / "predictions.npz").read_bytes()
    assert not (tmp_path / "checkpoint.pt").exists()
    # global randomness is neither used nor left changed
    assert global_state() == before


def test_the_same_call_returns_the_stored_result(sets, trained, tmp_path, monkeypatch):
    train, out, result = trained
    for name in VICTIMS:
        monkeypatch.setitem(VICTIMS, name, Victim(lambda run: pytest.fail("trained again"), files=True))
    assert train(*sets, out) == result == read_json(out / "result.json")
    # another data set with the same bytes is the same, one of other bytes is refused, as is another victim
    assert train(boxes(tmp_path / "moved", "train", 9), sets[1], out) == result
    with pytest.raises(UnsegError, match=r"train .* asked"):
        train(boxes(tmp_path / "poisoned", "train", 9, dim=1), sets[1], out)
    with pytest.raises(UnsegError, match=r"victim .* there"):
        train_victim(f"{train.args[0]} weight_decay=meant", *sets, out, **train.keywords)
    for name, value in {"seed": 1, "epochs": 3, "size": (64, 32), "lr": 5e-4}.items():
        with pytest.raises(UnsegError, match=f"{name} .* there, .* asked"):
            train(*sets, out, **{name: value})


def test_a_victim_from_outside_works_everywhere(sets, tmp_path, monkeypatch):
    """A toy family: one convolution, trained by the ordinary loop; only changes of images, only objects."""
    assert all(victim.words and callable(resolve_name(victim.train)) for victim in VICTIMS.values())
    before, used = torch.get_num_threads(), []

    class Convolution(torch.nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            used.append(torch.get_num_threads())
            return super().forward(x)

    def train(run) -> dict:
        assert run.name == "narrow width=3"
        return training.fit(run, Convolution(3, len(run.train.classes), 3, padding=1))

    monkeypatch.setitem(VICTIMS, "toy", Victim(train, tasks=("object",), defenses=(), words="one convolution"))
    call = {"victim": "toy:narrow width=3", "out": tmp_path / "out", "task": "object"} | HOW
    result = train_victim(**call, train=sets[0], test=sets[1], defense="jpeg", threads=before + 1)
    assert len(result["epochs"]) == 2 and result["precision"] == "32"
    assert set(used) == {before + 1} and torch.get_num_threads() == before
    for change, words in (
        ({"task": "panoptic"}, "found one of toy, which can only object"),
        ({"defense": "ddc_at"}, "only changes images for a victim of toy"),
        ({"init": str(tmp_path)}, "random, imagenet for a victim of toy"),
        ({"victim": "toi:x"}, "did you mean 'toy'"),
    ):
        with pytest.raises(UnsegError, match=words):
            train_victim(**(call | change), train=sets[0], test=sets[1])


def test_tiny_and_ignored(tmp_path):
    """One training image whose pixels are all ignored: nothing to learn, nothing to crash on."""
    one = boxes(tmp_path, "train", 1)
    ignored = replace(one, read_label=lambda name: np.full((32, 48), 255, np.uint8))
    result = train_victim(VICTIM, ignored, one, tmp_path / "out", **(HOW | {"epochs": 1}))
    assert result["epochs"][0]["loss"] == 0


@pytest.mark.parametrize(("victim", "lr"), [(VICTIM, float("inf")), (SMALL_MMSEG, 1e30)])
def test_a_loss_that_is_not_finite_stops_with_one_sentence(sets, tmp_path, victim, lr):
    with pytest.raises(UnsegError, match=r"^Expected a finite loss, found nan in epoch 1, step 2 .*lower lr"):
        train_victim(victim, *sets, tmp_path, **(HOW | {"lr": lr}))
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs above 0"),
        ({"batch_size": 1}, "at least 2"),
        ({"init": "sam"}, "random, imagenet"),
        ({"precision": "16"}, "32, bf16"),
        ({"device": "tpu"}, "auto, .*cpu"),
        ({"defense": "blur"}, "'blur'"),
        ({"clean_fraction": 0.5}, "clean"),
        ({"size": (0, 32)}, "height above 0"),
        ({"classes": ("a", "b", "c")}, "one list of classes"),
        ({"victim": SMALL_MMSEG, "precision": "bf16"}, "only on a GPU"),
        ({"victim": "mmseg:any", "defense": "pgd_at"}, "only changes images .* found 'pgd_at'"),
        ({"victim": DEEPLAB, "task": "instance"}, "found one of deeplabv1, which can only semantic, object"),
        ({"victim": "deeplabv1:wideresnet39"}, "did you mean 'wideresnet38'"),
        ({"victim": f"{DEEPLAB} label_paddin=ignore"}, "did you mean 'label_padding'"),
        ({"victim": f"{DEEPLAB} label_padding=ignored"}, "Unknown label_padding .* 'ignored'; did you mean 'ignore'"),
        ({"victim": f"{DEEPLAB} weight_decay=1e-4"}, "Unknown weight_decay of DeepLabV1 '1e-4'"),
        ({"victim": f"{DEEPLAB} label_padding="}, "Expected a text for label_padding"),
        ({"victim": "unett-resnet18"}, "'unett'; did you mean 'unet'"),
        ({"victim": "unet-resnet19"}, "'resnet19'; did you mean 'resnet18'"),
        ({"victim": "unetplusplus-tu-res2net50_26w_4"}, "did you mean 'tu-res2net50_26w_4s'"),
        ({"victim": "unet"}, "encoder .* ''; "),
        ({"victim": "smpp:unet-resnet18"}, "did you mean 'smp'"),
        ({"victim": "unetplusplus-mit_b0"}, "cannot use this encoder"),
    ],
)
def test_settings_and_names_are_checked(sets, tmp_path, change, words):
    call = {"victim": VICTIM, **HOW, **change}
    test = replace(sets[1], classes=call.pop("classes", sets[1].classes))
    with pytest.raises(UnsegError, match=words):
        train_victim(train=sets[0], test=test, out=tmp_path / "out", **call)
    assert not (tmp_path / "out" / "checkpoint.pt").exists()
    assert not (tmp_path / "out").exists() or "victim" in change


def test_the_clean_part_alone_is_that_of_the_mixture(sets, tmp_path):
    mixture = mixed(sets[0], sets[0], 0.5, 0)
    alone = mixed(sets[0], sets[0], 0.5, 0, clean_only=True)
    assert len(mixture) == 9 and len(alone) == 4 and set(alone.ids) < set(mixture.ids)
    assert mixed(sets[0], sets[0], 0, 0, clean_only=True) is sets[0]
    how = HOW | {"epochs": 1, "clean": sets[0], "clean_only": True}
    train_victim(VICTIM, *sets, tmp_path / "half", **how, clean_fraction=0.5)
    assert read_json(tmp_path / "half" / "training.json")["train"]["images"] == 4
    with pytest.raises(UnsegError, match="found 0 for training"):
        train_victim(VICTIM, *sets, tmp_path / "none", **how, clean_fraction=0.01)


@pytest.mark.parametrize("victim", [VICTIM, DEEPLAB])
def test_bf16(sets, tmp_path, bf16_everywhere, victim):
    result = train_victim(victim, *sets, tmp_path, **(HOW | {"epochs": 1, "precision": "bf16"}))
    assert 0 < result["epochs"][0]["loss"] < 5


def test_a_corrupt_image_and_a_mask_of_another_size_are_one_sentence(tmp_path):
    train, test = boxes(tmp_path, "train", 3), boxes(tmp_path, "test", 2)
    image = tmp_path / "im" / "train1.png"
    image.write_bytes(b"no image")
    with pytest.raises(UnsegError, match=r"train1\.png"):
        train_victim(VICTIM, train, test, tmp_path / "out", **HOW)
    write_image(image, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UnsegError, match="train1"):
        train_victim(VICTIM, train, test, tmp_path / "other", **HOW)


@pytest.mark.real
@pytest.mark.parametrize(
    ("victim", "name", "test", "task", "scores"),
    [
        ("unet-resnet18", "lung", "test", "", {"miou"}),
        (DEEPLAB, "voc", "val", "", {"miou"}),
        ("deeplabv3:tiny", "voc", "val", "", {"miou"}),
        (MASK2FORMER, "nwpu", "val", "instance", {"AP"}),
        (SAM_HQ, "folder:interactive/davis+interactive/ccp", "test", "object", {"biou", "biou:interactive-ccp"}),
    ],
)
def test_one_step_on_real_images(data_root, tmp_path, victim, name, test, task, scores):
    from unseg_lib.datasets import load_dataset

    interactive = task == "object"
    reading = {"task": task} if interactive else {}
    two = (load_dataset(name, data_root, split, limit=limit, **reading) for split, limit in (("train", 8), (test, 4)))
    how = {"size": (96, 96), "epochs": 1, "batch_size": 8, "task": "interactive" if interactive else task}
    result = train_victim(victim, *two, tmp_path, **(HOW | how))
    assert len(result["epochs"]) == 1 and result["epochs"][0]["loss"] > 0
    assert all(0 <= result["final"][name] <= 1 for name in scores)
