"""What Mask2Former, RSPrompter, SAM-HQ and DINO must do in the same way: results, resume, names, refusals."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from toy_instances import CLASSES, DINO, HOW, MASK2FORMER, RSPROMPTER, SAM_HQ, run_of, save_sam, shapes
from toy_set import VICTIM, boxes, only_on_a_cpu

from unseg_lib import UnsegError
from unseg_lib.evaluation import curves
from unseg_lib.files import read_json
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import mask2former, own_randomness, rsprompter, sam_hq, train_victim, training, with_options
from unseg_lib.victims.defended_training import freeze

FAMILIES = {"mask2former": mask2former, "rsprompter": rsprompter, "sam-hq": sam_hq}
TASKS = {"mask2former": "instance", "rsprompter": "instance", "sam-hq": "interactive", "dino": "detection"}
CONFIG = DINO.split()[0]
# victim, size, and the scores that it must have, by task
RUNS = {
    "semantic": (MASK2FORMER, (32, 48), {"miou", "iou"}),
    "instance": (MASK2FORMER, (32, 48), {"AP", "AP50", "APs"}),
    "panoptic": (MASK2FORMER, (32, 48), {"PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP_pan", "mIoU_pan"}),
    "instance on SAM": (RSPROMPTER, (32, 48), {"AP", "AP50", "APs", "AP:box"}),
    "interactive": (SAM_HQ, (32, 32), {"miou_pictures", "biou"}),
    "detection": (DINO, (48, 48), {"AP", "AP50", "APs", "AP:box"}),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Sets of several things in every image, and of one object: train and test."""
    root = tmp_path_factory.mktemp("sets")
    flat = boxes(root, "train", 9), boxes(root, "test", 5)
    return (shapes(root / "shapes", "train", 7), shapes(root / "shapes", "test", 4)), flat


@pytest.fixture(scope="module")
def train(both):
    def train(run: str, out, **changes) -> dict:
        victim, size, _ = RUNS[run]
        if victim == DINO:
            only_on_a_cpu()
        sets = both[run == "interactive"]
        return train_victim(victim, *sets, out, **(HOW | {"size": size, "task": run.split()[0]} | changes))

    return train


@pytest.fixture(scope="module", params=RUNS)
def trained(request, train, tmp_path_factory):
    """One uninterrupted training: its name, folder and result."""
    out = tmp_path_factory.mktemp("trained")
    return request.param, out, train(request.param, out)


def test_results_and_files(trained, both):
    run, out, result = trained
    _, size, scores = RUNS[run]
    assert sorted(f.name for f in out.iterdir()) == ["predictions.npz", "result.json", "speed.json", "training.json"]
    assert read_json(out / "speed.json")["samples_per_second"] > 0
    assert read_json(out / "training.json").get("task", "semantic") == run.split()[0]
    assert result["classes"] == list(both[run == "interactive"][0].classes)
    assert [epoch["epoch"] for epoch in result["epochs"]] == [1, 2] and scores <= set(result["final"])
    assert all(epoch["loss"] > 0 for epoch in result["epochs"])
    if run != "semantic":
        assert [set(epoch) for epoch in result["epochs"]] == [{"epoch", "loss", "scores"}] * 2
        assert result["final"] == result["epochs"][-1]["scores"]
        assert all(value is None or 0 <= value <= 1 for value in result["final"].values())
        for name, best in result["peak"].items():
            values = [epoch["scores"][name] for epoch in result["epochs"]]
            assert best == max((value for value in values if value is not None), default=None)
            assert None in values or curves(result, run)[name] == [100 * value for value in values]
    seen = dict(np.load(out / "predictions.npz"))
    assert seen["image"].shape == (4, *size, 3)
    assert seen["image"].dtype == seen["truth"].dtype == seen["prediction"].dtype == np.uint8
    assert all(seen[name].shape == (4, *size) for name in seen if name not in ("image", "box"))
    assert ("truth_segments" in seen) == ("prediction_segments" in seen) == (run not in ("semantic", "interactive"))


def test_killed_after_an_epoch_it_ends_with_the_same_numbers(trained, train, tmp_path, monkeypatch):
    from unseg_lib.victims.openmmlab import runner

    run, expected, result = trained
    saving = (runner.Book, "after_val_epoch") if run == "detection" else (training, "_save")
    save = getattr(*saving)

    def save_and_stop(*arguments, **options):
        save(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(*saving, save_and_stop)
        train(run, tmp_path)
    assert (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "result.json").exists()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert train(run, tmp_path)["epochs"] == result["epochs"]  # bit for bit
    assert (tmp_path / "predictions.npz").read_bytes() == (expected / "predictions.npz").read_bytes()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_predictions_are_what_is_scored_and_segments_have_one_class(trained, both):
    """All four test images are shown, so their predictions must give the last epoch's score."""
    run, out, result = trained
    seen = np.load(out / "predictions.npz")
    truth = seen["truth"]
    if run == "semantic":
        for c in range(len(CLASSES)):
            true, found = truth == c, seen["prediction"] == c
            assert result["final"]["iou"][c] == pytest.approx((true & found).sum() / (true | found).sum())
    elif run == "interactive":
        for mask, box in zip(truth == 1, seen["box"]):
            edges = [side for axis in (0, 1) for side in np.flatnonzero(mask.any(axis=axis))[[0, -1]]]
            assert np.abs(np.array(edges)[[0, 2, 1, 3]] - box).max() <= 1  # pixels: the mask was scaled, too
    else:
        numbers = seen["truth_segments"]
        assert np.array_equal(numbers == 0, truth == 255)  # no background there
        for image, id in zip(range(4), both[0][1].ids):
            for number in range(1, numbers[image].max() + 1):
                assert len(np.unique(truth[image][numbers[image] == number])) == 1
            things = both[0][1].instances(id)
            assert run == "panoptic" or numbers[image].max() == len(things)
            for rows, columns in (np.nonzero(one.mask) for one in things if run == "detection"):
                row, column = ((side.min() + side.max() + 1) / 2 for side in (rows, columns))
                assert numbers[image][int(row), int(column * 48 / 64)] > 0  # the middle of its box


def test_the_same_call_returns_the_stored_result_another_task_is_refused(trained, train, monkeypatch):
    run, out, result = trained
    for family in (mask2former, rsprompter, sam_hq):
        monkeypatch.setattr(family, "fit", lambda *_: pytest.fail("trained again"))
    assert train(run, out) == result
    if run == "instance":
        for task in ("panoptic", "semantic"):
            asked = "None" if task == "semantic" else task
            with pytest.raises(UnsegError, match=f"task instance there, {asked} asked"):
                train(run, out, task=task)


# learning


def parts_of(both, run: str, options: str = "", **changes) -> tuple:
    """What a family would train: its run, model and recipe."""
    victim, size, _ = RUNS[run]
    settings = {"size": size, "task": run.split()[0]} | changes
    family = FAMILIES[victim.partition(":")[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "fit", lambda *parts: parts)
        return family.train(run_of(victim + options, both[run == "interactive"], **settings))


def loss_of(parts: tuple, chosen: list[int]) -> torch.Tensor:
    """The loss of some training images, at the same points every time."""
    run, model, recipe = parts
    data = recipe.read(run, run.train, "training")
    with own_randomness("cpu", "points"):
        return recipe.loss(run, model, data, torch.tensor(chosen), torch_rng)


def learn(parts: tuple, chosen: list[int], steps: int) -> set[str]:
    """Some steps on the same images; the names of the weights that they have changed."""
    run, model, recipe = parts
    optimiser = recipe.optimiser(run, model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(steps):
        training.train_step(model, optimiser, loss_of(parts, chosen), recipe.clip)
    return {name for name, value in model.state_dict().items() if not value.equal(before[name])}


LEARNING = ["semantic", "instance", "panoptic", "instance on SAM", "interactive"]


@pytest.mark.parametrize("run", LEARNING)
def test_first_weights_come_from_the_seed_alone(both, run):
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in parts_of(both, run, seed=seed)[1].parameters()])

    before = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("run", "options"), [(run, "") for run in LEARNING] + [("instance on SAM", " draw_all=True")])
def test_steps_lower_the_loss_of_their_batch(both, run, options):
    parts, chosen = parts_of(both, run, options), [0, 1, 6]  # the last has no thing
    before = loss_of(parts, chosen)
    changed = learn(parts, chosen, 1 if run != "interactive" else 4)
    assert loss_of(parts, chosen) < before - 0.05
    if run == "instance on SAM":
        assert {name.split(".")[0] for name in changed} == {"encoder", "mask_decoder", "aggregator", "prompter"}


@pytest.mark.parametrize(("run", "options"), [("instance", ""), ("instance", " crop=0.5"), ("instance on SAM", "")])
def test_images_without_any_object_are_learnt_from(both, run, options):
    loss = loss_of(parts_of(both, run, options), [6, 6])
    loss.backward()
    assert 0 < loss.item() < 100


@pytest.mark.parametrize("run", ["instance", "instance on SAM", "interactive"])
def test_bf16_is_near_fp32(both, run, bf16_everywhere):
    losses = [loss_of(parts_of(both, run, precision=precision), [0, 1, 2]) for precision in ("32", "bf16")]
    assert losses[0].dtype == losses[1].dtype == torch.float32
    assert losses[0] != losses[1] and losses[1].item() == pytest.approx(losses[0].item(), rel=0.02)


LEARNS = {"instance on SAM": {"mask_decoder", "aggregator", "prompter"}}
LEARNS |= {"interactive": {f"mask_decoder.{name}" for name in sam_hq.model.ADDED}}


@pytest.mark.parametrize(("run", "learns"), LEARNS.items())
def test_with_weights_of_sam_only_what_is_added_learns(both, tmp_path, run, learns):
    save_sam(tmp_path / "sam.pth")
    parts = parts_of(both, run, size=(32, 32), init=str(tmp_path / "sam.pth"))
    own = {name.removeprefix("image_"): value for name, value in parts[1].state_dict().items()}
    for name, value in torch.load(tmp_path / "sam.pth", weights_only=True).items():
        assert name == "pixel_mean" or value.equal(own[name.removeprefix("image_")])
    changed = learn(parts, [0, 1, 2], 2)
    assert {".".join(name.split(".")[: 1 + (run == "interactive")]) for name in changed} == learns
    if run == "interactive":
        assert changed == {name for name in parts[1].state_dict() if name.startswith(tuple(learns))}


def test_a_frozen_encoder_stays_as_it_is(both):
    run, model, recipe = parts_of(both, "instance")
    moved = learn((run, freeze(run, model).train(), recipe), [0, 1, 2], 1)
    assert moved and not any(".encoder.embedder" in name or "pixel_level_module.encoder" in name for name in moved)


REACHING = [("instance", "jpeg quality=30+ueraser+frozen_encoder"), ("interactive", "gaussian_blur")]


@pytest.mark.parametrize(("run", "defense"), [*REACHING, ("interactive", "sharpen_frequency")])
def test_defences_of_images_batches_and_models_reach_it(train, tmp_path, run, defense):
    names = "none", defense
    losses = [train(run, tmp_path / name, epochs=1, defense=name)["epochs"][0]["loss"] for name in names]
    assert np.isfinite(losses).all() and losses[0] != losses[1]


@pytest.mark.parametrize(
    ("victim", "change", "enough"),
    [
        ("rsprompter:tiny points=256", {"task": "instance", "size": (48, 64), "epochs": 6}, {"AP50": 0.1}),
        (SAM_HQ, {"task": "interactive", "size": (32, 32), "epochs": 12}, {"miou_pictures": 0.6}),
    ],
)
def test_it_learns_the_toy_sets(tmp_path, victim, change, enough):
    make, count = (boxes, 9) if victim == SAM_HQ else (shapes, 24)
    sets = make(tmp_path, "train", count), make(tmp_path, "test", 8)
    result = train_victim(victim, *sets, tmp_path / "out", **(HOW | {"batch_size": 4, "lr": 3e-3} | change))
    assert result["epochs"][-1]["loss"] < 0.7 * result["epochs"][0]["loss"]
    assert all(result["peak"][name] > value for name, value in enough.items())


# names, options and refusals


@pytest.mark.parametrize(
    ("family", "text", "changes"),
    [
        ("mask2former", "swin-tiny queries=50 colour=False", {"queries": 50, "colour": False}),
        ("mask2former", "tiny scale_low=1 threshold=0.5", {"scale_low": 1.0, "threshold": 0.5}),
        ("rsprompter", "vit_b queries=100 scale_low=0.5", {"queries": 100, "scale_low": 0.5}),
        ("sam-hq", "vit_b points=4096", {"points": 4096}),
    ],
)
def test_options_after_the_name(family, text, changes):
    known = sam_hq.MODELS if family == "sam-hq" else FAMILIES[family].LAYOUTS
    name, found = with_options(text, known, "victim")
    assert name == text.split()[0] and found == replace(known[name], **changes)


@pytest.mark.parametrize(
    ("victim", "change", "words"),
    [
        ("mask2former:resnet51", {}, "Unknown Mask2Former 'resnet51'; did you mean 'resnet50'"),
        ("mask2former:", {}, "Unknown Mask2Former ''"),
        ("mask2former:tiny querys=5", {}, "Unknown option 'querys' of tiny; did you mean 'queries'"),
        ("mask2former:tiny backbone=5", {}, "Unknown option 'backbone'"),
        ("mask2former:tiny queries", {}, r"Expected a whole number for queries .* found ''"),
        ("mask2former:tiny queries=5.5", {}, r"Expected a whole number for queries .* found '5.5'"),
        ("mask2former:tiny queries=5 queries=6", {}, "Expected queries once"),
        ("mask2former:tiny colour=no", {}, "Expected True or False for colour"),
        ("mask2former:tiny scale_low=far", {}, "Expected a number for scale_low"),
        ("mask2former:tiny layers=0", {}, "layers of Mask2Former from 1, found 0"),
        ("mask2former:tiny width=40", {}, "found 40"),
        ("mask2former:tiny scale_low=3", {}, "scale_low <= scale_high, found 3 and 2"),
        ("mask2former:tiny overlap=2", {}, "overlap of Mask2Former from 0 to 1, found 2"),
        ("mask2former:tiny crop=0.0", {}, "crop of Mask2Former above 0 and to 1, found 0"),
        (MASK2FORMER, {"task": "instanc"}, "Unknown task 'instanc'.*did you mean 'instance'"),
        (MASK2FORMER, {"init": "missing.safetensors"}, "^Expected init to be one of random, imagenet, or a file"),
        (MASK2FORMER, {"defense": "pgd_at"}, "leaves the loss as it is for a victim of mask2former, found 'pgd_at'"),
        ("rsprompter:vit_x", {}, "Unknown RSPrompter 'vit_x'"),
        ("rsprompter:tiny sam=5", {}, "Unknown option 'sam' of tiny"),
        ("rsprompter:tiny layers=0", {}, "layers of RSPrompter from 1, found 0"),
        ("rsprompter:tiny width=18", {}, "width that 4 and heads=4 divide, found 18"),
        ("rsprompter:tiny scale_low=3", {}, "scale_low <= scale_high, found 3 and 1.25"),
        (RSPROMPTER, {"task": "panoptic"}, "^Expected a victim of mask2former for panoptic, .* only instance"),
        (RSPROMPTER, {"task": ""}, "^Expected a victim of smp or .* for label maps, found one of rsprompter"),
        (RSPROMPTER, {"init": "imagenet"}, "^Expected init=random or the path of SAM's checkpoint"),
        (RSPROMPTER, {"size": (32, 30)}, "^Expected a height and width that 4 divides for this SAM, found 32x30"),
        ("sam-hq:huge", {}, "Unknown layout of SAM-HQ 'huge'"),
        ("sam-hq:tiny point=3", {}, "Unknown option 'point' of tiny; did you mean 'points'"),
        ("sam-hq:tiny scale_low=3", {}, "scale_low <= scale_high, found 3 and 2"),
        ("sam-hq:tiny drop=0", {}, "drop above 0"),
        ("sam-hq:tiny points=0", {}, "points of SAM-HQ from 4"),
        (SAM_HQ, {"size": (32, 48)}, "Expected square images .* found 32x48"),
        ("sam-hq:vit_b", {"size": (100, 100)}, "side that 16 divides for sam-hq:vit_b"),
        (SAM_HQ, {"task": "semantic"}, "found one of sam-hq, which can only interactive"),
        (SAM_HQ, {"task": ""}, "for label maps, found one of sam-hq"),
        (SAM_HQ, {"init": "imagenet"}, "file of SAM's weights"),
        (SAM_HQ, {"defense": "pgd_at"}, "only changes images for a victim of sam-hq"),
        (SAM_HQ, {"defense": "frozen_encoder"}, "only changes images for a victim of sam-hq"),
        (CONFIG + "a", {}, f"^Unknown mmdetection config .* did you mean '{CONFIG.removeprefix('dino:')}'"),
        (CONFIG + " model.num_querys.x=5", {}, "found 'model.num_querys.x=5'"),
        (CONFIG + " model.num_queries", {}, "found 'model.num_queries'"),
        (DINO, {"task": "instance"}, "^Expected a victim of mask2former or rsprompter for instance, found one of dino"),
        (DINO, {"defense": "frozen_encoder"}, "only changes images for a victim of dino"),
        (VICTIM, {"task": "instance"}, "^Expected a victim of mask2former.* for instance, found one of smp, which"),
        (VICTIM, {"task": "interactive"}, "victim of sam-hq for interactive, found one of smp"),
        ("mmseg:any", {"task": "panoptic"}, "found one of mmseg"),
    ],
)
def test_what_a_family_cannot_is_refused_with_one_sentence(both, tmp_path, victim, change, words):
    how = HOW | {"size": (32, 32), "task": TASKS.get(victim.partition(":")[0], "")} | change
    with pytest.raises(UnsegError, match=words):
        train_victim(victim, *both[how["task"] == "interactive"], tmp_path, **how)
    assert not (tmp_path / "result.json").exists() and not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("victim", [MASK2FORMER, RSPROMPTER, SAM_HQ, DINO])
def test_sets_that_a_family_cannot_learn_from_are_refused(both, tmp_path, victim):
    (train, test), flat = both
    cases = [((replace(train, classes=CLASSES[:3]), test), "^Expected one list of classes, found 3 for training")]
    if victim == SAM_HQ:
        empty = replace(flat[1], read_label=lambda id: np.zeros((32, 48), np.uint8))
        cases += [((train, test), r"one object against its background .* found 4 classes; load .* 'object'")]
        cases += [((flat[0], empty), "Expected an object in some images of boxes, split test")]
    else:
        cases += [(flat, "^boxes has no instance masks")]
    how = HOW | {"size": (32, 32), "task": TASKS[victim.partition(":")[0]]}
    for number, (sets, words) in enumerate(cases):
        with pytest.raises(UnsegError, match=words):
            train_victim(victim, *sets, tmp_path / str(number), **how)
