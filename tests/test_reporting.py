"""Scores, tables and claims on made-up results; published numbers; figures; statistics of pixels."""

import re

import numpy as np
import pandas as pd
import pytest
from made_results import late, made, rows_of, stages_of, write_results

from unseg_lib import reporting
from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import read_csv, write_csv
from unseg_lib.reporting import figures, pixels, table

STREET = {"dataset": "camvid", "task": "semantic"}
LUNG = rows_of("clean", 90, 80) + rows_of("fixed-tile", 40, 30) + rows_of("unseg", 0, 17)


@pytest.fixture
def results(tmp_path) -> reporting.Results:
    """Lung with two seeds and three recipes; CamVid's protected classes; VOC with classes."""
    rows = list(LUNG)
    for recipe, value in {"clean": 40, "random": 39, "unseg": 30, "random-things": 38, "unseg-things": 36}.items():
        some = 4.0 if recipe == "unseg-things" else value / 2
        for metric, one in {"miou": value, "iou_protected": some, "iou:car": some, "iou:sky": value + 1}.items():
            rows += rows_of(recipe, one, metric=metric, **STREET)
    for recipe, value in {"clean": 40.0, "unseg": 4.0}.items():
        for metric, one in {"miou": value, "iou:person": value, "iou:dog": value / 2}.items():
            rows += rows_of(recipe, one, metric=metric, dataset="voc", task="semantic")
    return made(tmp_path / "made-up", rows)


def score(results, recipe: str, metric: str = "iou_object", **where):
    known = reporting.scores(results)
    for name, value in ({"recipe": recipe, "metric": metric, "defense": "none"} | where).items():
        known = known[known[name] == value]
    return known.iloc[0]


def test_mean_and_deviation_over_seeds_by_hand(results):
    one = score(results, "unseg")
    assert one.seeds == (0, 1) and one["mean"] == 8.5 and one["std"] == pytest.approx(17 / 2**0.5)
    assert (one.of_clean, one.of_clean_std) == (pytest.approx(10), pytest.approx(100 * 17 / 2**0.5 / 85))
    assert pd.isna(score(results, "unseg", "miou", setting="voc")["std"])


def test_a_defended_victim_is_compared_with_the_plain_clean_one(tmp_path):
    """Its share is over all seeds of the defended recipe, even where the defence ran on clean images under one."""
    way = {"defense": "jpeg", "label": "jpeg"}
    rows = LUNG + rows_of("unseg", 30, 17, **way) + rows_of("clean", 70, **way)
    one = score(made(tmp_path, rows), "unseg", defense="jpeg")
    assert one.seeds == (0, 1) and one.of_clean == pytest.approx(100 * 23.5 / 85)
    alone = score(made(tmp_path, LUNG + rows_of("unseg", 17, first=1, **way)), "unseg", defense="jpeg")
    assert alone.of_clean == pytest.approx(100 * 17 / 80)


@pytest.mark.parametrize(
    ("rows", "label", "share"),
    [
        (LUNG + rows_of("clean", 40, label="64px") + rows_of("unseg", 10, label="64px"), "64px", 25),
        (rows_of("clean", 80) + rows_of("unseg", 20, first=1), "", 25),  # no common seed: the means are compared
        (rows_of("clean", 0) + rows_of("unseg", 0), "", np.nan),  # nothing learnt is no share
    ],
)
def test_a_label_has_its_own_clean_victim(tmp_path, rows, label, share):
    assert score(made(tmp_path, rows), "unseg", label=label).of_clean == pytest.approx(share, nan_ok=True)


def test_paper_ours_difference_and_what_was_done_to_the_files(results):
    found = reporting.effect(results)
    lines = {(one["block"].split(" (")[0], one["trained on"]): one for one in found.to_dict("records")}
    voc = lines["voc · mean IoU · unet", "unseg"]
    assert (voc["paper|score"], voc["ours|score"], voc["ours|of clean"]) == (6.2, "4.0", 10)
    assert voc["ours|difference"] == pytest.approx(10 - 100 * 6.2 / 70.6) and "(paper: DeepLabV1" in voc["block"]
    assert lines["voc · mean IoU · unet", "clean"]["ours|difference"] == 0
    whole = lines["camvid · mean IoU · unet", "unseg"]
    some = lines["camvid · mean IoU of the protected classes · unet", "unseg-things"]
    assert whole["paper|score"] == 10.9 and whole["ours|difference"] == pytest.approx(75 - 100 * 10.9 / 79.4)
    assert pd.isna(some["paper|score"]) and some["ours|of clean"] == 20
    assert pd.isna(lines["lung · IoU of the object · unet", "fixed-tile"]["paper|score"])  # the paper has no tile
    seen = [voc[f"the files|{name}"] for name in ("max in / out", "rms", "PSNR", "SSIM")]
    assert seen == ["8 / 2", 3.25, 37.25, 0.9875]
    assert pd.isna(lines["lung · IoU of the object · unet", "clean"]["the files|rms"])
    assert list(found["trained on"][:3]) == ["clean", "fixed-tile", "unseg"]


def test_every_seed_leads_to_its_run(results):
    html = table(reporting.effect(results), group="block", html=["seeds"])._repr_html_()
    links = set(re.findall(r'href="#([^"]+)"', html))
    assert links == set(results.rows.stage) and "<script" not in html and ">10.0 %<" in html


def test_missing_and_failed_runs_are_visible(tmp_path):
    more = [late("unseg", 2, "failed"), late("colour-offset", 0, "not run"), late("unseg", 0, "not run", dataset="new")]
    found = reporting.effect(made(tmp_path, LUNG, stages_of(LUNG) + more)).set_index(["block", "trained on"])
    lung = found.loc["lung · IoU of the object · unet (paper: " + found.index[0][0].split("(paper: ")[1]]
    assert lung.seeds["unseg"].endswith(" (2: failed)") and lung["ours|score"]["colour-offset"] == "not run"
    assert found["ours|score"]["new · unet", "unseg"] == "not run"
    drawn = figures.bars({"lung": {"unseg": (10, 1), "grating": (np.nan, np.nan)}}, xlabel="%")
    assert drawn.content.count(b">not run<") == 1


def test_claims_are_judged_from_the_rows(results):
    found = reporting.against_strongest(results, ("colour_offset",)).set_index(["setting", "ours"])
    lung, things = found.loc[("lung", "unseg")], found.loc[("camvid", "unseg-things")]
    assert (lung.other, lung.verdict) == ("fixed-tile", "open")  # a weak one alone, and two seeds
    assert things.other == "random-things" and things.difference == -15 and things.other_share == 95


def test_every_victim_has_a_block_of_its_own(tmp_path):
    rows = LUNG + [row | {"victim": "deeplabv3", "victim_key": "deeplab", "final": 85.0} for row in LUNG]
    rows = [row | {"stage": row["stage"] + row["victim_key"]} for row in rows]
    found = reporting.differences(made(tmp_path, rows)).query("other == 'fixed-tile'").set_index("block").share
    assert found["lung · IoU of the object · deeplab"] == pytest.approx(100)
    assert found["lung · IoU of the object · unet"] == pytest.approx(10)


def test_curves_of_all_runs(results):
    curves = reporting.curves_of(results.stages).set_index(["stage", "metric"]).curve
    assert curves["victim/lung-clean-unet-s0", "iou_object"] == [22.5, 45, 67.5, 90]


@pytest.mark.parametrize("photos", [True, False])
def test_predictions_agree_with_the_truth_or_not(results, photos):
    truth = np.zeros((3, 8, 8), np.uint8)
    truth[:, 2:6, 2:6], truth[:, 0] = 1, 255
    for recipe in ("clean", "unseg"):
        seen = {"truth": truth, "prediction": (truth == 1) * np.uint8(recipe == "clean")}
        seen |= {"image": np.full((3, 8, 8, 3), 90, np.uint8)} if photos else {}
        folder = results.folder / f"victim/lung-{recipe}-unet-s1"
        folder.mkdir(parents=True)
        np.savez(folder / ("predictions.npz" if photos else "masks.npz"), **seen)
    row = reporting.predictions(results, "lung", "unet", ["clean", "unseg"])[0]
    assert list(row) == [*(["image"] if photos else []), "truth", "trained on\nclean", "trained on\nunseg"]
    assert (row["trained on\nclean"] == row["truth"]).all()
    colours = {tuple(row["trained on\nunseg"][at]) for at in ((0, 0), (1, 1), (3, 3))}  # not scored, background, missed
    assert len(colours) == 3 and not (row["trained on\nunseg"][3, 3] == row["truth"][3, 3]).all()
    assert reporting.predictions(results, "voc", "unet", ["clean", "unseg"]) == []


def test_no_rows_is_one_sentence(tmp_path):
    with pytest.raises(UnsegError, match=r"rows\.csv, found no such file"):
        reporting.load(tmp_path)
    for text, words in ((",".join(COLUMNS), "only the header"), ("a,b\n1,2\n", "a damaged file")):
        (tmp_path / "rows.csv").write_text(text)
        with pytest.raises(UnsegError, match=rf"rows\.csv, found {words}"):
            reporting.load(tmp_path)
    write_csv(tmp_path / "rows.csv", LUNG, COLUMNS)  # without stages the scores are there all the same
    alone = reporting.load(tmp_path)
    assert score(alone, "unseg")["mean"] == 8.5 and len(reporting.effect(alone)) == 3 and alone.looks.empty
    assert len(reporting.matched([alone], "lung", [("a", "unseg"), ("b", "random")])) == 3


def test_a_table_escapes_and_writes_numbers():
    made = table(pd.DataFrame({"a & b": ["<x>"], "n": [-2.345], "ours|of clean": [10.0], "difference": [np.nan]}))
    html = made._repr_html_()
    assert "a &amp; b" in html and "&lt;x&gt;" in html and "−2.3" in html and "10.0 %" in html and ">–<" in html
    assert html == table(made.frame)._repr_html_() and made.markdown().splitlines()[2] == "| <x> | -2.345 | 10.0 | – |"
    assert "nothing to list" in table(pd.DataFrame())._repr_html_()


def test_every_poison_has_words_and_unseg_its_generator(results):
    from unseg_lib.poisons import POISONS

    assert all(poison.words for poison in POISONS.values())
    looks = results.looks.droplevel("setting")
    assert looks.generator["unseg"].eq("small").all() and looks["mode"]["unseg-things"] == "classes"


def test_the_files_of_a_recipe_are_those_that_undefended_victims_read(tmp_path):
    """`shrunk` reads a copy of its own, published larger: its numbers are not the others'."""
    rows = [row for row in LUNG if row["recipe"] == "unseg"][:1]
    stages = stages_of(rows)
    large = [stage | {"name": f"{stage['name']}-large", "stage": f"{stage['stage']}-large"} for stage in stages]
    for stage in large:
        changed = {"defense": "shrunk", "poisoned": "results/made/poison/lung-unseg-large/dataset"}
        if stage["kind"] == "victim":
            stage |= {"label": "shrunk", "parameters": stage["parameters"] | changed}
        stage["metrics"] = stage["metrics"] | ({"ssim": 0.5} if stage["kind"] == "poison" else {})
    for several in (stages + large, large + stages):
        found = reporting.load(write_results(tmp_path / str(several[0]["stage"]).replace("/", "-"), rows, several))
        assert found.looks.ssim.tolist() == [0.9875]


def test_victims_that_start_from_imagenet_come_first_and_say_so(tmp_path):
    """And of a data set with several victims, a comparison takes the one that met most arms, and never mixes two."""
    other = [row | {"victim_key": "a-net", "final": 50.0, "stage": row["stage"] + "a"} for row in LUNG[::5]]
    pretrained = [row | {"victim_key": "z-net", "init": "imagenet", "stage": row["stage"] + "z"} for row in LUNG[:4]]
    found = made(tmp_path, LUNG + other + pretrained)
    whos = ["z-net (ImageNet start)", "unet (random start)", "a-net (random start)"]
    assert list(dict.fromkeys(reporting.scores(found).who)) == whos
    blocks = reporting.effect(found).block.str.partition(" (paper")[0]
    assert list(dict.fromkeys(blocks)) == [f"lung · IoU of the object · {who}" for who in whos]
    arms = reporting.matched([found], "lung", [("a tile", "fixed-tile"), ("UnSeg", "unseg")])
    assert arms["ours|score"].tolist() == ["85.0 ± 7.1", "35.0 ± 7.1", "8.5 ± 12.0"]
    assert arms.attrs["source"].endswith(", unet (random start)")


# published numbers


def test_published_numbers_have_a_table_and_a_source():
    rows = reporting.paper_numbers()
    assert set(rows.table) >= {"1", "2", "4", "5", "7", "8", "9", "10", "11"}
    assert (rows[["table", "page_or_source", "dataset", "metric"]] != "").all(axis=None)
    assert rows.value.dropna().between(0, 100).all()
    assert not rows.duplicated([name for name in rows if name != "value"]).any(), "a number is listed twice"


@pytest.mark.parametrize(
    "place, value",
    [
        (("7", "voc", "deeplabv1-wideresnet38", "unseg", "miou"), 6.2),
        (("4", "voc", "deeplabv3-resnet50", "unseg+jpeg", "miou"), 44.8),
        (("9", "kvasir", "unetplusplus-resnet50", "unseg", "iou_object"), 2.5),
        (("2", "cityscapes", "mask2former-resnet50", "unseg", "miou"), 10.9),
        (("11", "voc", "deeplabv1-wideresnet38", "unseg init=random", "iou:boat"), 6.5),
        (("2", "ade20k", "mask2former-swin-t", "unseg", "miou"), np.nan),  # not known
        (("3", "coco", "dino", "unseg", "ap"), np.nan),
    ],
)
def test_some_published_numbers(place, value):
    assert reporting.value_of(*place) == pytest.approx(value, nan_ok=True)


def test_the_nearest_published_number():
    same = reporting.nearest("object", "kvasir", "unetplusplus-densenet169", "iou_object", "unseg")
    assert same["same"] and same["value"] == 6.0 and same["percent"] == pytest.approx(100 * 6 / 73.6)
    other = reporting.nearest("object", "lung", "unet-resnet18", "iou_object", "unseg")
    assert not other["same"] and "Kvasir" in other["note"]
    assert reporting.nearest("object", "lung", "unet-resnet18", "iou_object", "random") == {}
    assert reporting.nearest("semantic", "scenes", "unet-resnet18", "miou", "unseg") == {}


def test_deviations_from_the_published_settings(project):
    from dataclasses import fields, replace

    from unseg_lib.method import BilevelConfig

    paper = BilevelConfig(sam_weights="sam.pth", mae_weights="mae.pth", tokens="released")
    assert reporting.deviations(paper, "HQSeg-44K (44,320 images)").empty
    small = BilevelConfig(train_eps=8.0, scales=(0.5, 1.5))
    ratio, found = "train_eps / train_eps_bg", reporting.deviations(small, "scenes")
    assert found.setting.tolist() == ["sam_weights", "tokens", "mae_weights", "train_eps", ratio, "scales", "data"]
    kept = reporting.deviations(replace(paper, mean_free=9), "HQSeg-44K (44,320 images)", "bf16-mixed")
    assert kept.here.tolist() == ["9", "noise", "bf16-mixed"] and found.why.all()
    settings = {line["setting"] for line in read_csv(project / "data/published/training.csv")}
    assert settings == {field.name for field in fields(BilevelConfig)} - {"validation"} | {"data", "precision", ratio}


# figures


def test_figures_are_the_same_bytes_every_time():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for make in (
        lambda: figures.show(a=image, mask=image[..., 0] > 20, label=image[..., 0], noise=image / 255.0),
        lambda: figures.curves({"clean": [1, 2, 3], "unseg": [1, 1, 0]}, x=[1, 2, 3], xlabel="epoch", ylabel="%"),
        lambda: figures.learning_curve([1.0, 0.5], {"miou": [10, 20]}, ylabel="%"),
    ):
        assert make().content == make().content


def test_a_figure_says_whether_it_shows_a_data_set():
    image = np.zeros((4, 4, 3), np.uint8)
    (data, said), (_, free) = (figures.show(a=image, free=free)._repr_mimebundle_() for free in (False, True))
    assert data.keys() == {"image/png"} and (said, free) == ({"dataset_image": True}, {"dataset_image": False})
    drawn = figures.curves({"a": [1.0, 2.0]}, x=[0, 1], xlabel="", ylabel="")
    assert drawn._repr_mimebundle_()[1] == {"dataset_image": False}
    assert drawn.html("alt <text>").startswith('<img alt="alt &lt;text')
    many = np.random.default_rng(0).random(20_000)
    large = figures.curves({"a": many}, x=range(20_000), xlabel="", ylabel="")
    assert large.kind == "png" and not large.dataset_image  # as text it would be larger than a notebook should be
    assert b"<text" in drawn.content  # text is text


def test_a_panel_has_few_lines():
    group = {f"control-{i}": [50, 10.0 + i] for i in range(20)} | {"clean": [50, 90]}
    group |= {f"unseg-{i}": [50, 60.0 + i] for i in range(5)}
    named = figures.coloured(group)
    assert named == ["clean", "unseg-0", "unseg-1", "unseg-2", "control-0", "control-1"]
    drawn = figures.curves(group, x=[1, 2], xlabel="epoch", ylabel="%").content.decode()
    assert all(f">{name}<" in drawn for name in named) and ">control-2<" not in drawn


def test_label_maps_are_light_on_light_ground_and_neighbours_differ_on_paper():
    colours = figures.paint(np.array([[0, 1, 2, 12, 13, 255]], np.uint8))[0]
    assert colours[[0, -1]].min() > 230 and (colours[1] == colours[4]).all() and (colours[2] != colours[3]).any()
    gray = figures.paint(np.arange(1, 13, dtype=np.uint8)[None])[0] @ [0.299, 0.587, 0.114]
    assert abs(np.diff(gray)).min() > 15


def test_the_best_the_median_and_the_worst():
    assert figures.extremes([5, 9, 1, 7, 3]) == {"best": 1, "median": 0, "worst": 2}
    assert figures.extremes([5]) == {"best": 0} and figures.extremes([1, 2]) == {"best": 1, "worst": 0}


def test_magnified_difference():
    x = np.full((1, 2, 3), 100, np.uint8)
    y = x.copy()
    y[0, 1] = 108
    assert figures.magnify(x, y)[0, :, 0].tolist() == [127, 207]
    assert figures.magnify(x, y, times=100)[0, 1, 0] == 255


def test_no_two_lines_of_a_figure_look_alike():
    names = ["clean", "unseg", *(f"control-{i}" for i in range(20)), *(f"unseg-{i}" for i in range(6))]
    strokes = figures.strokes_of(names)
    assert len({tuple(stroke.values()) for stroke in strokes.values()}) == len(names)
    assert strokes["unseg"]["linestyle"] == strokes["clean"]["linestyle"] == "-"


# statistics of pixels


def test_spectrum_of_a_wave_and_of_white_noise():
    wave = np.tile(np.cos(2 * np.pi * 16 * np.arange(64) / 64), (64, 1))  # 0.25 cycles per pixel
    spectrum = pixels.radial_spectrum(wave, bins=8)
    assert spectrum.argmax() == 4 and spectrum[[0, 1, 2, 6, 7]].max() < 1e-20
    white = np.random.default_rng(0).normal(0, 3, (256, 256, 3))
    assert np.allclose(pixels.radial_spectrum(white, bins=8)[1:], 9, rtol=0.1)
    assert pixels.frequencies(4).tolist() == [0.0625, 0.1875, 0.3125, 0.4375]


def test_shares_of_noise():
    rng = np.random.default_rng(0)
    tile = rng.normal(size=(20, 20, 3))
    assert pixels.common_share([tile, tile, np.pad(tile, ((0, 5), (0, 0), (0, 0)))]) == pytest.approx(1)
    independent = [rng.normal(size=(40, 40, 3)) for _ in range(8)]
    assert pixels.common_share(independent) == pytest.approx(1 / 8, rel=0.1)
    gray = np.repeat(tile[..., :1], 3, axis=2)
    assert pixels.gray_share(gray) == pytest.approx(1) and pixels.gray_share(gray * [1, -2, 1]) == pytest.approx(0)
    assert pixels.gray_share(np.zeros((2, 2, 3))) == pixels.common_share([np.zeros((2, 2, 3))]) == 0


def test_a_prediction_lies_over_its_image():
    truth, prediction = np.array([[0, 1], [1, 255]]), np.array([[1, 1], [0, 0]])
    plain, image = reporting.agreement(truth, prediction), np.full((2, 2, 3), 100, np.uint8)
    colours = [bytes(plain[place]).hex() for place in np.ndindex(2, 2)]
    assert colours == [reporting.AGREEMENT[name][1:] for name in ("wrong", "right", "missed", "not scored")]
    assert (reporting.agreement(truth, prediction, over=image) == (30 + 0.7 * plain).astype(np.uint8)).all()
