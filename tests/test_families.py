"""What families of victims share: first weights from seeds and files, and what a step teaches Mask2Former, RSPrompter
and SAM-HQ. Whole trainings are in test_victims.py.
"""

from functools import partial

import pytest
import torch
from toys import MASK2FORMER, RSPROMPTER, SAM_HQ, VICTIM, run_of

from unseg_lib import UnsegError
from unseg_lib.options import with_options
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import deeplabv1, deeplabv3, mask2former, own_randomness, rsprompter, sam_hq, smp, training
from unseg_lib.victims.defended_training import freeze

FAMILIES = {"mask2former": mask2former, "rsprompter": rsprompter, "sam-hq": sam_hq, "deeplabv1": deeplabv1}
RUNS = {task: (MASK2FORMER, (32, 48)) for task in ("semantic", "instance", "panoptic")}
RUNS |= {"instance on SAM": (RSPROMPTER, (32, 48)), "interactive": (SAM_HQ, (32, 32))}
RUNS["object"] = "deeplabv1:wideresnet38-tiny", (32, 32)
LAYOUT = with_options(MASK2FORMER.partition(":")[2], mask2former.LAYOUTS, "Mask2Former")[1]
# (classes, init, seed) -> model, and what helps whose file is of other classes
WHOLE = {
    "deeplabv1": (partial(deeplabv1.build, "wideresnet38-tiny"), "encoder's weights alone"),
    "deeplabv3": (partial(deeplabv3.build, "tiny"), "take those of a model for this data set"),
    "mask2former": (partial(mask2former.build, LAYOUT), "or train from a backbone's"),
    "sam-hq": (lambda _, init, seed: sam_hq.build("tiny", (32, 32), init, seed), ""),
}
BUILT = {"smp": partial(smp.build, VICTIM, 2, (32, 32), "random")}


@pytest.fixture(scope="module")
def parts_of(sets, shaped):
    """What a family would train: its run, model and recipe."""

    def parts_of(run: str, options: str = "", **changes) -> tuple:
        victim, size = RUNS[run]
        settings = {"size": size, "task": run.split()[0]} | changes
        family = FAMILIES[victim.partition(":")[0]]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(family if hasattr(family, "fit") else training, "fit", lambda *parts: parts)
            return family.train(run_of(victim + options, shaped if size == (32, 48) else sets, **settings))

    return parts_of


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


@pytest.mark.parametrize("run", [*BUILT, *RUNS])
def test_first_weights_come_from_the_seed_alone(parts_of, run):
    def weights(seed: int) -> torch.Tensor:
        model = BUILT[run](seed) if run in BUILT else parts_of(run, seed=seed)[1]
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    before = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("family", WHOLE)
def test_weights_of_the_very_model_are_taken_over_others_refused(tmp_path, family):
    (build, hint), path = WHOLE[family], tmp_path / "w.pth"
    state = build(3, "random", 5).state_dict()
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 3}, path)
    found = build(3, str(path), 0).state_dict()
    assert all(value.equal(found[name]) for name, value in state.items())
    if hint:
        with pytest.raises(UnsegError, match=rf"Expected weights for 2 classes in .*w.pth, found 3; .*{hint}"):
            build(2, str(path), 0)
    name = [name for name in state if name.endswith(".weight")][-1]  # of SAM-HQ one that SAM has not
    for content, words in (
        ({key: value for key, value in state.items() if key != name}, f"1 parameters missing .first: {name}"),
        (state | {"noise.weight": torch.zeros(1)}, "1 parameters unknown .first: noise.weight"),
        (state | {name: torch.zeros(64, 3)}, rf"1 parameters of another shape .first: {name}: \(64, 3\) there, "),
        ({"epoch": 3}, "Expected a state dict of tensors"),
        ([1, 2], "found something else"),
        ({"state_dict": path}, "found something else"),  # a pickled object
        (b"no weights", "found something else"),
    ):
        path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
        with pytest.raises(UnsegError, match=words):
            build(3, str(path), 0)


QUICK = [*((run, "") for run in RUNS if run != "object"), ("instance on SAM", " draw_all=True")]


@pytest.mark.parametrize(("run", "options"), QUICK)
def test_steps_lower_the_loss_of_their_batch(parts_of, run, options):
    parts, chosen = parts_of(run, options), [0, 1, 6]  # the last has no thing
    before = loss_of(parts, chosen)
    changed = learn(parts, chosen, 1 if run != "interactive" else 4)
    assert loss_of(parts, chosen) < before - 0.05
    if run == "instance on SAM":
        assert {name.split(".")[0] for name in changed} == {"encoder", "mask_decoder", "aggregator", "prompter"}


@pytest.mark.parametrize(("run", "options"), [("instance", ""), ("instance", " crop=0.5"), ("instance on SAM", "")])
def test_images_without_any_object_are_learnt_from(parts_of, run, options):
    loss = loss_of(parts_of(run, options), [6, 6])
    loss.backward()
    assert 0 < loss.item() < 100


@pytest.mark.parametrize("run", ["instance", "instance on SAM", "interactive", "object"])
def test_bf16_is_near_fp32(parts_of, run, bf16_everywhere):
    losses = [loss_of(parts_of(run, precision=precision), [0, 1, 2]) for precision in ("32", "bf16")]
    assert losses[0].dtype == losses[1].dtype == torch.float32
    assert losses[0] != losses[1] and losses[1].item() == pytest.approx(losses[0].item(), rel=0.02)


LEARNS = {"instance on SAM": {"mask_decoder", "aggregator", "prompter"}}
LEARNS |= {"interactive": {f"mask_decoder.{name}" for name in sam_hq.ADDED}}


@pytest.mark.parametrize(("run", "learns"), LEARNS.items())
def test_with_weights_of_sam_only_what_is_added_learns(parts_of, sam_file, run, learns):
    parts = parts_of(run, size=(32, 32), init=str(sam_file))
    own = {name.removeprefix("image_"): value for name, value in parts[1].state_dict().items()}
    for name, value in torch.load(sam_file, weights_only=True).items():
        assert name == "pixel_mean" or value.equal(own[name.removeprefix("image_")])
    changed = learn(parts, [0, 1, 2], 2)
    assert {".".join(name.split(".")[: 1 + (run == "interactive")]) for name in changed} == learns
    if run == "interactive":
        assert changed == {name for name in parts[1].state_dict() if name.startswith(tuple(learns))}


def test_a_frozen_encoder_stays_as_it_is(parts_of):
    run, model, recipe = parts_of("instance")
    moved = learn((run, freeze(run, model).train(), recipe), [0, 1, 2], 1)
    assert moved and not any(".encoder.embedder" in name or "pixel_level_module.encoder" in name for name in moved)
