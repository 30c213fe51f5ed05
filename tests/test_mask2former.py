"""Mask2Former: architecture, targets, augmentation, what its outputs mean, training, weights."""

from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from toys import CLASSES, MASK2FORMER, run_of, shapes

from unseg_lib import UnsegError
from unseg_lib.options import with_options
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import mask2former, quiet
from unseg_lib.victims.mask2former import data as instances
from unseg_lib.victims.mask2former import outputs
from unseg_lib.victims.mask2former.model import LAYOUTS, build, untrained

TASKS = ("semantic", "instance", "panoptic")
LAYOUT = with_options(MASK2FORMER.partition(":")[2], LAYOUTS, "Mask2Former")[1]


def m2f_run(sets, **changes):
    return run_of(MASK2FORMER, sets, **({"size": (32, 48), "task": "instance"} | changes))


# the model


@pytest.mark.parametrize(
    ("name", "backbone", "whole", "published"),
    # 25,557,032 of a ResNet-50 less the 2,049,000 of its classifier; Cheng et al., Table 1: 44M and 47M
    [("resnet50", 25_557_032 - 2_049_000, 44_023_377, 44), ("swin-tiny", 27_522_234, 47_423_179, 47)],
)
def test_it_is_built_as_published(name, backbone, whole, published):
    with torch.device("meta"), quiet():
        model = untrained(LAYOUTS[name], 80)
    assert sum(p.numel() for p in model.model.pixel_level_module.encoder.parameters()) == backbone
    assert sum(p.numel() for p in model.parameters()) == whole and round(whole / 1e6) == published
    assert len(model.model.transformer_module.decoder.layers) == 9
    assert len(model.model.pixel_level_module.decoder.encoder.layers) == 6
    assert model.model.transformer_module.queries_embedder.weight.shape == (100, 256)
    assert model.weight_dict == {"loss_cross_entropy": 2, "loss_mask": 5, "loss_dice": 5}
    assert model.criterion.eos_coef == 0.1 and model.criterion.num_points == 12544


def test_norms_begin_as_those_of_torch():
    norms = [layer for layer in build(LAYOUT, 4, "random", 0).modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all((layer.weight == 1).all() for layer in norms)  # transformers scales other batch norms to 0.02


def test_every_weight_is_trained_once_and_norms_do_not_decay(shaped):
    model = build(replace(LAYOUT, backbone_lr=0.1), 4, "random", 0)
    groups = mask2former.adamw(m2f_run(shaped), model).param_groups
    of = {id(p): group for group in groups for p in group["params"]}
    assert len(of) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    stem, head = model.encoder.embedder.embedder, model.class_predictor
    embedded = model.model.transformer_module.queries_embedder
    expected = {stem.convolution: (0.1, 0.05), stem.normalization: (0.1, 0), head: (1, 0.05), embedded: (1, 0)}
    for layer, values in expected.items():
        assert tuple(of[id(layer.weight)][name] for name in ("factor", "weight_decay")) == values


# what it learns from


def test_targets_of_every_task(shaped):
    source, id = shaped[0], shaped[0].ids[0]
    objects, label = source.instances(id), source.label(id)
    masks, classes, crowd = instances.targets(source, id, "instance")
    assert masks.dtype == crowd.dtype == torch.bool and classes.dtype == torch.long and not crowd.any()
    assert classes.tolist() == [one.class_index for one in objects]
    assert np.array_equal(masks.numpy(), np.stack([one.mask for one in objects]))
    assert all(a.equal(b) for a, b in zip(instances.targets(source, id, "detection", label.shape), (masks, classes)))
    masks, classes, _ = instances.targets(source, id, "panoptic")
    assert classes.tolist() == [*(one.class_index for one in objects), 0, 1]  # ground and sky
    assert not (masks[-1] & masks[:-2].any(dim=0)).any()
    masks, classes, _ = instances.targets(source, id, "semantic")
    assert classes.tolist() == np.unique(label).tolist()
    assert np.array_equal((masks * classes[:, None, None]).sum(dim=0).numpy(), label)
    nothing = instances.targets(source, source.ids[-1], "instance", (16, 24))
    assert nothing[0].shape == (0, 16, 24) and len(nothing[1]) == 0
    # what is too small to have a pixel is no target
    assert len(instances.targets(source, id, "instance", (2, 2))[1]) < len(objects)


def test_crowds_are_told_apart_and_not_learnt(tmp_path):
    crowded = shapes(tmp_path, "train", 3, crowd=True)
    data = instances.read(m2f_run((crowded, crowded), size=(48, 64)), crowded, "toy")
    for i, id in enumerate(crowded.ids):
        objects = crowded.instances(id)
        assert data.crowd[i].tolist() == [False] * len(objects) + [True] * len(crowded.crowds(id))
        (masks,), (classes,) = data.learnt([i])
        assert classes.tolist() == [one.class_index for one in objects] and len(masks) == len(objects)
        assert masks.shape[1:] == (48, 64)
    assert torch.equal(data.x[0].permute(1, 2, 0), torch.from_numpy(crowded.image(crowded.ids[0]).copy()))


def test_masks_move_with_their_images():
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[0, 8:20, 4:16] = True
    masks[1, 30:, 30:] = True
    n = 64
    x = masks[0].float().expand(n, 3, -1, -1) + 1  # 1 or 2; 0 is what lies outside
    many = x, [masks] * n, [torch.tensor([0, 1])] * n
    moved, found, left = instances.augment(*many, (0.5, 2.0), torch_rng("augment"))
    assert len(found) == len(left) == n and moved.shape == x.shape
    assert 0 < sum(1 not in some for some in left) < n  # the small one in the corner is often cut off
    areas = []
    for image, kept, some in zip(moved[:, 0], found, left):
        assert kept.flatten(1).any(dim=1).all() and len(kept) == len(some)
        if 0 in some:
            assert (image[kept[0]] >= 1.25 - 1e-3).all()  # bilinear against nearest
            areas.append(int(kept[0].sum()))
    assert min(areas) < 144 * 0.6 and max(areas) > 144 * 1.5
    again = instances.augment(*many, (0.5, 2.0), torch_rng("augment"))
    assert torch.equal(moved, again[0]) and all(torch.equal(a, b) for a, b in zip(found, again[1]))
    half, (part, *_), _ = instances.augment(*many, (1.0, 1.0), torch_rng("augment"), crop=0.5)
    assert half.shape == (n, 3, 16, 16) and part.shape[1:] == (16, 16)
    assert half.min() >= 1 - 1e-3  # nothing outside the image is seen at its own scale
    assert len(sizes := {(one[0] > 1.5).sum().item() for one in half}) > 4 and max(sizes) <= 144
    nothing = x[:1], [masks[:0]], [many[2][0][:0]]
    _, (empty,), (none,) = instances.augment(*nothing, (0.5, 2.0), torch_rng("augment"), 0.5)
    assert empty.shape == (0, 16, 16) and none.shape == (0,)


def test_colours_change_within_their_range():
    x = torch.rand(40, 3, 8, 8, generator=torch_rng("x"))
    one, two = (instances.recolour(x, torch_rng("colour")) for _ in range(2))
    assert torch.equal(one, two) and one.shape == x.shape and one.min() >= 0 and one.max() <= 1
    assert 0 < (one == x).flatten(1).all(dim=1).sum() < 10  # an image in sixteen


# what it says


@pytest.fixture(scope="module")
def logits():
    rng = torch_rng("logits")
    return 3 * torch.randn(6, 5, generator=rng), 4 * torch.randn(6, 24, 24, generator=rng)


def test_label_maps_and_instances_are_those_of_transformers_at_its_size(logits, monkeypatch):
    """transformers scales every mask to 384 x 384; at that size both must say the same."""
    from transformers import Mask2FormerImageProcessor

    processor, size = Mask2FormerImageProcessor(), (384, 384)
    both = SimpleNamespace(class_queries_logits=logits[0][None], masks_queries_logits=logits[1][None])
    theirs = processor.post_process_semantic_segmentation(both)[0]
    assert torch.equal(outputs.label_map(*logits, size), theirs)

    monkeypatch.setattr(outputs, "INSTANCES", 6)  # transformers': as many as queries
    masks, classes, scores = outputs.instances(*logits, size, (0, 1, 2, 3))
    assert (np.diff(scores) <= 0).all()
    theirs = processor.post_process_instance_segmentation(both, threshold=0.0, return_binary_maps=True)[0]
    ranked = sorted(zip(theirs["segments_info"], theirs["segmentation"]), key=lambda pair: -pair[0]["score"])
    assert len(ranked) == len(masks)
    for (info, mask), own, index, score in zip(ranked, masks, classes, scores):
        assert info["label_id"] == index and info["score"] == pytest.approx(score, abs=2e-6)
        assert np.array_equal(mask.bool().numpy(), own)


def test_only_things_are_instances(logits):
    masks, classes, scores = outputs.instances(*logits, (24, 24), (1, 3))
    assert set(classes.tolist()) == {1, 3} and masks.any(axis=(1, 2)).all()
    assert len(masks) == len(classes) == len(scores) <= 12 and scores.min() > 0 and scores.max() <= 1
    mask = logits[1][2]  # of query 2, as class 3
    expected = logits[0].softmax(dim=-1)[2, 3] * mask.sigmoid()[mask > 0].mean()
    found = [s for m, c, s in zip(masks, classes, scores) if c == 3 and np.array_equal(m, (mask > 0).numpy())]
    assert found == [pytest.approx(float(expected), abs=1e-5)]


def test_stuff_takes_places_of_panoptic_instances(monkeypatch):
    """Three sure queries of stuff, one less sure thing, three places: as published, hardly a thing is left."""
    classes = torch.full((4, 3), -9.0)
    classes[:3, 0], classes[3, 1] = 9.0, 0.0
    masks = torch.ones(4, 8, 8)
    masks[3, :4] = -1
    for places, panoptic, found in ((3, False, [1, 1, 1]), (3, True, []), (4, True, [1])):
        monkeypatch.setattr(outputs, "INSTANCES", places)
        assert outputs.instances(classes, masks, (8, 8), (1,), panoptic=panoptic)[1].tolist() == found


def test_panoptic_segments_by_hand():
    """Of seven queries on 8 x 8 pixels: two halves of stuff, a thing, and four that are left out."""
    yes, no = 8.0, -8.0
    masks = torch.full((7, 8, 8), no)
    masks[0, :, :4] = yes  # stuff 0
    masks[1, :, 4:] = yes  # stuff 0 again
    masks[2, 2:6, 2:6] = 2 * yes  # thing 1, before the stuff
    masks[3, 2:6, 2:7] = 1.5 * yes  # thing 1, nearly all of it covered
    masks[4] = 2 * yes  # not probable enough
    masks[5] = 3 * yes  # no object
    # query 6 is sure of its class and has no pixel
    classes = torch.full((7, 3), -9.0)
    for query, index in enumerate((0, 0, 1, 1, 1, 2, 1)):
        classes[query, index] = 9.0
    classes[4] = torch.tensor([-9.0, 1.0, 0.5])
    layout = SimpleNamespace(threshold=0.8, overlap=0.6)
    found, labels = outputs.segments(classes, masks, (8, 8), (1,), layout)
    assert labels.tolist() == [0, 1]
    thing = np.zeros((8, 8), bool)
    thing[2:6, 2:6] = True
    assert np.array_equal(found[1], thing)
    assert not (found[0] & found[1]).any() and found.sum() == 64 - 4  # a column of four is query 3's alone
    _, labels = outputs.segments(classes, masks, (8, 8), (0, 1), layout)
    assert labels.tolist() == [0, 0, 1]  # things of one class stay apart
    nothing, labels = outputs.segments(classes[4:6], masks[4:6], (8, 8), (1,), layout)
    assert nothing.shape == (0, 8, 8) and labels.shape == (0,)


def test_drawn_segments():
    masks = np.array([[[1, 1, 0], [1, 1, 0]], [[1, 1, 1], [0, 0, 0]]], bool)
    label, number = outputs.drawn(masks, np.array([3, 1]), 255)
    assert label.tolist() == [[1, 1, 1], [3, 3, 255]] and number.tolist() == [[2, 2, 2], [1, 1, 0]]


def test_label_maps_of_panoptic_segments_are_scored_where_no_segment_is_learnt(tmp_path):
    """Pixels of a crowd, which the label map has and the segments have not."""
    crowded = shapes(tmp_path, "test", 1 + 1, crowd=True)
    id = crowded.ids[0]
    label, crowd = crowded.label(id).copy(), crowded.crowds(id)[0]
    label[crowd.mask] = crowd.class_index
    whole = replace(crowded, read_label={id: label}.__getitem__)
    run = m2f_run((whole, whole), task="panoptic", size=(48, 64))
    nothing = torch.zeros(1, len(CLASSES) + 1), torch.zeros(1, *run.size)
    counted = outputs._confusion(run, 0, nothing, run.size)
    assert counted.sum(dim=1).tolist() == np.bincount(label.ravel(), minlength=len(CLASSES)).tolist()


@pytest.mark.parametrize("task", TASKS)
def test_who_says_the_truth_has_full_scores(shaped, monkeypatch, task):
    """The truth as logits: every convention between targets, outputs and scores must fit."""
    run = m2f_run(shaped, task=task, size=(48, 64))
    data = instances.read(run, shaped[1], "toy")

    def truth(*_):
        for i in range(len(shaped[1])):
            (masks,), (classes,) = data.learnt([i])
            named = torch.full((len(classes) + 1, len(CLASSES) + 1), -20.0)
            named[torch.arange(len(classes)), classes] = 20.0
            named[-1, -1] = 20.0
            yield named, torch.cat([masks.float() * 40 - 20, torch.full((1, *run.size), -20.0)])

    monkeypatch.setattr(outputs, "predict", truth)
    found = outputs.scores(run, SimpleNamespace(layout=LAYOUTS["tiny"]), data)
    values = found["scores"].values() if "scores" in found else [found["miou"], *found["iou"]]
    assert all(value == pytest.approx(1.0) for value in values if value is not None)


# first weights from files


def test_weights_from_a_folder_or_its_file(tmp_path):
    model = build(LAYOUT, len(CLASSES), "random", 3)
    model.save_pretrained(tmp_path)
    for init in (tmp_path, tmp_path / "model.safetensors"):
        found = build(LAYOUT, len(CLASSES), str(init), 0).state_dict()
        assert all(torch.equal(value, found[name]) for name, value in model.state_dict().items())


def test_a_backbone_from_a_folder(tmp_path):
    build(LAYOUT, len(CLASSES), "random", 3).encoder.save_pretrained(tmp_path)
    how = (str(tmp_path), 0), ("random", 3), ("random", 0)
    one, other, start = (build(LAYOUT, 4, init, seed) for init, seed in how)
    assert all(v.equal(other.encoder.state_dict()[name]) for name, v in one.encoder.state_dict().items())
    assert torch.equal(one.class_predictor.weight, start.class_predictor.weight)


def test_wrong_weights_are_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "none.safetensors").write_bytes(b"no weights")
    with pytest.raises(UnsegError, match=r"none.safetensors, as safetensors, found something else"):
        build(LAYOUT, 4, str(tmp_path / "none.safetensors"), 0)
    with pytest.raises(UnsegError, match="nobody has trained its backbone"):
        build(LAYOUT, 4, "imagenet", 0)
    offline = Mock(side_effect=OSError("no route to host\nand much more"))
    monkeypatch.setattr("transformers.ResNetBackbone.from_pretrained", offline)
    with pytest.raises(UnsegError, match=r"resnet-50 \(no route to host\); without a network use init=random"):
        build(replace(LAYOUT, weights="microsoft/resnet-50"), 4, "imagenet", 0)
