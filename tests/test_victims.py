"""Victims through `train_victim`, of every family: results, resume, learning, refusals."""

import random
from dataclasses import replace
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
import toys
from toys import CLASSES, DINO, HOW, MASK2FORMER, RSPROMPTER, SAM_HQ, SMALL_MMSEG, VICTIM, boxes, shapes

from unseg_lib import UnsegError
from unseg_lib.evaluation import curves
from unseg_lib.files import read_json
from unseg_lib.images import write_image
from unseg_lib.victims import VICTIMS, Victim, deeplabv1, mixed, train_victim, training

DEEPLAB, CONFIG = "deeplabv1:wideresnet38-tiny", DINO.split()[0]
MANY = {"size": (32, 48), "batch_size": 3, "lr": 1e-3}  # for sets of several things in an image
# victim, how it is trained, and scores that it must have
RUNS = {
    "smp": (VICTIM, {}, "miou iou"),
    "deeplabv1": (DEEPLAB, {"lr": 0.02}, "miou iou"),
    "deeplabv1, weights of a file": (DEEPLAB, {"lr": 1e-3, "init": "e.pth"}, "miou iou"),
    "deeplabv3": ("deeplabv3:tiny", {"lr": 0.01}, "miou iou"),
    "mmseg": (SMALL_MMSEG, {"lr": 0.01}, "miou iou"),
    "interactive": (SAM_HQ, {"task": "interactive", "batch_size": 3, "lr": 1e-3}, "miou_pictures biou"),
    "semantic": (MASK2FORMER, MANY | {"task": "semantic"}, "miou iou"),
    "instance": (MASK2FORMER, MANY | {"task": "instance"}, "AP AP50 APs"),
    "panoptic": (MASK2FORMER, MANY | {"task": "panoptic"}, "PQ SQ RQ PQ_things PQ_stuff AP_pan mIoU_pan"),
    "instance on SAM": (RSPROMPTER, MANY | {"task": "instance"}, "AP AP50 APs AP:box"),
    "detection": (DINO, MANY | {"task": "detection", "size": (48, 48)}, "AP AP50 APs AP:box"),
}
TASKS = {"mask2former": "instance", "rsprompter": "instance", "sam-hq": "interactive", "dino": "detection"}


def is_flat(run: str) -> bool:
    """Whether a run is on images of one object, not of several things."""
    return RUNS[run][1].get("task", "interactive") == "interactive"


@pytest.fixture(scope="module")
def sets_of(sets, shaped):
    """A run's sets, with four test images, all of which are shown."""
    flat = sets[0], replace(sets[1], ids=sets[1].ids[:4])
    return lambda run: flat if is_flat(run) else shaped


@pytest.fixture(scope="module")
def train(sets_of, tmp_path_factory):
    weights = tmp_path_factory.mktemp("weights") / "e.pth"
    torch.save(deeplabv1.build("wideresnet38-tiny", 2, "random", 7).encoder.state_dict(), weights)

    def train(run: str, out, train=None, more="", **changes) -> dict:
        victim, how, _ = RUNS[run]
        if victim in (SMALL_MMSEG, DINO):
            toys.only_on_a_cpu()
        how = HOW | how | changes | ({"init": str(weights)} if "init" in how else {})
        return train_victim(victim + more, train or sets_of(run)[0], sets_of(run)[1], out, **how)

    return train


@pytest.fixture(scope="module", params=RUNS)
def trained(request, train, tmp_path_factory):
    """One uninterrupted training of each: its name, folder and result."""
    out = tmp_path_factory.mktemp("trained")
    return request.param, out, train(request.param, out)


def by_name(scores: dict) -> dict[str, float | None]:
    """Scores of an epoch, of lists by their numbers."""
    scores = scores.get("scores") or {name: scores[name] for name in ("miou", "iou") if name in scores} or scores
    lists = {name: value if isinstance(value, list) else [value] for name, value in scores.items()}
    return {f"{name}{i}": value for name, values in lists.items() for i, value in enumerate(values)}


def test_results_and_files(trained, sets_of):
    run, out, result = trained
    _, how, scores = RUNS[run]
    how, labels, epochs = HOW | how, scores == "miou iou", result["epochs"]
    assert result["classes"] == list(sets_of(run)[0].classes) and result["device"] == "cpu" and result["minutes"] > 0
    assert [epoch["epoch"] for epoch in epochs] == [1, 2] and all(epoch["loss"] > 0 for epoch in epochs)
    assert all(set(epoch) == {"epoch", "loss"} | (set(scores.split()) if labels else {"scores"}) for epoch in epochs)
    # final and peak
    assert set(scores.split()) <= set(result["final"])
    each, final, peak = list(map(by_name, epochs)), by_name(result["final"]), by_name(result["peak"])
    assert final == each[-1] and all(value is None or 0 <= value <= 1 for value in final.values())
    for name, best in peak.items():
        values = [one[name] for one in each if one[name] is not None]
        assert best == max(values, default=None)
        assert labels or len(values) < 2 or curves(result, run)[name[:-1]] == [100 * value for value in values]
    assert not labels or result["final"]["miou"] == pytest.approx(np.mean(result["final"]["iou"]))
    # the folder
    assert sorted(f.name for f in out.iterdir()) == ["predictions.npz", "result.json", "speed.json", "training.json"]
    speed, note = (read_json(out / f"{name}.json") for name in ("speed", "training"))
    assert speed["samples_per_second"] > 0 and 0 < speed["share_waiting"] < 1
    assert str(sets_of(run)[0].root) not in str(note) and str(out.parent) not in str(note)
    assert note["init"] == "random" or (note["init"].startswith("e.pth ") and len(note["init"]) == 6 + 64)
    assert note.get("task", "") == ("" if labels else how["task"])
    seen = dict(np.load(out / "predictions.npz"))
    assert seen["image"].shape == (4, *how["size"], 3)
    assert seen["image"].dtype == seen["truth"].dtype == seen["prediction"].dtype == np.uint8
    assert all(seen[name].shape == (4, *how["size"]) for name in seen if name not in ("image", "box"))
    assert ("truth_segments" in seen) == ("prediction_segments" in seen) == ("iou" not in scores)


def global_state() -> tuple:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


def test_killed_after_an_epoch_it_ends_with_the_same_numbers(trained, train, tmp_path, monkeypatch):
    """All state goes through the checkpoint's file; nothing of the first half is left in the second."""
    run, out, expected = trained
    with toys.interrupted_after_saving(monkeypatch):
        train(run, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "result.json").exists()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = global_state()
    assert train(run, tmp_path)["epochs"] == expected["epochs"]  # bit for bit
    assert (tmp_path / "predictions.npz").read_bytes() == (out / "predictions.npz").read_bytes()
    assert not (tmp_path / "checkpoint.pt").exists()
    # global randomness is neither used nor left changed
    assert global_state() == before


def test_predictions_are_what_is_scored_and_segments_have_one_class(trained, shaped):
    """All four test images are shown, so their predictions must give the last epoch's score."""
    run, out, result = trained
    seen = np.load(out / "predictions.npz")
    truth, test = seen["truth"], shaped[1]
    if run in ("smp", "semantic"):
        for c, score in enumerate(result["final"]["iou"]):
            true, found = truth == c, (seen["prediction"] == c) & (truth != 255)
            assert score == pytest.approx((true & found).sum() / (true | found).sum())
    elif run == "interactive":
        for mask, box in zip(truth == 1, seen["box"]):
            edges = [side for axis in (0, 1) for side in np.flatnonzero(mask.any(axis=axis))[[0, -1]]]
            assert np.abs(np.array(edges)[[0, 2, 1, 3]] - box).max() <= 1  # pixels: the mask was scaled, too
    elif "truth_segments" in seen:
        numbers = seen["truth_segments"]
        assert np.array_equal(numbers == 0, truth == 255)  # no background there
        for image, id in enumerate(test.ids):
            for number in range(1, numbers[image].max() + 1):
                assert len(np.unique(truth[image][numbers[image] == number])) == 1
            things = test.instances(id)
            assert run == "panoptic" or numbers[image].max() == len(things)
            for rows, columns in (np.nonzero(one.mask) for one in things if run == "detection"):
                row, column = ((side.min() + side.max() + 1) / 2 for side in (rows, columns))
                assert numbers[image][int(row), int(column * 48 / 64)] > 0  # the middle of its box


def test_the_same_call_returns_the_stored_result(trained, train, tmp_path, monkeypatch):
    run, out, result = trained
    for name, victim in VICTIMS.items():
        again = Victim(lambda run: pytest.fail("trained again"), victim.tasks, files=True)
        monkeypatch.setitem(VICTIMS, name, again)
    assert train(run, out) == result == read_json(out / "result.json")
    # another data set with the same bytes is the same; another one, another victim or setting is refused
    make, count = (boxes, 9) if is_flat(run) else (shapes, 7)
    assert train(run, out, make(tmp_path / "moved", "train", count)) == result
    with pytest.raises(UnsegError, match=r"train .* asked"):
        train(run, out, make(tmp_path / "poisoned", "train", count, dim=1))
    with pytest.raises(UnsegError, match=r"victim .* there"):
        train(run, out, more=" weight_decay=meant")
    others = [("seed", 1), ("epochs", 3), ("size", (64, 32)), ("lr", 5e-4)]
    for name, value in others + [("task", task) for task in ("panoptic", "semantic") if run == "instance"]:
        with pytest.raises(UnsegError, match=f"{name} .* there, .* asked"):
            train(run, out, **{name: value})


QUICK = {"batch_size": 4, "lr": 3e-3}
LEARNING = [
    (VICTIM, {"epochs": 6, "lr": 5e-3}, "iou", 0.5, 0.7),
    (f"{DEEPLAB} label_padding=ignore", {"epochs": 12, "lr": 0.1, "batch_size": 3}, "iou", 0.3, 0.8),
    ("rsprompter:tiny points=256", QUICK | {"task": "instance", "size": (48, 64), "epochs": 6}, "AP50", 0.1, 0.7),
    (SAM_HQ, QUICK | {"task": "interactive", "epochs": 12}, "miou_pictures", 0.6, 0.7),
]


@pytest.mark.parametrize(("victim", "how", "score", "enough", "share"), LEARNING)
def test_it_learns_the_toy_sets(tmp_path, victim, how, score, enough, share):
    make, count = (shapes, 24) if victim.startswith("rsprompter") else (boxes, 9)
    sets = make(tmp_path, "train", count), make(tmp_path, "test", 8)
    result = train_victim(victim, *sets, tmp_path / "out", **(HOW | how))
    assert np.ravel(result["peak"][score])[-1] > enough
    assert result["epochs"][-1]["loss"] < share * result["epochs"][0]["loss"]


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


REACHING = [("instance", "jpeg quality=30+ueraser+frozen_encoder"), ("interactive", "gaussian_blur")]


@pytest.mark.parametrize(("run", "defense"), [*REACHING, ("interactive", "sharpen_frequency")])
def test_defences_of_images_batches_and_models_reach_it(train, tmp_path, run, defense):
    names = "none", defense
    losses = [train(run, tmp_path / name, epochs=1, defense=name)["epochs"][0]["loss"] for name in names]
    assert np.isfinite(losses).all() and losses[0] != losses[1]


# what is refused


@pytest.mark.parametrize(("victim", "lr"), [(VICTIM, float("inf")), (SMALL_MMSEG, 1e30)])
def test_a_loss_that_is_not_finite_stops_with_one_sentence(sets, tmp_path, victim, lr):
    with pytest.raises(UnsegError, match=r"^Expected a finite loss, found nan in epoch 1, step 2 .*lower lr"):
        train_victim(victim, *sets, tmp_path, **(HOW | {"lr": lr}))
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "checkpoint.pt").exists()


def test_a_corrupt_image_and_a_mask_of_another_size_are_one_sentence(tmp_path):
    train, test = boxes(tmp_path, "train", 3), boxes(tmp_path, "test", 2)
    image = tmp_path / "im" / "train1.png"
    image.write_bytes(b"no image")
    with pytest.raises(UnsegError, match=r"train1\.png"):
        train_victim(VICTIM, train, test, tmp_path / "out", **HOW)
    write_image(image, np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(UnsegError, match="train1"):
        train_victim(VICTIM, train, test, tmp_path / "other", **HOW)


# how options are read is tested with the defences, whose reader is the same
REFUSED = [
    (VICTIM, {"epochs": 0}, "epochs above 0"),
    (VICTIM, {"batch_size": 1}, "at least 2"),
    (VICTIM, {"init": "sam"}, "random, imagenet for a victim of smp, found 'sam'"),
    (VICTIM, {"precision": "16"}, "32, bf16"),
    (VICTIM, {"device": "tpu"}, "auto, .*cpu"),
    (VICTIM, {"defense": "blur"}, "'blur'"),
    (VICTIM, {"clean_fraction": 0.5}, "clean"),
    (VICTIM, {"size": (0, 32)}, "height above 0"),
    (VICTIM, {"task": "instance"}, "^Expected a victim of mask2former.* for instance, found one of smp, which"),
    (VICTIM, {"task": "interactive"}, "victim of sam-hq for interactive, found one of smp"),
    ("unett-resnet18", {}, "'unett'; did you mean 'unet'"),
    ("unet-resnet19", {}, "'resnet19'; did you mean 'resnet18'"),
    ("unetplusplus-tu-res2net50_26w_4", {}, "did you mean 'tu-res2net50_26w_4s'"),
    ("unet", {}, "encoder .* ''; "),
    ("smpp:unet-resnet18", {}, "did you mean 'smp'"),
    ("unetplusplus-resnet18", {"size": (30, 32)}, "found 30x32"),
    ("unetplusplus-mit_b0", {}, "cannot use this encoder"),
    (SMALL_MMSEG, {"precision": "bf16"}, "only on a GPU"),
    ("mmseg:any", {"defense": "pgd_at"}, "only changes images .* found 'pgd_at'"),
    ("mmseg:any", {"task": "panoptic"}, "found one of mmseg"),
    (DEEPLAB, {"task": "instance"}, "found one of deeplabv1, which can only semantic, object"),
    ("deeplabv1:wideresnet39", {}, "did you mean 'wideresnet38'"),
    (f"{DEEPLAB} label_paddin=ignore", {}, "did you mean 'label_padding'"),
    (f"{DEEPLAB} label_padding=ignored", {}, "Unknown label_padding .* 'ignored'; did you mean 'ignore'"),
    (f"{DEEPLAB} weight_decay=1e-4", {}, "Unknown weight_decay of DeepLabV1 '1e-4'"),
    (f"{DEEPLAB} label_padding=", {}, "Expected a text for label_padding"),
    ("mask2former:resnet51", {}, "Unknown Mask2Former 'resnet51'; did you mean 'resnet50'"),
    ("mask2former:tiny backbone=5", {}, "Unknown option 'backbone'"),
    ("mask2former:tiny colour=no", {}, "Expected True or False for colour"),
    ("mask2former:tiny layers=0", {}, "layers of Mask2Former from 1, found 0"),
    ("mask2former:tiny width=40", {}, "found 40"),
    ("mask2former:tiny scale_low=3", {}, "scale_low <= scale_high, found 3 and 2"),
    ("mask2former:tiny overlap=2", {}, "overlap of Mask2Former from 0 to 1, found 2"),
    ("mask2former:tiny crop=0.0", {}, "crop of Mask2Former above 0 and to 1, found 0"),
    (MASK2FORMER, {"task": "instanc"}, "Unknown task 'instanc'.*did you mean 'instance'"),
    (MASK2FORMER, {"init": "missing.safetensors"}, "^Expected init to be one of random, imagenet, or a file"),
    (MASK2FORMER, {"defense": "pgd_at"}, "leaves the loss as it is for a victim of mask2former, found 'pgd_at'"),
    ("rsprompter:vit_x", {}, "Unknown RSPrompter 'vit_x'"),
    ("rsprompter:tiny width=18", {}, "width that 4 and heads=4 divide, found 18"),
    (RSPROMPTER, {"task": "panoptic"}, "^Expected a victim of mask2former for panoptic, .* only instance"),
    (RSPROMPTER, {"task": ""}, "^Expected a victim of smp or .* for label maps, found one of rsprompter"),
    (RSPROMPTER, {"init": "imagenet"}, "^Expected init=random or the path of SAM's checkpoint"),
    (RSPROMPTER, {"size": (32, 30)}, "^Expected a height and width that 4 divides for this SAM, found 32x30"),
    ("rsprompter:tiny fit=pad", {"size": (36, 36)}, "^Expected a height and width that 32 divides .* found 36x36"),
    ("rsprompter:tiny fit=lsj", {}, "Unknown fit of RSPrompter, .* 'lsj'"),
    ("sam-hq:huge", {}, "Unknown layout of SAM-HQ 'huge'"),
    ("sam-hq:tiny scale_low=3", {}, "scale_low <= scale_high, found 3 and 2"),
    ("sam-hq:tiny drop=0", {}, "drop above 0"),
    ("sam-hq:tiny points=0", {}, "points of SAM-HQ from 4"),
    (SAM_HQ, {"size": (32, 48)}, "Expected square images .* found 32x48"),
    ("sam-hq:vit_b", {"size": (100, 100)}, "side that 16 divides for sam-hq:vit_b"),
    (SAM_HQ, {"task": "semantic"}, "found one of sam-hq, which can only interactive"),
    (SAM_HQ, {"init": "imagenet"}, "file of SAM's weights"),
    (SAM_HQ, {"defense": "pgd_at"}, "only changes images for a victim of sam-hq"),
    (SAM_HQ, {"defense": "frozen_encoder"}, "only changes images for a victim of sam-hq"),
    (CONFIG + "a", {}, f"^Unknown mmdetection config .* did you mean '{CONFIG.removeprefix('dino:')}'"),
    (DINO, {"task": "instance"}, "^Expected a victim of mask2former or rsprompter for instance, found one of dino"),
    (DINO, {"defense": "frozen_encoder"}, "only changes images for a victim of dino"),
]


@pytest.mark.parametrize(("victim", "change", "words"), REFUSED)
def test_what_a_victim_cannot_is_refused_with_one_sentence(sets, shaped, tmp_path, victim, change, words):
    how = HOW | {"task": TASKS.get(victim.partition(":")[0], "")} | change
    two = shaped if how["task"] in ("instance", "panoptic", "detection") else sets
    with pytest.raises(UnsegError, match=words):
        train_victim(victim, *two, tmp_path / "out", **how)
    assert not (tmp_path / "out/result.json").exists() and not (tmp_path / "out/checkpoint.pt").exists()
    # settings are looked at before anything is written
    assert victim != VICTIM or not (tmp_path / "out").exists()


@pytest.mark.parametrize("victim", [VICTIM, MASK2FORMER, RSPROMPTER, SAM_HQ, DINO])
def test_sets_that_a_family_cannot_learn_from_are_refused(sets, shaped, tmp_path, victim):
    train, test = shaped
    cases = [((replace(train, classes=CLASSES[:3]), test), "^Expected one list of classes, found 3 for training")]
    if victim == SAM_HQ:
        empty = replace(sets[1], read_label=lambda id: np.zeros((32, 48), np.uint8))
        cases += [((train, test), r"one object against its background .* found 4 classes; load .* 'object'")]
        cases += [((sets[0], empty), "Expected an object in some images of boxes, split test")]
    elif victim != VICTIM:
        cases += [(sets, "^boxes has no instance masks")]
    how = HOW | {"task": TASKS.get(victim.partition(":")[0], "")}
    for number, (two, words) in enumerate(cases):
        with pytest.raises(UnsegError, match=words):
            train_victim(victim, *two, tmp_path / str(number), **how)


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
