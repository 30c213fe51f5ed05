"""RSPrompter: architecture, SAM's weights, matching, loss, training, resume, refusals."""

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from toy_instances import CLASSES, check_result, check_resume, run_of, shapes
from toy_set import boxes

from unseg_lib import UnsegError
from unseg_lib.method import LAYOUTS as SAMS
from unseg_lib.method import SamLayout, segmentation_loss
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import (
    Objects,
    QueryPrompter,
    RSPrompter,
    outside,
    rsprompter,
    train_victim,
    training,
    with_options,
)
from unseg_lib.victims.mask2former.data import read
from unseg_lib.victims.rsprompter.model import LAYOUTS, Layout, build

SMALL = "rsprompter:tiny points=64 queries=6 layers=1 width=16"
HOW = {"size": (32, 48), "epochs": 2, "batch_size": 3, "lr": 1e-3, "seed": 0, "device": "cpu", "task": "instance"}
LAYOUT = with_options(SMALL.partition(":")[2], LAYOUTS, "RSPrompter")[1]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    return shapes(root, "train", 7), shapes(root, "test", 4)


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    """One uninterrupted training: its folder and result."""
    out = tmp_path_factory.mktemp("trained")
    return out, train_victim(SMALL, *sets, out, **HOW)


rs_run = partial(run_of, SMALL, how=HOW)


def loss_of(run, model, chosen) -> torch.Tensor:
    """The loss of some images of the run's training set, at the same points every time."""
    return rsprompter.batch_loss(run, model, read(run, run.train, "toy"), torch.as_tensor(chosen), torch_rng)


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# the network


@pytest.mark.parametrize(
    ("name", "sam", "aggregated"),
    # SAM's official checkpoints hold 93.7, 312.3 and 641.1 million parameters
    [("vit_b", 93_735_472, 6), ("vit_l", 312_342_832, 12), ("vit_h", 641_090_608, 16)],
)
def test_it_is_built_as_published(name, sam, aggregated):
    with torch.device("meta"):
        model = RSPrompter(LAYOUTS[name], 11)
    assert parameters(model.encoder) + parameters(model.prompt_encoder) + parameters(model.mask_decoder) == sam
    assert len(model.aggregator.reduce) == aggregated  # outputs of blocks 1, 3, 5, ...
    assert parameters(model.prompter) == 4_025_100
    assert len(model.prompter.layers) == 6 and len(model.prompter.encoder.layers) == 3
    assert model.prompter.queries.weight.shape == (70, 128)


def test_the_published_recipe():
    layout = LAYOUTS["vit_h"]
    assert (layout.queries, layout.tokens, layout.points, layout.draw_all) == (70, 5, 12544, True)
    assert (layout.scale_low, layout.scale_high, layout.sam.image_size) == (0.1, 2.0, 1024)
    assert (rsprompter.CLIP, rsprompter.WEIGHT_DECAY) == (0.1, 0.05)
    assert (rsprompter.CLASS, rsprompter.MASK, rsprompter.NO_OBJECT) == (2, 5, 0.1)


def test_first_weights_come_from_the_seed_alone():
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in build(LAYOUT, 4, (32, 32), "random", seed).parameters()])

    before = torch.get_rng_state()
    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (24, 40)])
def test_classes_and_masks_for_any_size(size):
    model = build(LAYOUT, 4, size, "random", 0).eval()
    with torch.inference_mode():
        found = model(torch.rand(2, 3, *size))
        _, layers, prompts = model.guess(torch.rand(2, 3, *size))
    assert found.class_queries_logits.shape == (2, 6, 5) and found.masks_queries_logits.shape == (2, 6, *size)
    assert len(layers) == 2 and prompts.shape == (2, 6, 5, 32)
    assert all(masks.shape == (2, 6, *size) for _, masks in layers)


def test_every_image_is_seen_by_itself():
    model, x = build(LAYOUT, 4, (32, 32), "random", 0).eval(), torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        together, alone = model(x), model(x[1:2])
    for name in ("class_queries_logits", "masks_queries_logits"):
        assert torch.allclose(getattr(together, name)[1:2], getattr(alone, name), atol=1e-4)


def test_sam_draws_from_the_prompts_alone():
    """Fed with SAM's own embedding of a box, the network draws what SAM draws."""
    model = build(LAYOUT, 4, (32, 32), "random", 0).eval()
    box = torch.tensor([[4.0, 4, 20, 28]])
    with torch.inference_mode():
        embedding = model.encode(torch.rand(1, 3, 32, 32))[0]
        sparse, dense = model.prompt_encoder(points=None, boxes=box, masks=None)
        place = model.prompt_encoder.get_dense_pe()
        theirs = model.mask_decoder(embedding, place, sparse, dense, multimask_output=False)[0]
        (ours,) = model.draw(embedding, [sparse])
    assert torch.equal(theirs[:, 0], ours)


def test_a_query_looks_only_where_its_mask_is():
    masks = torch.full((1, 2, 8, 8), -5.0)
    masks[0, 0, :4, 4:] = 5.0  # upper right quarter; the other one is empty
    hidden = outside(masks, [2, 2])
    assert hidden.tolist() == [[[True, False, True, True], [False] * 4]]


def test_prompts_are_half_sines():
    prompter = QueryPrompter(LAYOUT, 4)
    last = prompter.prompts.layers[-1]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.arange(len(last.bias)) / 100)
    found = prompter.prompt(torch.zeros(1, 1, 16))[0, 0]
    values = (torch.arange(len(last.bias)) / 100).view(5, 64)
    assert torch.allclose(found, values[:, :32] + values[:, 32:].sin())


# SAM's weights


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A tiny SAM in the official format."""
    sam = build(LAYOUT, 4, (32, 32), "random", 5)
    names = {"encoder": "image_encoder", "prompt_encoder": "prompt_encoder", "mask_decoder": "mask_decoder"}
    state = {
        f"{name}.{key}": value for own, name in names.items() for key, value in getattr(sam, own).state_dict().items()
    }
    path = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    torch.save(state | {"pixel_mean": torch.zeros(3, 1, 1)}, path)
    return path


def test_sams_encoder_stays_and_the_rest_learns(checkpoint, sets):
    model = build(replace(LAYOUT, draw_all=True), 4, (32, 32), str(checkpoint), 0)
    saved = torch.load(checkpoint, weights_only=True)
    for name in ("patch_embed.proj.weight", "pos_embed", "neck.0.weight"):
        assert torch.equal(model.encoder.state_dict()[name], saved[f"image_encoder.{name}"])
    assert torch.equal(model.mask_decoder.mask_tokens.weight, saved["mask_decoder.mask_tokens.weight"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = rs_run(sets, size=(32, 32))
    optimiser = rsprompter.adamw(run, model)
    for _ in range(2):
        training.train_step(model, optimiser, loss_of(run, model, range(3)), rsprompter.CLIP)
    changed = {name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"mask_decoder", "aggregator", "prompter"}


def test_positions_are_stretched_to_the_images(checkpoint):
    model = build(LAYOUT, 4, (64, 32), str(checkpoint), 0)
    small = torch.load(checkpoint, weights_only=True)["image_encoder.pos_embed"]
    assert model.encoder.pos_embed.shape == (1, 16, 8, 32) and not model.encoder.pos_embed.requires_grad
    assert torch.allclose(model.encoder.pos_embed.mean(), small.mean(), atol=1e-2)
    assert model.prompt_encoder.get_dense_pe().shape == (1, 32, 16, 8)


@pytest.mark.parametrize(
    ("init", "size", "words"),
    [
        ("imagenet", (32, 32), "^Expected init=random or the path of SAM's checkpoint"),
        ("random", (32, 30), "^Expected a height and width that 4 divides for this SAM, found 32x30"),
    ],
)
def test_what_cannot_be_built(init, size, words):
    with pytest.raises(UnsegError, match=words):
        build(LAYOUT, 4, size, init, 0)


def test_other_files_are_refused(tmp_path, checkpoint):
    other = replace(LAYOUT, sam=SamLayout(32, 4, 64, 2, 2, (1,), 4, 32, 2, 64))
    with pytest.raises(UnsegError, match=r"^Expected .* of shape .* choose the layout that the file was made for"):
        build(other, 4, (32, 32), str(checkpoint), 0)
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(UnsegError, match=r"^Expected SAM weights of this layout in .* parameters missing"):
        build(LAYOUT, 4, (32, 32), str(tmp_path / "other.pth"), 0)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(UnsegError, match=r"^Expected a state dict of tensors in .* found something else"):
        build(LAYOUT, 4, (32, 32), str(tmp_path / "text.pth"), 0)


# names


def test_options_after_the_name():
    assert with_options("vit_b queries=100 scale_low=0.5", LAYOUTS, "RSPrompter") == (
        "vit_b",
        replace(LAYOUTS["vit_b"], queries=100, scale_low=0.5),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("vit_x", "Unknown RSPrompter 'vit_x'"),
        ("tiny sam=5", "Unknown option 'sam' of tiny"),
        ("tiny layers=0", "layers of RSPrompter from 1, found 0"),
        ("tiny width=18", "width that 4 and heads=4 divide, found 18"),
        ("tiny scale_low=3", "scale_low <= scale_high, found 3 and 1.25"),
    ],
)
def test_names_and_options_are_checked(text, words):
    with pytest.raises(UnsegError, match=words):
        with_options(text, LAYOUTS, "RSPrompter")


# matching and loss


def scene(queries: int, objects: int, seed: str = "scene") -> tuple[torch.Tensor, torch.Tensor, Objects]:
    """Random class logits `(1,Q,4)`, mask logits `(1,Q,16,16)` and true objects of one image."""
    rng = torch_rng(seed)
    truth = torch.rand(objects, 16, 16, generator=rng) < 0.3
    labels = torch.randint(0, 3, (objects,), generator=rng)
    logits = torch.randn(1, queries, 4, generator=rng), 3 * torch.randn(1, queries, 16, 16, generator=rng)
    return *logits, Objects([truth], [labels], 64)


def test_costs_of_pairs_by_hand():
    guess, true = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    p = torch.tensor([2.0, -1.0]).sigmoid()
    first, second = -(p[0].log() + (1 - p[1]).log()) / 2, -((1 - p[0]).log() + (1 - p[1]).log()) / 2
    assert torch.allclose(rsprompter.cross_entropy(guess, true), torch.stack([first, second])[None])
    expected = torch.stack([1 - (2 * p[0] + 1) / (p.sum() + 2), 1 - 1 / (p.sum() + 1)])
    assert torch.allclose(rsprompter.dice(guess, true), expected[None])


def test_the_assignment_is_the_cheapest_of_all(monkeypatch):
    """Equal masks: only the classes' probabilities tell what a pair costs."""
    monkeypatch.setattr(rsprompter, "CLASS", 1.0)
    named, labels = torch.rand(1, 5, 4, generator=torch_rng("price")) * 3, torch.arange(3)
    objects = Objects([torch.ones(3, 16, 16, dtype=torch.bool)], [labels], 64)
    ((queries, found),) = rsprompter.match(named, torch.zeros(1, 5, 16, 16), objects, torch_rng("match"))
    price = -named[0].softmax(dim=1)
    every = [sum(price[q, k] for k, q in enumerate(some)) for some in itertools.permutations(range(5), 3)]
    assert sorted(found.tolist()) == [0, 1, 2]
    assert price[queries, found].sum() == pytest.approx(float(min(every)))


def test_perfect_queries_are_matched():
    _, _, objects = scene(5, 3)
    masks, classes = torch.full((1, 5, 16, 16), -30.0), torch.zeros(1, 5, 4)
    classes[..., -1] = 30.0
    for query, object in ((3, 0), (0, 1), (4, 2)):
        masks[0, query][objects.masks[0][object]] = 30.0
        classes[0, query] = 30.0 * torch.nn.functional.one_hot(objects.classes[0][object], 4)
    pairs = rsprompter.match(classes, masks, objects, torch_rng("points"))
    assert dict(zip(*(numbers.tolist() for numbers in pairs[0]))) == {3: 0, 0: 1, 4: 2}
    assert rsprompter.class_loss(classes, objects, pairs) < 1e-6
    assert rsprompter.class_loss(-classes, objects, pairs) > 10


def test_the_loss_by_hand():
    """Two queries, one object: weighted class cross entropy, and the mask loss of the chosen query alone."""
    classes, masks, objects = scene(2, 1)
    ((queries, found),) = pairs = rsprompter.match(classes, masks, objects, torch_rng("match"))
    q, other = queries.item(), 1 - queries.item()
    nll = -classes[0].log_softmax(dim=1)
    label = objects.classes[0][0]
    by_hand = 2 * (nll[q, label] + 0.1 * nll[other, 3]) / 1.1
    assert rsprompter.class_loss(classes, objects, pairs) == pytest.approx(by_hand.item(), rel=1e-5)
    truth = objects.masks[0][:, None].float()
    mask = 5 * segmentation_loss(masks[:, q : q + 1], truth, torch_rng("points"), 64)
    chosen = rsprompter.chosen_of(masks, pairs)
    assert rsprompter.mask_loss(chosen, objects, pairs, torch_rng("points")) == mask
    assert found.tolist() == [0]


def test_more_objects_than_queries_and_none():
    classes, masks, objects = scene(2, 5)
    ((queries, found),) = rsprompter.match(classes, masks, objects, torch_rng("match"))
    assert sorted(queries.tolist()) == [0, 1] and len(set(found.tolist())) == 2
    classes, masks, objects = scene(3, 0)
    masks.requires_grad_()
    loss = rsprompter.set_loss(classes, masks, objects, torch_rng("points"))
    loss.backward()
    expected = 2 * -classes[0].log_softmax(dim=1)[:, 3].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and not masks.grad.any()


# training


def test_blocks_are_added_up():
    """With layers that pass everything on, features of two blocks are 2 x first + second, as m_2 = m_1 + m_1 + r_2."""
    aggregator = build(LAYOUT, 4, (32, 32), "random", 0).aggregator
    aggregator.reduce = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))
    aggregator.carry, aggregator.fuse = torch.nn.ModuleList([torch.nn.Identity()]), torch.nn.Identity()
    first, second = torch.rand(2, 1, 32, 8, 8)
    assert torch.equal(aggregator([first, second]), 2 * first + second)


@pytest.mark.parametrize("draw_all", [True, False])
def test_a_step_lowers_the_loss_of_its_batch(sets, draw_all):
    run, chosen = rs_run(sets), [0, 1, 6]  # the last has no object
    model = build(replace(LAYOUT, draw_all=draw_all), len(CLASSES), run.size, "random", 0)
    before = loss_of(run, model, chosen)
    training.train_step(model, rsprompter.adamw(run, model), before, rsprompter.CLIP)
    assert loss_of(run, model, chosen) < before - 0.05
    learnt = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert learnt == {"encoder", "mask_decoder", "aggregator", "prompter"}


def test_images_without_any_object_are_learnt_from(sets):
    loss = loss_of(rs_run(sets), build(LAYOUT, len(CLASSES), (32, 48), "random", 0), [6, 6])
    loss.backward()
    assert 0 < loss.item() < 100


def test_it_learns_the_toy_shapes(tmp_path):
    train, test = shapes(tmp_path, "train", 24), shapes(tmp_path, "test", 8)
    how = HOW | {"size": (48, 64), "epochs": 6, "batch_size": 4, "lr": 3e-3}
    result = train_victim("rsprompter:tiny points=256", train, test, tmp_path / "out", **how)
    assert result["epochs"][-1]["loss"] < 0.7 * result["epochs"][0]["loss"]
    assert result["peak"]["AP50"] > 0.1


def test_result_and_files(trained):
    out, result = trained
    assert {"truth_segments", "prediction_segments"} <= set(check_result(out, result, HOW["size"]))
    assert {"AP", "AP50", "APs", "AP:box"} <= set(result["final"])


def test_killed_after_an_epoch_it_ends_with_the_same_numbers(sets, trained, tmp_path, monkeypatch):
    saving = training, "_save"
    check_resume(monkeypatch, saving, partial(train_victim, SMALL, *sets, **HOW), tmp_path, trained)


def test_wrong_calls_are_refused_with_one_sentence(sets, tmp_path):
    def call(words: str, sets=sets, **changes) -> None:
        with pytest.raises(UnsegError, match=words):
            train_victim(SMALL, *sets, tmp_path / "out", **(HOW | changes))

    call(r"^Expected a victim of mask2former for panoptic, found one of rsprompter, .* only instance", task="panoptic")
    call("^Expected a victim of smp or .* for label maps, found one of rsprompter", task="")
    call("^Expected one list of classes, found 3 for training", (replace(sets[0], classes=CLASSES[:3]), sets[1]))
    call("^Expected init to be one of random, imagenet, or a file of weights", init="sam_vit_b.pth")
    flat = boxes(tmp_path, "train", 3), boxes(tmp_path, "test", 2)
    call("^boxes has no instance masks", flat)


def test_sam_layouts_are_all_there():
    assert set(LAYOUTS) == set(SAMS) and all(isinstance(layout, Layout) for layout in LAYOUTS.values())
    assert all(LAYOUTS[name].sam == SAMS[name] for name in LAYOUTS)
