"""SAM-HQ as a victim: its network, training, images, scores. Its formula is in test_formulas.py, that prompts of
several kinds do not mix in test_generator.py.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toys import run_of

from unseg_lib import UnsegError
from unseg_lib.datasets import Instance
from unseg_lib.method import LAYOUTS, Prompts
from unseg_lib.victims import asked, filled_boxes, object_scores, one_object, sam_hq, training
from unseg_lib.victims.sam_hq import ADDED, SamHQ, build

# the network


def test_what_is_published_of_its_size():
    """The paper's "learnable parameters" 4.1, 5.1 and 6.1 are megabytes (github.com/SysCV/sam-hq/issues/79)."""
    megabytes, frozen = {}, {}
    for name in ("vit_b", "vit_l", "vit_h"):
        with torch.device("meta"):
            model = SamHQ(LAYOUTS[name])
        model.train_only_added()
        learnt = [p for p in model.parameters() if p.requires_grad]
        megabytes[name] = round(4 * sum(p.numel() for p in learnt) / 2**20, 1)
        frozen[name] = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in learnt)
    assert megabytes == {"vit_b": 4.1, "vit_l": 5.1, "vit_h": 6.1}
    assert frozen["vit_b"] == 93_735_472  # SAM's


def test_parts_have_the_names_of_the_authors_files():
    with torch.device("meta"):
        keys = {key for key in SamHQ(LAYOUTS["vit_b"]).state_dict() if key.startswith("mask_decoder.")}
    theirs = "transformer iou_token mask_tokens output_upscaling output_hypernetworks_mlps iou_prediction_head"
    assert {key.split(".")[1] for key in keys} - set(ADDED) == set(theirs.split())
    # of those that sam_hq_vit_b.pth has
    some = "hf_token.weight hf_mlp.layers.2.bias compress_vit_feat.3.weight embedding_encoder.1.weight"
    assert keys >= {f"mask_decoder.{key}" for key in (*some.split(), "embedding_maskfeature.3.bias")}


def test_a_box_as_a_filled_mask_by_hand():
    use = torch.tensor([[True, False, False], [False, True, False], [True, False, True]])
    boxes, masks = torch.tensor([[2.0, 0, 5, 7]] * 3), torch.full((3, 1, 4, 4), 7.0)
    prompts = Prompts(boxes, torch.zeros(3, 1, 2), masks, use)
    shown = sam_hq.with_filled_boxes(prompts, 4, 8)  # two pixels of the image in each of the mask's
    assert shown.use.tolist() == [[True, False, True], [False, True, False], [True, False, True]]
    assert shown.masks[0, 0].tolist() == [[0, 255, 255, 0]] * 4
    assert (shown.masks[1:] == 7).all()
    assert prompts.use[0].tolist() == [True, False, False], "its argument is left alone"


def test_weights_for_another_size_are_refused(sam_file):
    with pytest.raises(UnsegError, match=r"sam-hq:tiny at 64x64 pixels in .* of another shape .* size"):
        build("tiny", (64, 64), str(sam_file), 0)


# training


def test_one_drop_of_the_learning_rate(sets, monkeypatch):
    monkeypatch.setattr(sam_hq, "fit", lambda *parts: parts)
    how = {"size": (32, 32), "epochs": 3, "batch_size": 4, "task": "interactive"}  # epochs of two steps
    run = run_of("sam-hq:tiny drop=0.66", sets, **how)
    run, model, recipe = sam_hq.train(run)
    data, optimiser, rates = recipe.read(run, run.train, "training"), recipe.optimiser(run, model), []
    optimiser.register_step_pre_hook(lambda adam, *_: rates.append(adam.param_groups[0]["lr"]))
    for epoch in (1, 2, 3):
        training.train_epoch(run, model, optimiser, recipe, data, epoch)
    assert rates == pytest.approx([1e-3] * 4 + [1e-4] * 2)


# images and scores


def test_images_are_the_same_from_memory_and_from_the_disk(sets, monkeypatch):
    kept = sam_hq.pairs(sets[0], 24, "training")
    monkeypatch.setattr(sam_hq, "MEMORY", 0)
    read = sam_hq.pairs(sets[0], 24, "training")
    for i in range(len(sets[0])):
        assert all(a.equal(b) for a, b in zip(kept(i), read(i)))
    image, mask = read(0)
    assert image.shape == (3, 16, 24) and mask.shape == (16, 24)  # of 32 x 48
    assert 0 < ((mask > 0) & (mask < 255)).sum() < mask.numel() / 2, "the edges are soft"
    assert mask[8:].float().mean() > mask[:1].float().mean() == 0, "ignored pixels are background"


def test_boxes_by_hand(sets):
    label, empty = np.zeros((32, 48), np.uint8), np.zeros((32, 48), np.uint8)
    label[1:3, 2:5], label[3] = 1, 255
    labels = dict.fromkeys(sets[1].ids, empty) | {sets[1].ids[1]: label}
    ((id, _, box),) = asked(replace(sets[1], read_label=labels.__getitem__))  # of the others nothing can be asked for
    assert id == sets[1].ids[1] and box.tolist() == [2, 1, 4, 2]
    # twice as wide: pixel 2 becomes 4 and 5, whose middle is 4.5; half as high: row 1 is the middle of row 0 to 1
    assert sam_hq.scaled_box(box, (4, 6), (2, 12)).tolist() == [4.5, 0.25, 8.5, 0.75]
    assert sam_hq.scaled_box(box, (4, 6), (4, 6)).tolist() == box.tolist()


def test_scores_by_hand(sets):
    label, shifted = np.zeros((40, 40), np.uint8), np.zeros((40, 40), bool)
    label[10:20, 10:20], label[:, 30:], shifted[10:20, 15:25] = 1, 255, True
    ids = ("davis-dog_00", "ccp-0001")
    source = replace(sets[1], ids=ids, images={id: Path("im") / id.partition("-")[2] for id in ids})
    found = object_scores(source, [(ids[0], label, label == 1), (ids[1], label, shifted | (label == 255))])
    assert found["miou_pictures:davis"] == found["biou:davis"] == 1
    assert found["miou_pictures:ccp"] == pytest.approx(50 / 150)  # ignored pixels do not count
    # borders are 1 pixel wide (2 % of 57), 36 pixels of each square: the upper and lower rows share 5 pixels each
    assert found["biou:ccp"] == pytest.approx(10 / 62)
    assert found["miou_pictures"] == pytest.approx((1 + 1 / 3) / 2)
    assert object_scores(source, []) == {"miou_pictures": None, "biou": None}


def test_of_several_objects_the_largest_is_asked_for(sets):
    small, large = np.zeros((2, 32, 48), bool)
    small[2:6, 2:6] = large[10:30, 10:30] = True
    several = replace(sets[1], read_instances=lambda id: [Instance(small, 1), Instance(large, 1)])
    one, id = one_object(several), sets[1].ids[0]
    assert ((one.label(id) == 1) == large).all(where=sets[1].label(id) != 255)
    assert ((one.label(id) == 255) == (sets[1].label(id) == 255)).all()
    assert replace(one, working_size=(16, 24)).label(id).shape == (16, 24)
    none = one_object(replace(sets[1], read_instances=lambda id: []))
    assert set(np.unique(none.label(id))) == {0, 255}
    assert one_object(sets[1]) is sets[1]


def test_the_answer_of_a_filled_box(sets):
    """The toy objects are rectangles, so their boxes are the answers."""
    assert object_scores(sets[1], filled_boxes(sets[1])) == {"miou_pictures": 1, "biou": 1}
