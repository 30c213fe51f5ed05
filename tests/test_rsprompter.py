"""RSPrompter: architecture, SAM's weights, matching, loss, training."""

import itertools
from dataclasses import replace

import pytest
import torch
from toys import RSPROMPTER

from unseg_lib import UnsegError
from unseg_lib.method import SamLayout, load_lite0, segmentation_loss
from unseg_lib.options import with_options
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import Objects, QueryPrompter, RSPrompter, outside, rsprompter
from unseg_lib.victims.rsprompter import LAYOUTS, build

LAYOUT = with_options(RSPROMPTER.partition(":")[2], LAYOUTS, "RSPrompter")[1]


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
    assert len(model.prompter.layers) == 6 and model.prompter.queries.weight.shape == (70, 128)
    # the pyramid: two ways up, a convolution of one and one of three pixels for each of four levels, all with norms
    pyramid, ways = model.prompter.scales, 2 * (4 * 256 * 128 + 128) + 2 * 128 + 4 * 128 * 64 + 64
    convolutions = (64 + 128 + 256 + 256) * 256 + 4 * 9 * 256 * 256 + 8 * 2 * 256
    assert sum(parameters(part) for part in (pyramid.levels, pyramid.lateral, pyramid.smooth)) == ways + convolutions
    attention = pyramid.decoder.encoder.layers
    assert len(attention) == 3 and {one.self_attn.num_levels for one in attention} == {3}
    assert {(one.self_attn.num_heads, one.self_attn.num_points, one.self_attn.embed_dims) for one in attention} == {
        (8, 4, 128)
    }
    assert all(one.ffn.feedforward_channels == 512 for one in attention)
    assert pyramid.decoder.strides == [4, 8, 16, 32, 64] and pyramid.decoder.mask_feature.out_channels == 256


def test_queries_see_three_scales_in_turn_the_coarsest_first():
    layout, seen = replace(LAYOUT, pyramid=True, width=32, layers=4), []
    model = build(layout, 4, (64, 64), "random", 0).eval()
    for layer in model.prompter.layers:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[2].shape[1]))
    with torch.inference_mode():
        _, guesses, prompts = model.guess(torch.rand(2, 3, 64, 64))
    assert seen == [4 * 4, 8 * 8, 16 * 16, 4 * 4]  # strides 64, 32 and 16 of a patch's 4 are 16, 8, 4 pixels
    assert all(masks.shape == (2, 6, 64, 64) for _, masks in guesses) and prompts.shape == (2, 6, 5, 32)


def test_on_efficientnet_lite0_it_starts_from_imagenet(sam_file):
    layout = replace(LAYOUTS["lite0"], queries=6, layers=2)
    model, fresh = (build(layout, 4, (64, 96), init, 0).eval() for init in ("imagenet", "random"))
    embedding, blocks = model.encode(torch.rand(2, 3, 64, 96))
    assert embedding.shape == (2, 64, 8, 12) and {one.shape for one in blocks} == {(2, 128, 8, 12)}
    assert model(torch.rand(1, 3, 64, 96)).masks_queries_logits.shape == (1, 6, 32, 48)
    load_lite0(fresh.encoder.net)
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(one.requires_grad for one in model.encoder.parameters())
    for name, init in (("small", "imagenet"), ("lite0", str(sam_file))):
        with pytest.raises(UnsegError, match="Expected init=random or"):
            build(LAYOUTS[name], 4, (64, 64), init, 0)
    with pytest.raises(UnsegError, match="Expected SAM's layout small"):
        replace(LAYOUTS["tiny"], lite0=True)


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (24, 40)])
def test_classes_and_masks_for_any_size(size):
    model, x = build(LAYOUT, 4, size, "random", 0).eval(), torch.rand(2, 3, *size)
    with torch.inference_mode():
        found, (_, layers, prompts) = model(x), model.guess(x)
    assert found.class_queries_logits.shape == (2, 6, 5) and found.masks_queries_logits.shape == (2, 6, *size)
    assert len(layers) == 2 and prompts.shape == (2, 6, 5, 32)
    assert all(masks.shape == (2, 6, *size) for _, masks in layers)


def test_every_image_is_seen_by_itself():
    model, x = build(LAYOUT, 4, (32, 32), "random", 0).eval(), torch.rand(3, 3, 32, 32)
    with torch.inference_mode():
        together, alone = vars(model(x)), vars(model(x[1:2]))
    assert all(torch.allclose(together[name][1:2], alone[name], atol=1e-4) for name in alone)


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
    assert outside(masks, [2, 2]).tolist() == [[[True, False, True, True], [False] * 4]]


def test_prompts_are_half_sines():
    prompter = QueryPrompter(LAYOUT, 4)
    last = prompter.prompts.layers[-1]
    torch.nn.init.zeros_(last.weight)
    last.bias.data = torch.arange(len(last.bias)) / 100
    found, values = prompter.prompt(torch.zeros(1, 1, 16))[0, 0], last.bias.view(5, 64)
    assert torch.allclose(found, values[:, :32] + values[:, 32:].sin())


# SAM's weights


def test_positions_are_stretched_to_the_images(sam_file):
    model = build(LAYOUT, 4, (64, 32), str(sam_file), 0)
    small = torch.load(sam_file, weights_only=True)["image_encoder.pos_embed"]
    assert model.encoder.pos_embed.shape == (1, 16, 8, 32) and not model.encoder.pos_embed.requires_grad
    assert torch.allclose(model.encoder.pos_embed.mean(), small.mean(), atol=1e-2)
    assert model.prompt_encoder.get_dense_pe().shape == (1, 32, 16, 8)


def test_weights_of_another_sam_are_refused(sam_file):
    other = replace(LAYOUT, sam=SamLayout(32, 4, 64, 2, 2, (1,), 4, 32, 2, 64))
    sentence = r"^Expected .* of another shape .* choose the model, size and options that the file was made for"
    with pytest.raises(UnsegError, match=sentence):
        build(other, 4, (32, 32), str(sam_file), 0)


# matching and loss


def scene(queries: int, objects: int, seed: str = "scene") -> tuple[torch.Tensor, torch.Tensor, Objects]:
    """Random class logits `(1,Q,4)`, mask logits `(1,Q,16,16)` and true objects of one image."""
    rng = torch_rng(seed)
    truth = torch.rand(objects, 16, 16, generator=rng) < 0.3
    labels = torch.randint(0, 3, (objects,), generator=rng)
    logits = torch.randn(1, queries, 4, generator=rng), 3 * torch.randn(1, queries, 16, 16, generator=rng)
    return *logits, Objects([truth], [labels], 64)


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
    q, other, label = queries.item(), 1 - queries.item(), objects.classes[0][0]
    nll = -classes[0].log_softmax(dim=1)
    by_hand = 2 * (nll[q, label] + 0.1 * nll[other, 3]) / 1.1
    assert rsprompter.class_loss(classes, objects, pairs) == pytest.approx(by_hand.item(), rel=1e-5)
    truth = objects.masks[0][:, None].float()
    mask = 5 * segmentation_loss(masks[:, q : q + 1], truth, torch_rng("points"), 64)
    assert rsprompter.mask_loss(rsprompter.chosen_of(masks, pairs), objects, pairs, torch_rng("points")) == mask
    assert found.tolist() == [0]


def test_more_objects_than_queries_and_none():
    classes, masks, objects = scene(2, 5)
    ((queries, found),) = rsprompter.match(classes, masks, objects, torch_rng("match"))
    assert sorted(queries.tolist()) == [0, 1] and len(found.unique()) == 2
    rsprompter.match(classes * float("nan"), masks, objects, torch_rng("match"))  # a training that diverged: loss tells
    classes, masks, objects = scene(3, 0)
    masks.requires_grad_()
    loss = rsprompter.set_loss(classes, masks, objects, torch_rng("points"))
    loss.backward()
    expected = 2 * -classes[0].log_softmax(dim=1)[:, 3].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and not masks.grad.any()


def test_blocks_are_added_up():
    """With layers that pass everything on, features of two blocks are 2 x first + second, as m_2 = m_1 + m_1 + r_2."""
    aggregator = build(LAYOUT, 4, (32, 32), "random", 0).aggregator
    aggregator.reduce = torch.nn.ModuleList(torch.nn.Identity() for _ in range(2))
    aggregator.carry, aggregator.fuse = torch.nn.ModuleList([torch.nn.Identity()]), torch.nn.Identity()
    first, second = torch.rand(2, 1, 32, 8, 8)
    assert torch.equal(aggregator([first, second]), 2 * first + second)
