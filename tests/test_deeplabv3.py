"""DeepLabV3 by the recipe of DDC-AT: published numbers, layers, crops, windows of the test.

Numbers: config/voc2012/voc2012_aspp.yaml, tool_train/train_aspp.py, model/pspnet.py, tool_test/voc2012/test_voc_aspp.py
of github.com/dvlab-research/Robust-Semantic-Segmentation (Xu et al., ICCV 2021).
"""

import pytest
import timm
import torch
import toys
from torch.nn import functional as F

from unseg_lib.defenses import defenses_of
from unseg_lib.evaluation import confusion
from unseg_lib.options import with_options
from unseg_lib.seeds import torch_rng
from unseg_lib.victims import deeplabv3, training

TINY = "deeplabv3:tiny"


def tiny(classes: int = 2) -> deeplabv3.DeepLabV3:
    return deeplabv3.build("tiny", classes, "random", 0)


def run_of(sets, **changes):
    return toys.run_of(TINY, sets, **({"size": (33, 33), "batch_size": 4, "lr": 0.01} | changes))


def test_the_published_recipe(sets):
    """TRAIN: base_lr 0.01, power 0.9, momentum 0.9, weight_decay 0.0001, aux_weight 0.4, scale 0.5 to 2, rotate -10 to
    10, and poly_learning_rate's index_split=4, scale_lr=10; TEST: base_size 512, test_h 473, stride_rate 2/3.
    """
    model, run = tiny(), run_of(sets)
    encoder, others = deeplabv3.sgd(run, model).param_groups
    assert (encoder["factor"] * run.lr, others["factor"] * run.lr) == (0.01, pytest.approx(0.1))
    assert all((g["momentum"], g["weight_decay"], g["nesterov"]) == (0.9, 1e-4, False) for g in (encoder, others))
    assert {id(p) for p in encoder["params"]} == {id(p) for p in model.encoder.parameters()}
    assert len(encoder["params"]) + len(others["params"]) == len(list(model.parameters()))
    assert training.poly(300, 1000, 50) == pytest.approx(0.7**0.9) and training.Recipe().schedule is training.poly
    assert (deeplabv3.SCALE, deeplabv3.DEGREES, deeplabv3.HALF) == ((0.5, 2.0), 10, 0.5)
    assert deeplabv3.AUX_WEIGHT == 0.4 and deeplabv3.STRIDE == 2 / 3
    assert round(473 * deeplabv3.LONGER_SIDE) == 500 and round(473 * deeplabv3.LONGER_IN_TEST) == 512
    # the sigma that cv2.GaussianBlur(image, (5, 5), 0) takes
    assert deeplabv3.BLUR["sigma"][0] == pytest.approx(0.3 * ((5 - 1) * 0.5 - 1) + 0.8)
    # colours are left alone unless asked for
    assert with_options("tiny", {"tiny": deeplabv3.Variant()}, "encoder")[1].colour is False
    assert with_options("tiny colour=True", {"tiny": deeplabv3.Variant()}, "encoder")[1].colour is True


def test_layers_are_the_published_ones():
    """A stem of three convolutions, stride 8 by holes of 2 and 4, ASPP of rates 6, 12, 18 to 5 x 256 channels."""
    with torch.device("meta"):
        encoder = timm.create_model(deeplabv3.ENCODERS["resnet50"], features_only=True, out_indices=(3, 4))
        for name, rate in (("layer3", 2), ("layer4", 4)):
            deeplabv3.dilate(encoder[name], rate)
        model = deeplabv3.DeepLabV3(encoder, 21)
        features = model.encoder(torch.empty(2, 3, 473, 473))
    assert [tuple(one.shape[1:]) for one in features] == [(1024, 60, 60), (2048, 60, 60)]  # (473 - 1) / 8 + 1
    stem = [layer.out_channels for layer in encoder["conv1"] if isinstance(layer, torch.nn.Conv2d)]
    assert stem == [64, 64, 128]
    holes = {(name, c.dilation[0]) for name in ("layer2", "layer3", "layer4") for c in threes(encoder[name])}
    assert holes == {("layer2", 1), ("layer3", 2), ("layer4", 4)}
    assert [c.dilation[0] for c in threes(model.decoder)] == [6, 12, 18]
    # by hand: ASPP without biases, its norms, and two heads
    aspp = 2048 * 256 * (1 + 3 * 9 + 1) + 5 * 2 * 256
    heads = 1280 * 256 + 512 + 256 * 21 + 21 + 1024 * 256 + 512 + 256 * 21 + 21
    assert sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in encoder.parameters()) == aspp + heads
    assert [one.p for one in model.modules() if isinstance(one, torch.nn.Dropout2d)] == [0.1, 0.1]


def threes(layer: torch.nn.Module) -> list[torch.nn.Conv2d]:
    return [one for one in layer.modules() if isinstance(one, torch.nn.Conv2d) and one.kernel_size == (3, 3)]


def test_the_loss_is_main_and_four_tenths_auxiliary(sets):
    run, model, rng = run_of(sets), tiny().eval(), torch_rng("x")
    x, y = torch.rand(2, 3, 33, 33, generator=rng), torch.randint(2, (2, 33, 33), generator=rng)
    features = model.encoder(x)
    logits = (model.head(model.decoder.aspp(features[1])), model.auxiliary(features[0]))
    both = [F.cross_entropy(F.interpolate(one, (33, 33), mode="bilinear", align_corners=True), y) for one in logits]
    assert training.plain_loss(run, model, x, y).item() == pytest.approx((both[0] + 0.4 * both[1]).item(), rel=1e-5)


def test_crops_move_images_and_labels_together():
    y = torch.zeros(60, 80, dtype=torch.uint8)
    y[20:40, 30:60] = 1
    x = (100 + 100 * y).expand(3, -1, -1).contiguous()
    areas, turned = [], 0
    for seed in range(60):
        one, label = deeplabv3.crop(x, y, (97, 97), torch_rng(seed))
        assert one.shape == (3, 97, 97) and label.shape == (97, 97) and one.dtype == label.dtype == torch.uint8
        assert set(label.unique().tolist()) <= {0, 1, 255}
        border = torch.ones(97, 97, dtype=torch.bool)
        border[6:-6, 6:-6] = False  # what lies beyond is blurred in
        away = F.max_pool2d((label[None].float() - F.avg_pool2d(label[None].float(), 7, 1, 3)).abs(), 7, 1, 3)[0] == 0
        away &= ~border
        for value, (red, green) in {0: (100, 100), 1: (200, 200), 255: (124, 116)}.items():
            seen = one[:2, away & (label == value)].float() - torch.tensor([[red], [green]])
            assert not seen.numel() or seen.abs().max() <= 1  # turning rounds
        inside = label == 1
        areas.append(int(inside.sum()) / 600)
        rows = inside.sum(dim=1)
        turned += bool(len(set(rows[rows > 0].tolist())) > 3)  # a box that is not turned has equal rows
    assert 0.25 * 0.8 < min(areas) < 0.6 and max(areas) > 2
    assert 10 < turned < 50
    again = [deeplabv3.crop(x, y, (97, 97), torch_rng(3)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again))


def test_windows_cover_the_image_as_published():
    """Steps of ceil(473 * 2/3) = 316 pixels, the last window at the end."""
    found = list(deeplabv3.windows((473, 1000), (473, 473)))
    assert [(rows.start, columns.start) for rows, columns in found] == [(0, 0), (0, 316), (0, 527)]
    assert list(deeplabv3.windows((473, 473), (473, 473))) == [(slice(0, 473), slice(0, 473))]


def test_a_prediction_is_the_mean_of_windows_and_mirrors(sets):
    """A model that knows only the place in its window: what it says of a pixel is the mean over windows and mirrors."""
    run = run_of(sets, size=(8, 8))

    class Place(torch.nn.Module):
        def forward(self, x):
            left = (torch.arange(8) < 3).float().expand(len(x), 8, 8)  # sure of class 1 in the first three columns
            return 20 * torch.stack([1 - left, left], dim=1)

    x = torch.zeros(3, 8, 10, dtype=torch.uint8)
    expected = torch.zeros(2, 10)
    for start in (0, 2):  # steps of 6; the last window ends with the image
        for columns in (range(3), range(5, 8)):  # as it is, and mirrored
            for column in range(8):
                expected[0, start + column] += column in columns
                expected[1, start + column] += 1
    assert deeplabv3.predict(run, Place(), x, (8, 10))[0].tolist() == (expected[0] * 2 > expected[1]).long().tolist()


def test_the_test_is_scored_at_the_labels_own_size(sets):
    run, model = run_of(sets), tiny()
    x, y = deeplabv3.read(run, sets[1], "test")
    assert {one.shape for one in y} == {(32, 48)} and {one.shape[1:] for one in x} == {(24, 36)}  # 33 * 512 / 473 = 36
    assert {one.shape for one in deeplabv3.read(run, sets[1], "training")[1]} == {(23, 35)}
    with torch.no_grad():
        model.head[-1].weight.zero_(), model.head[-1].bias.copy_(torch.tensor([0.0, 1.0]))
    matrix = sum(confusion(torch.ones_like(one), one, 2) for one in y)
    assert deeplabv3.scores(run, model, (x, y)) == training.scores_of(matrix)


def test_ddc_at_has_heads_of_256_channels(sets):
    model = defenses_of("ddc_at")[0].prepare(run_of(sets), tiny())
    assert model.cls1[0].weight.shape[:2] == (256, 1280) and model.aux[0].weight.shape[:2] == (192, 192)


def test_an_encoder_s_weights_leave_the_heads_as_they_are(tmp_path):
    model, path = deeplabv3.build("tiny", 3, "random", 5), tmp_path / "encoder.pth"
    torch.save(model.encoder.state_dict() | {"fc.weight": torch.zeros(3)}, path)
    part = deeplabv3.build("tiny", 3, str(path), 0)
    assert torch.equal(part.encoder["layer4"][0].conv1.weight, model.encoder["layer4"][0].conv1.weight)
    assert not torch.equal(part.head[0].weight, model.head[0].weight)
