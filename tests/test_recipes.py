"""The victims' recipes beside their published numbers; each source is named. DeepLabV3's are in test_deeplabv3.py."""

import math
from dataclasses import replace
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from toys import MASK2FORMER, RSPROMPTER, run_of

from unseg_lib import UnsegError
from unseg_lib.method import LAYOUTS as SAMS
from unseg_lib.method import BilevelConfig, Game, Generator
from unseg_lib.options import with_options
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import mask2former, rsprompter, sam_hq, training
from unseg_lib.victims.data import random_windows
from unseg_lib.victims.mask2former import data as instances
from unseg_lib.victims.mask2former import outputs
from unseg_lib.victims.mask2former.model import LAYOUTS, STAGES, Layout, build

# the published configs in the words of our options, as docs/recipes.md has them
ADE20K = "resnet50 fit=shorter"
CITYSCAPES = "resnet50 crop=0.5 norm=trained"
COCO = "resnet50 fit=lsj scale_low=0.1 colour=False schedule=steps"


# what the profile paper has of them; sources are with each test below, in docs/recipes.md and in test_paper_plan.py
MIXED = {"init": "imagenet", "batch_size": 16, "lr": 1e-4, "precision": "bf16"}
SAM = {"init": "data/weights/sam_vit_b_01ec64.pth"}
PLANNED = [
    ("victims", "deeplabv1", {"size": [321, 321], "epochs": 30, "batch_size": 16, "lr": 7e-4}),
    ("victims", "deeplabv3-r50", {"size": [473, 473], "epochs": 50, "batch_size": 16, "lr": 0.01}),
    ("victims", "sam-hq", SAM | {"victim": "sam-hq:vit_b", "epochs": 12, "batch_size": 32, "lr": 1e-3}),
    *(("victims", name, MIXED) for name in ("mask2former-r50", "mask2former-r50-half", "mask2former-swin-t-lsj")),
    ("victims", "rsprompter-nwpu", MIXED | SAM | {"victim": "rsprompter:vit_b queries=70", "epochs": 600}),
    ("victims", "rsprompter-whu", MIXED | SAM | {"victim": "rsprompter:vit_b queries=100", "epochs": 300}),
    ("victims", "rsprompter-ssdd", MIXED | SAM | {"victim": "rsprompter:vit_b queries=30", "epochs": 600}),
    ("datasets", "ade20k", {"size": [512, 512], "epochs": 127, "file_format": "jpg"}),
    *(("datasets", f"ade20k-{task}", {"size": [640, 640], "epochs": 127}) for task in ("instance", "panoptic")),
    ("datasets", "cityscapes-panoptic", {"size": [1024, 2048], "epochs": 484}),
    ("datasets", "coco-panoptic", {"size": [1024, 1024], "epochs": 50, "file_format": "jpg"}),
    ("datasets", "coco-instance", {"dataset": "coco-instances", "size": [1024, 1024], "epochs": 50}),
    ("datasets", "coco-detection", {"dataset": "coco-instances", "size": [800, 1333], "file_format": "jpg"}),
    ("recipes", "ar", {"poison": "ar_tiles"}),
    ("generators", "sam-vit-b", {"tokens": "released", "validation": "dis5k@val,coift,hrsod,thinobject5k"}),
    ("generators", "resnet50-surrogate", {"mae_weights": "data/weights/resnet50-0676ba61.pth"}),
    ("generators", "sam-surrogate", {"mae_weights": SAM["init"], "sam_weights": SAM["init"], "surrogate": "sam"}),
]
# the options of all victims of a family, by their data set
OPTIONS = {"ade20k": ADE20K, "cityscapes": CITYSCAPES, "coco-panoptic": COCO, "coco-instances": COCO}


@pytest.mark.parametrize(("section", "name", "values"), PLANNED)
def test_the_profile_paper_has_the_published_value(paper, section, name, values):
    assert values.items() <= getattr(paper, section)[name].items()


def test_every_run_of_the_profile_paper_is_by_its_set_s_recipe(paper):
    for values in (one.values for one in paper.stages.values() if one.kind == "victim"):
        if values["victim"].startswith("mask2former"):
            assert values["victim"].partition(" ")[2] == OPTIONS[values["dataset"]].partition(" ")[2]
        if values["victim"].startswith("deeplabv3"):  # without its colour changes, a defence of their own
            assert values["victim"] == "deeplabv3:resnet50"


def layout_of(words: str):
    return with_options(words, LAYOUTS, "Mask2Former")[1]


# learning rates and schedules


def test_mask2former_on_coco_drops_at_the_published_steps():
    """Base-COCO-InstanceSegmentation.yaml: STEPS (327778, 355092), MAX_ITER 368750, detectron2's GAMMA 0.1;
    WARMUP_FACTOR 1.0 makes of its 10 warm-up iterations none.
    """
    at = partial(training.steps, total=368_750, epochs=50)
    assert [at(step) for step in (0, 9, 327_777, 327_778)] == [1, 1, 1, pytest.approx(0.1)]
    assert [at(step) for step in (355_091, 355_092, 368_749)] == pytest.approx([0.1, 0.01, 0.01])
    assert layout_of(COCO).schedule == "steps"
    assert {layout_of(words).schedule for words in (ADE20K, CITYSCAPES)} == {"poly"}  # WarmupPolyLR
    assert training.POLY_POWER == 0.9  # detectron2's POLY_LR_POWER, and DDC-AT's and MCTformer's `power`


def test_rsprompter_warms_up_and_falls_by_half_a_wave():
    """rsprompter_query-nwpu.py: LinearLR from 0.001 in iterations 0 to 50, CosineAnnealingLR by epoch from 1 to 600
    with eta_min 0.001 of the rate; mmengine is asked what it makes of that.
    """
    from mmengine.optim.scheduler import CosineAnnealingLR, LinearLR

    epochs, per_epoch, rate = 6, 20, 1e-4
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    warm = LinearLR(optimiser, start_factor=0.001, by_epoch=False, begin=0, end=50)
    wave = CosineAnnealingLR(optimiser, eta_min=rate * 0.001, begin=1, end=epochs, T_max=epochs, by_epoch=True)
    published, ours = [], []
    for step in range(epochs * per_epoch):
        published.append(optimiser.param_groups[0]["lr"])
        ours.append(rate * training.cosine(step, epochs * per_epoch, epochs))
        optimiser.step()
        warm.step()
        if (step + 1) % per_epoch == 0:
            wave.step()
    # in the warm-up's second and third epoch mmengine's two schedules, which work on each other's rates, mix otherwise
    settled = slice(50, None)
    assert ours[:20] == pytest.approx(published[:20]) and ours[0] == pytest.approx(1e-7)
    assert ours[settled] == pytest.approx(published[settled], rel=0.02)
    one = rsprompter.LAYOUTS["vit_b"]
    assert (one.schedule, rsprompter.CLIP, rsprompter.WEIGHT_DECAY) == ("cosine", 0.1, 0.05)


@pytest.mark.parametrize(
    ("schedule", "second"), [(training.cosine, 1e-3 + 0.999 / 49), (training.Recipe().schedule, 0.5**0.9)]
)
def test_a_recipe_s_schedule_reaches_the_optimiser_and_keeps_the_ratio_of_its_groups(shaped, schedule, second):
    run, seen = run_of(MASK2FORMER, shaped, size=(32, 32), epochs=1, lr=0.02), []  # two steps
    model = torch.nn.Conv2d(3, 1, 1)
    groups = [{"params": [model.weight], "factor": 1.0}, {"params": [model.bias], "factor": 10.0}]
    optimiser = torch.optim.SGD(groups, lr=0.02)
    optimiser.step = lambda: seen.append([group["lr"] / 0.02 for group in optimiser.param_groups])
    loss = lambda run, model, *_: model(torch.zeros(1, 3, 2, 2)).sum()  # noqa: E731
    training.train_epoch(run, model, optimiser, training.Recipe(loss=loss, schedule=schedule), None, 1)
    assert seen == [pytest.approx([share, 10 * share]) for share in (schedule(0, 2, 1), second)]


# norms


def test_norms_of_a_pretrained_resnet_stay_except_on_cityscapes(tmp_path):
    """Base-ADE20K-*.yaml and Base-COCO-*.yaml leave MODEL.RESNETS.NORM at detectron2's FrozenBN ("# NORM: SyncBN" is a
    comment there), Base-Cityscapes-*.yaml has "SyncBN".
    """
    assert [layout_of(words).norm for words in (ADE20K, COCO, CITYSCAPES)] == ["frozen", "frozen", "trained"]
    tiny = layout_of(MASK2FORMER.partition(":")[2])
    build(tiny, 4, "random", 3).encoder.save_pretrained(tmp_path)
    for norm, init in (("frozen", str(tmp_path)), ("trained", str(tmp_path)), ("frozen", "random")):
        still = norm == "frozen" and init != "random"
        model = build(replace(tiny, norm=norm), 4, init, 0).train()
        of = [layer for layer in model.encoder.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        assert len(of) > 4 and all(layer.weight.requires_grad != still for layer in of)
        before = of[0].running_mean.clone()
        model(torch.rand(2, 3, 64, 64, generator=torch_rng("x")))
        assert torch.equal(before, of[0].running_mean) == still


# sizes, crops, augmentation


def test_published_sizes():
    """INPUT of the configs: COCO's LSJ, IMAGE_SIZE 1024, MIN_SCALE 0.1, MAX_SCALE 2, detectron2's MIN_SIZE_TEST 800 and
    MAX_SIZE_TEST 1333; ADE20K's MIN_SIZE_TRAIN 0.5 to 2 x 512 (640), MAX_SIZE_TRAIN 2048 (2560), MIN_SIZE_TEST 512
    (640), CROP.SIZE the same; Cityscapes' CROP.SIZE (512, 1024) of 1024 x 2048; RSPrompter's RandomResize of
    (1024, 1024) by 0.1 to 2 with keep_ratio, and Resize and Pad to 1024 in the test.
    """
    training_size, test_size = instances.FITS["lsj"]
    assert training_size((480, 640), (1024, 1024)) == (768, 1024)
    tested = {(480, 640): (800, 1067), (640, 480): (1067, 800), (300, 900): (444, 1333)}
    assert {one: test_size(one, (1024, 1024)) for one in tested} == tested
    for side in (512, 640):
        for rule in instances.FITS["shorter"]:
            assert rule((300, 400), (side, side)) == (side, round(side * 4 / 3))
            assert max(rule((100, 1000), (side, side))) == 4 * side
    assert [rule((500, 1000), (1024, 1024)) for rule in instances.FITS["pad"]] == [(512, 1024)] * 2
    coco, ade, city = map(layout_of, (COCO, ADE20K, CITYSCAPES))
    assert (coco.fit, coco.scale_low, coco.scale_high, coco.crop, coco.colour) == ("lsj", 0.1, 2.0, 1.0, False)
    assert (ade.fit, ade.scale_low, ade.scale_high, ade.crop, ade.colour) == ("shorter", 0.5, 2.0, 1.0, True)
    assert (city.scale_low, city.scale_high, city.crop, city.colour) == (0.5, 2.0, 0.5, True)  # COLOR_AUG_SSD
    one = rsprompter.LAYOUTS["vit_b"]
    assert (one.fit, one.scale_low, one.scale_high, one.sam.image_size) == ("pad", 0.1, 2.0, 1024)


def test_what_has_no_published_numbers_stays_as_it_was():
    """The small victims, which the other profiles train."""
    for one in (LAYOUTS["tiny"], LAYOUTS["lite0"]):
        assert (one.fit, one.schedule, one.norm) == ("squash", "poly", "trained")
    for one in (rsprompter.LAYOUTS["small"], rsprompter.LAYOUTS["tiny"]):
        assert (one.fit, one.schedule, one.pyramid) == ("squash", "poly", False)
    x = torch.zeros(3, 3, 10, 14)
    plain = random_windows(x, (0.5, 2.0), torch_rng("w"), 0.5)
    assert torch.equal(plain, random_windows(x, (0.5, 2.0), torch_rng("w"), 0.5, (10, 14), [(10, 14)] * 3))


def test_windows_of_images_that_keep_their_ratio():
    """A white image, 20 x 60 in the corner of a canvas: at scale 1 a window of 40 x 40 shows 20 rows and 40 columns."""
    x = torch.zeros(1, 3, 64, 96)
    x[:, :, :20, :60] = 1
    mask, classes, starts = torch.ones(1, 20, 60, dtype=torch.bool), [torch.zeros(1)], set()
    for seed in range(12):
        how = {"size": (40, 40), "shapes": [(20, 60)]}
        seen, (moved,), _ = instances.augment(x, [mask], classes, (1.0, 1.0), torch_rng(seed), **how)
        assert seen.shape == (1, 3, 40, 40)
        rows, columns = (seen[0, 0] > 0.5).any(dim=1), (seen[0, 0] > 0.5).any(dim=0)
        assert abs(int(rows.sum()) - 20) <= 1 and int(columns.sum()) == 40
        assert ((seen[0, 0] > 0.5) != moved[0]).float().mean() < 0.06  # bilinear against nearest, at the edge
        starts.add(int(rows.float().argmax()))
    assert len(starts) > 3
    # twice as large it fills the window, half as large it is 10 x 30
    scaled = partial(instances.augment, x, [mask], classes, **how)
    large, small = (scaled((scale, scale), torch_rng(0))[0][0, 0] for scale in (2, 0.5))
    assert (large > 0.99).float().mean() > 0.9 and abs(float((small > 0.5).sum()) - 300) < 45


@pytest.mark.parametrize("fit", ["lsj", "shorter", "pad"])
def test_images_keep_their_ratio_and_objects_are_scored_at_full_size(shaped, fit):
    """The truth as logits, at the size a model sees: masks come back to the image's own pixels with AP 1."""
    run = run_of(MASK2FORMER, shaped, task="instance", size=(96, 96))
    learnt, test = (instances.read(run, one, what, fit) for one, what in zip(shaped, ("training", "test")))
    expected = {"lsj": ((72, 96), (75, 100)), "shorter": ((96, 128), (96, 128)), "pad": ((72, 96), (72, 96))}[fit]
    assert [tuple(one.x[0].shape[1:]) for one in (learnt, test)] == list(expected)  # of images of 48 x 64
    assert learnt.size(0) == expected[0] and test.size(0) == (48, 64)
    assert learnt.masks(0).shape[1:] == expected[0] and test.masks(0).shape[1:] == (48, 64)
    x, shapes = test.batch([0, 1])
    assert shapes == [expected[1]] * 2 and all(side % 32 == 0 for side in x.shape[2:])
    assert fit != "pad" or x.shape[2:] == (96, 96)
    assert (x[:, :, expected[1][0] :] == instances.GRAY).all()

    class Truth(torch.nn.Module):
        """Says what is true of one image after the other, on a quarter of the canvas that it is shown."""

        layout, numbers = LAYOUTS["tiny"], count()

        def forward(self, x):
            i = next(self.numbers)
            masks, classes = test.masks(i).float(), test.classes[i]
            height, width = test.x[i].shape[1:]
            whole = torch.full((len(masks) + 1, *x.shape[2:]), -20.0)
            if len(masks):
                resized = torch.nn.functional.interpolate(masks[None], (height, width), mode="bilinear")[0]
                whole[:-1, :height, :width] = resized * 40 - 20
            named = torch.full((1, len(whole), 5), -20.0)
            named[0, torch.arange(len(classes)), classes], named[0, -1, -1] = 20.0, 20.0
            return SimpleNamespace(class_queries_logits=named, masks_queries_logits=whole[None])

    assert outputs.scores(run, Truth(), test)["scores"]["AP"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [("fit=square", "'square'; did you mean 'squash'"), ("schedule=step", "'step'; did you"), ("norm=sync", "'sync'")],
)
def test_unknown_words_are_refused(words, message):
    with pytest.raises(UnsegError, match=f"Unknown {words.partition('=')[0]} of Mask2Former {message}"):
        layout_of(f"tiny {words}")


TRAINED = [(mask2former, MASK2FORMER, "lsj", "steps"), (mask2former, MASK2FORMER, "shorter", "poly")]
TRAINED += [(rsprompter, RSPROMPTER, "pad", "cosine")]


@pytest.mark.parametrize(("family", "victim", "fit", "schedule"), TRAINED)
def test_a_training_is_by_its_recipe(shaped, tmp_path, monkeypatch, family, victim, fit, schedule):
    options, plain, handed = f"fit={fit} schedule={schedule}", family.fit, []
    monkeypatch.setattr(family, "fit", lambda *parts: (handed.append(parts), plain(*parts))[1])
    run = run_of(f"{victim} {options}", shaped, task="instance", size=(32, 32), epochs=1, batch_size=2, out=tmp_path)
    result = family.train(run)
    ((_, _, recipe),) = handed
    assert recipe.schedule is training.SCHEDULES[schedule]
    seen = {"lsj": (24, 32), "shorter": (32, 43), "pad": (24, 32)}[fit]  # of images of 48 x 64
    assert tuple(recipe.read(run, shaped[0], "training").x[0].shape[1:]) == seen
    assert math.isfinite(result["epochs"][0]["loss"]) and set(result["final"]) >= {"AP", "APs"}


# the others, in numbers


def test_numbers_of_layouts_and_losses():
    """SysCV/sam-hq, train/train.py: lr_drop_epoch 10 of max_epoch_num 12; large_scale_jitter of 0.1 to 2."""
    one = sam_hq.MODELS["vit_b"]
    assert (one.drop, one.scale_low, one.scale_high) == (10 / 12, 0.1, 2.0)
    assert (one.points, one.filled_box) == (112 * 112, False)
    one = rsprompter.LAYOUTS["vit_h"]
    assert (one.queries, one.tokens, one.points, one.draw_all) == (70, 5, 12544, True)
    assert (rsprompter.CLASS, rsprompter.MASK, rsprompter.NO_OBJECT) == (2, 5, 0.1)
    assert {name: layout.sam for name, layout in rsprompter.LAYOUTS.items()} == SAMS | {"lite0": SAMS["small"]}
    assert LAYOUTS["resnet50"] == Layout(("ResNetConfig", STAGES), "microsoft/resnet-50")
    assert (LAYOUTS["resnet50"].backbone_lr, mask2former.CLIP, mask2former.WEIGHT_DECAY) == (0.1, 0.01, 0.05)
    assert LAYOUTS["swin-tiny"].backbone[1]["drop_path_rate"] == 0.3


# the generator


def test_the_released_slice_of_tokens_is_a_training_option():
    assert BilevelConfig().tokens == Generator.__init__.__kwdefaults__["tokens"] == "corrected"
    with pytest.raises(UnsegError, match="Expected tokens to be one of corrected, released, found 'both'"):
        BilevelConfig(tokens="both")

    class Fabric:
        def setup(self, player, optimiser):
            return player, optimiser

    how = {"layout": "tiny", "surrogate": "unet", "surrogate_size": 32, "scales": (0.5, 1.5)}
    for tokens in ("corrected", "released"):
        assert Game(BilevelConfig(**how, tokens=tokens), Fabric()).players["generator"].tokens == tokens
