"""Boundary IoU, average precision and panoptic quality against scores by hand and against other implementations."""

import json
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unseg_lib import UnsegError
from unseg_lib.datasets import load_dataset
from unseg_lib.evaluation import average_precision, panoptic_quality
from unseg_lib.images import boundary_iou

SIZE = (20, 30)
CLASSES = ("background", "car", "tree")
CAR, TREE = 1, 2
NOTHING = (np.zeros((0, *SIZE), bool), np.zeros(0, int))


def box(top: int, left: int, bottom: int, right: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def objects(*found: np.ndarray, label: int = CAR, **more: list) -> tuple[np.ndarray, ...]:
    """Masks or boxes of one class; more: a third array, scores or crowds."""
    return np.stack(found), np.full(len(found), label), *(np.array(values) for values in more.values())


SMALL = box(0, 0, 10, 10)


# boundary IoU


def test_border_by_hand():
    # a diagonal of 100 pixels gives a border of 2; squares of 10 pixels have borders of 10² - 6² = 64
    truth = box(20, 20, 30, 30, (60, 80))
    assert boundary_iou(truth, truth) == 1
    shifted = box(20, 21, 30, 31, (60, 80))
    # in both: the 9 shared columns of the rows 20, 21, 28, 29, and in the 6 rows between columns 21 and 29
    both = 4 * 9 + 6 * 2
    assert boundary_iou(shifted, truth) == pytest.approx(both / (64 + 64 - both))
    assert boundary_iou(box(22, 22, 28, 28, (60, 80)), truth) == 0  # IoU 0.36, but no border in common
    everything, inner = np.ones((60, 80), bool), box(2, 2, 58, 78, (60, 80))
    assert boundary_iou(everything & ~inner, everything) == 1  # the edge of the image is outline
    assert boundary_iou(box(5, 0, 6, 30), box(5, 0, 7, 30)) == 0.5  # a thin mask is all border
    empty = np.zeros(SIZE, bool)
    assert boundary_iou(empty, empty) == 1
    assert boundary_iou(empty, box(2, 2, 5, 5)) == boundary_iou(box(2, 2, 5, 5), empty) == 0
    with pytest.raises(UnsegError, match="Expected masks of one size, found 20x30 and 20x31"):
        boundary_iou(np.ones(SIZE, bool), np.ones((20, 31), bool))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.tuples(st.integers(1, 120), st.integers(1, 120)))
def test_border_equals_repeated_erosion(seed, size):
    from scipy.ndimage import binary_erosion

    rng = np.random.default_rng(seed)
    pair = [np.kron(rng.random((9, 9)) < 0.7, np.ones((14, 14), bool))[: size[0], : size[1]] for _ in range(2)]
    width = max(1, round(0.02 * float(np.sqrt(size[0] ** 2 + size[1] ** 2))))
    borders = [mask & ~binary_erosion(mask, np.ones((3, 3)), width) for mask in pair]
    union = (borders[0] | borders[1]).sum()
    assert boundary_iou(*pair) == (pytest.approx((borders[0] & borders[1]).sum() / union) if union else 1)


# average precision

BIG = (200, 200)
SQUARES = [box(0, 0, side, side, BIG) for side in (31, 40, 100)]
# the better of two guesses hits one of two exactly: precision 1 at the recalls 0, 0.01, ..., 0.5
HALF = dict.fromkeys(("AP", "AP50", "AP75", "APs", "AP:car"), 51 / 101)
HALF |= dict.fromkeys(("APm", "APl", "AP:tree", "AP:background"))
SIXTY = {"AP50": 1, "AP75": 0, "AP": 0.3}  # of 100 pixels: counts at 0.50, 0.55 and 0.60
CROWD, IN_A_CROWD = box(10, 0, 20, 30), objects(box(10, 3, 20, 9), SMALL, scores=[0.9, 0.8])
BY_HAND = {
    "half found": (objects(SMALL, box(10, 20, 20, 30)), objects(SMALL, box(0, 20, 5, 30), scores=[0.9, 0.4]), HALF),
    "thresholds": (objects(SMALL, label=TREE), objects(box(0, 0, 6, 10), label=TREE, scores=[0.5]), SIXTY),
    "a better wrong guess": (objects(SMALL), objects(SMALL, box(10, 10, 20, 20), scores=[0.3, 0.8]), {"AP": 0.5}),
    # 31², 40² and 100² pixels
    "only the largest": (objects(*SQUARES), objects(SQUARES[2], scores=[1]), {"APs": 0, "APm": 0, "APl": 1}),
    "what is found in a crowd does not count": (objects(SMALL, CROWD, crowd=[False, True]), IN_A_CROWD, {"AP": 1}),
    "without the crowd": (objects(SMALL), IN_A_CROWD, {"AP": 0.5}),
}


@pytest.mark.parametrize("case", BY_HAND)
def test_average_precision_by_hand(case):
    truth, guess, expected = BY_HAND[case]
    found = average_precision([truth], [guess], CLASSES)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert set(found) == set(HALF)


@pytest.mark.parametrize("kind", ["mask", "box"])
def test_no_predictions_and_no_truths(kind):
    truth, region = objects(SMALL), box(0, 0, 5, 5) if kind == "mask" else np.array([0, 0, 5, 5])
    no_guess = (NOTHING[0] if kind == "mask" else np.zeros((0, 4)), NOTHING[1], np.zeros(0))
    found = average_precision([truth, NOTHING], [no_guess, no_guess], CLASSES, kind)
    assert found["AP"] == found["APs"] == 0 and found["AP:tree"] is None
    assert set(average_precision([NOTHING], [objects(region, scores=[1])], CLASSES, kind).values()) == {None}
    assert set(average_precision([], [], CLASSES, kind).values()) == {None}


def test_a_guess_in_an_empty_image_costs():
    guesses = [objects(SMALL, scores=[0.5]), objects(box(0, 0, 5, 5), scores=[0.6])]
    assert average_precision([objects(SMALL), NOTHING], guesses, CLASSES)["AP"] == pytest.approx(0.5)


def test_boxes_by_hand():
    # IoU of 10x10 with 10x8 pixels is 0.8: thresholds 0.50 to 0.80
    guess = objects(np.array([4.0, 2, 14, 10]), scores=[0.5])
    found = average_precision([objects(np.array([4.0, 2, 14, 12]))], [guess], CLASSES, "box")
    assert found["AP"] == pytest.approx(0.7) and found["AP75"] == pytest.approx(1)
    assert average_precision([objects(box(2, 4, 12, 14))], [guess], CLASSES, "box") == found
    # a diagonal line 50 pixels long has a box of 50² pixels, but 50 pixels of its own
    line = np.zeros((60, 60), bool)
    line[range(50), range(50)] = True
    guess = objects(np.array([0, 0, 50, 50]), scores=[1])
    found = average_precision([objects(line)], [guess], CLASSES, "box")
    assert found["APs"] == pytest.approx(1) and found["APm"] is None
    boxes = average_precision([guess[:2]], [guess], CLASSES, "box")
    assert boxes["APs"] is None and boxes["APm"] == pytest.approx(1)


def test_average_precision_is_silent_and_takes_generators(capfd):
    truths, guesses = (objects(SMALL) for _ in range(3)), (objects(SMALL, scores=[1]) for _ in range(3))
    assert average_precision(truths, guesses, CLASSES)["AP"] == pytest.approx(1)
    assert capfd.readouterr() == ("", "")


@pytest.mark.real
@pytest.mark.parametrize("kind", ["mask", "box"])
@pytest.mark.parametrize("name", ["nwpu", "coco"])
def test_scores_of_real_objects_equal_pycocotools_on_the_json(name, kind, data_root):
    """Our arrays of the data set against pycocotools on the official json, with areas and boxes made of its masks."""
    from pycocotools import mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found = load_dataset(name, data_root, "test", limit=12)
    content = json.loads((data_root / found.annotation_files[0]).read_text())
    numbers = {image["file_name"].split(".")[0]: image["id"] for image in content["images"]}
    categories = sorted(category["id"] for category in content["categories"])
    truths, guesses, results, rng = [], [], [], np.random.default_rng(0)
    for id in found.ids:
        objects = found.instances(id)
        truths.append((np.stack([one.mask for one in objects]), np.array([one.class_index for one in objects])))
        # every second object, shifted by some pixels, and some as another class
        chosen, labels = truths[-1][0][::2], truths[-1][1][::2].copy()
        chosen = np.stack([np.roll(mask, rng.integers(0, 4), 1) for mask in chosen])
        labels[rng.random(len(labels)) < 0.2] = 1
        scores = rng.random(len(labels))
        packed = mask.encode(np.asfortranarray(np.moveaxis(chosen, 0, 2), np.uint8))
        boxes = mask.toBbox(packed)  # left, top, width, height
        edges = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        guesses.append((chosen if kind == "mask" else edges, labels, scores))
        what, shapes = ("segmentation", packed) if kind == "mask" else ("bbox", boxes.tolist())
        results += [
            {"image_id": numbers[id], "category_id": categories[label - 1], "score": score, what: shape}
            for label, score, shape in zip(labels, scores, shapes)
        ]
    ours = average_precision(truths, guesses, found.classes, kind)

    truth = COCO(str(data_root / found.annotation_files[0]))
    for note in truth.anns.values():  # in the json they are those of the polygons, not of the pixels
        packed = truth.annToRLE(note)
        note.update(area=float(mask.area(packed)), bbox=mask.toBbox(packed).tolist())
    evaluation = COCOeval(truth, truth.loadRes(results), {"mask": "segm", "box": "bbox"}[kind])
    evaluation.params.imgIds = [numbers[id] for id in found.ids]
    evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
    theirs = dict(zip(("AP", "AP50", "AP75", "APs", "APm", "APl"), evaluation.stats))
    assert 0.05 < ours["AP"] < 0.95
    assert {key: ours[key] if ours[key] is not None else -1 for key in theirs} == pytest.approx(theirs)


# panoptic quality

SCENE = ("road", "sky", "car", "person")
THINGS = (2, 3)
QUALITY = partial(panoptic_quality, classes=SCENE, things=THINGS)


def panoptic(truth: tuple, guess: tuple) -> dict[str, float | None]:
    return QUALITY([truth], [guess])


def test_panoptic_by_hand():
    road, sky = box(10, 0, 20, 30), box(0, 0, 10, 30)
    one, two = box(12, 0, 16, 10), box(12, 15, 16, 25)
    truth = (np.stack([road & ~one & ~two, sky, one, two]), np.array([0, 1, 2, 2]))
    # the sky is exact; of the cars one is hit with IoU 30/40, the other missed; a person is made up on the road
    near, nobody = box(12, 0, 15, 10), box(17, 25, 20, 30)
    found = panoptic(truth, (np.stack([road & ~near & ~nobody, sky, near, nobody]), np.array([0, 1, 2, 3])))
    # road: 300-80 true, 300-30-15 found; both lack `one`'s upper 30 pixels and found lacks 15 of the true
    road_iou = (220 - 15) / (255 + 220 - 205)
    expected = {"road": road_iou, "sky": 1, "car": 0.75 / 1.5, "person": 0}
    assert {name: found[f"PQ:{name}"] for name in SCENE} == pytest.approx(expected)
    assert found["PQ"] == pytest.approx(np.mean(list(expected.values())))
    assert (found["PQ_things"], found["PQ_stuff"]) == pytest.approx((0.25, (1 + road_iou) / 2))
    assert (found["SQ_things"], found["RQ_things"]) == pytest.approx((0.75 / 2, (1 / 1.5) / 2))
    assert (found["SQ_stuff"], found["RQ_stuff"]) == pytest.approx(((1 + road_iou) / 2, 1))


def test_a_crowd_excuses_only_its_own_class():
    """COCO's rule: nobody need find a crowd; a car on a crowd of cars is no mistake, a person on it is one."""
    truth = objects(SMALL, box(10, 0, 20, 20), label=2, crowd=[False, True])
    for label, person in {2: None, 3: 0}.items():
        found = panoptic(truth, (np.stack([SMALL, box(11, 0, 19, 20)]), np.array([2, label])))
        assert found["PQ:car"] == 1 and found["PQ:person"] == person
    assert panoptic(truth, objects(SMALL, label=2))["PQ:car"] == 1
    # half on the crowd, half on the car: the crowd is part of the union, 60 of 140
    assert panoptic(truth, objects(box(4, 0, 14, 10), label=2))["PQ:car"] == 0


def test_void_is_ignored():
    truth = objects(box(0, 0, 10, 20))  # everything else is void
    # the sky reaches into the void by a third, the car lies in it: no mistake
    found = panoptic(truth, (np.stack([box(0, 0, 10, 30), box(12, 0, 18, 9)]), np.array([1, 2])))
    assert found["PQ:sky"] == found["PQ"] == 1 and found["PQ:car"] is found["PQ_things"] is None
    # 20 of its 60 pixels are sky, 40 void; then the other way round
    assert panoptic(truth, objects(box(9, 0, 12, 20), label=2))["PQ:car"] is None
    assert panoptic(truth, objects(box(8, 0, 11, 20), label=2))["PQ:car"] == 0


def test_no_segments():
    found = QUALITY([objects(box(0, 0, 10, 20), label=2), NOTHING], [NOTHING, NOTHING])
    assert found["PQ"] == found["SQ"] == found["RQ"] == found["PQ_things"] == 0  # missed, however silently
    assert found["PQ_stuff"] is found["PQ:person"] is None
    assert set(panoptic(NOTHING, NOTHING).values()) == {None}
    assert set(QUALITY([], []).values()) == {None}


def test_stuff_of_one_class_is_one_segment_and_things_are_not():
    halves = box(0, 0, 20, 10), box(0, 20, 20, 30)
    for label, score in {1: 1, 2: 0}.items():
        found = panoptic(objects(halves[0] | halves[1], label=label), objects(*halves, label=label))
        assert found["PQ"] == score


def test_counts_are_summed_over_images():
    truth = objects(SMALL, label=2)
    found = QUALITY((truth for _ in range(2)), iter([truth, NOTHING]))
    assert (found["SQ"], found["RQ"]) == (1, pytest.approx(1 / 1.5))


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31))
def test_panoptic_equals_torchmetrics_where_every_pixel_is_predicted(seed):
    """With segments everywhere in the predictions the two must agree; void is in the truth only."""
    import torch
    from torchmetrics.detection import PanopticQuality

    rng = np.random.default_rng(seed)
    metric = PanopticQuality(things=THINGS, stuffs=(0, 1), return_per_class=True)
    images = [[], []]
    for _ in range(2):
        cells = rng.integers(0, 6, (4, 5))
        changed = np.where(rng.random((8, 10)) < 0.3, rng.integers(0, 6, (8, 10)), cells.repeat(2, 0).repeat(2, 1))
        maps, kinds = [cells.repeat(4, 0).repeat(4, 1), changed.repeat(2, 0).repeat(2, 1)], rng.integers(0, 4, 6)
        void = maps[0] == 5
        for found, numbers in zip(images, maps):
            found.append((np.stack([numbers == i for i in range(6)]), kinds))
        images[0][-1] = (images[0][-1][0][:5], kinds[:5])
        pairs = [torch.as_tensor(np.stack([kinds[numbers], numbers], -1)) for numbers in maps]
        pairs[0][torch.as_tensor(void)] = 255
        metric.update(pairs[1][None], pairs[0][None])
    ours, theirs = QUALITY(*images), metric.compute()[0].tolist()
    for name, value in zip(("car", "person", "road", "sky"), theirs):
        assert (ours[f"PQ:{name}"] or 0) == pytest.approx(value)


# what is refused

PRECISION, CARS = partial(average_precision, classes=CLASSES), objects(SMALL)
SMALLER = np.ones((1, 5, 5), bool)


@pytest.mark.parametrize(
    ("score", "truths", "guesses", "words"),
    [
        (PRECISION, [CARS], [(NOTHING[0], [1], [0.5])], "found lengths 0, 1, 1"),
        (PRECISION, [objects(SMALL, label=3)], [(*NOTHING, [])], "0 to 2 in the truth of image 1, found 3 to 3"),
        (PRECISION, [CARS], [(SMALLER, [1], [1])], r"of 20x30 pixels .* 1, .* found 5x5"),
        (PRECISION, [NOTHING] * 2, [(*NOTHING, [])], "as many images as truths, found one without at 2"),
        (partial(PRECISION, kind="masks"), [], [], "Unknown kind of average precision 'masks'; did you mean 'mask'"),
        (QUALITY, [CARS], [], "found one without at 1"),
        (QUALITY, [CARS], [(SMALLER, [2])], r"of 20x30 pixels for image 1.*found 5x5"),
        (QUALITY, [CARS], [(np.stack([SMALL, SMALL]), [2, 4])], "classes 0 to 3 in image 1, found 1 to 4"),
    ],
)
def test_what_does_not_fit_together_is_refused(score, truths, guesses, words):
    with pytest.raises(UnsegError, match=words):
        score(truths, guesses)
