"""Tables, claims, figures and the report, on made-up results whose every number is known."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from unseg_lib.errors import UnsegError
from unseg_lib.evaluation import COLUMNS
from unseg_lib.files import read_csv, write_csv, write_json
from unseg_lib.reporting import (
    MAIN_METRIC,
    MODES,
    Experiment,
    Link,
    Table,
    claims,
    clean_of,
    curves_of,
    experiment_of,
    figures,
    keep_masks,
    percent_of_clean,
    pixels,
    planned,
    predictions_of,
    published,
    read_rows,
    recipes,
    scores_of,
    tables,
    write_report,
)

RUN = {"victim": "unet-resnet18", "init": "random", "defense": "none", "clean_fraction": 0.0, "epochs": 4}
RUN |= {"eps": 8.0, "eps_bg": 2.0, "minutes": 1.5, "device": "cpu", "commit": "0123456789abcdef"}


def make_run(results: Path, setting: str, poison: str, seed: int, finals: dict[str, float], **changes) -> list[dict]:
    """Write the folder of one victim and return its rows; curves rise linearly to the final score."""
    name = f"victim/{setting}-{poison}-unet-s{seed}"
    task = "object" if "iou_object" in finals else "semantic"
    run = RUN | {"task": task, "dataset": setting.split("-")[0], "poison": poison, "seed": seed} | changes
    rows = [run | {"metric": m, "final": v, "peak": v, "notebook": f"{name}/run.ipynb"} for m, v in finals.items()]
    curves = {metric: [value * (e + 1) / 4 for e in range(4)] for metric, value in finals.items()}
    write_json(results / name / "metrics.json", {"rows": [], "curves": curves | {"loss": [1, 0.5, 0.4, 0.3]}})
    origin = {
        "cpu": "Some CPU",
        "cores": 2,
        "gpus": [],
        "dirty": False,
        "minutes": 1.5,
        "versions": {"torch": "2.13.0"},
    }
    write_json(results / name / "provenance.json", origin)
    (results / name / "run.ipynb").write_text("{}")
    truth = np.zeros((2, 8, 8), np.uint8)
    truth[:, 2:6, 2:6] = 1
    seen = {"image": np.full((2, 8, 8, 3), 90, np.uint8), "truth": truth, "prediction": truth * (poison == "clean")}
    np.savez(results / name / "predictions.npz", **seen)
    return rows


@pytest.fixture
def results(tmp_path) -> Path:
    """Lung with two seeds and three recipes; CamVid's protected classes; VOC with classes. In a profile-less folder."""
    root = tmp_path / "made-up"
    rows = []
    for seed, (clean, tile, unseg) in enumerate([(90.0, 40.0, 0.0), (80.0, 30.0, 17.0)]):
        for poison, value in {"clean": clean, "fixed-tile": tile, "unseg": unseg}.items():
            rows += make_run(root, "lung", poison, seed, {"iou_object": value, "miou": 50.0})
    for poison, value in {
        "clean": 40.0,
        "random": 39.0,
        "unseg": 30.0,
        "random-things": 38.0,
        "unseg-things": 36.0,
    }.items():
        protected = 4.0 if poison == "unseg-things" else value / 2
        finals = {"miou": value, "iou_protected": protected, "iou:car": protected, "iou:sky": value + 1}
        rows += make_run(root, "camvid", poison, 0, finals)
    for poison, value in {"clean": 40.0, "unseg": 4.0}.items():
        rows += make_run(root, "voc", poison, 0, {"miou": value, "iou:person": value, "iou:dog": value / 2})
    write_csv(root / "rows.csv", rows, COLUMNS)
    return root


def lung(scores, poison):
    return next(s for s in scores if (s.experiment.setting, s.poison, s.metric) == ("lung", poison, "iou_object"))


def test_mean_and_deviation_over_seeds_by_hand(results):
    scores = scores_of(read_rows(results))
    unseg = lung(scores, "unseg")
    assert [run["seed"] for run in unseg.runs] == [0, 1]
    assert unseg.mean == 8.5
    assert unseg.std == pytest.approx(17 / math.sqrt(2))
    share, deviation = percent_of_clean(unseg, scores)
    assert (share, deviation) == (pytest.approx(10.0), pytest.approx(100 * 17 / math.sqrt(2) / 85))
    single = next(s for s in scores if s.experiment.setting == "voc")
    assert single.std is None


def test_an_experiment_is_named_by_its_run():
    row = RUN | {"task": "semantic", "dataset": "camvid", "poison": "fixed-tile-gray", "seed": 11}
    found = experiment_of(row | {"notebook": "victim/camvid-things-fixed-tile-gray-unet-jpeg-s11/run.ipynb"})
    assert (found.setting, found.way) == ("camvid-things", "unet-jpeg")
    by_hand = experiment_of(row | {"notebook": "scratch/whatever/run.ipynb"})
    assert (by_hand.setting, by_hand.way) == ("camvid", "unet-resnet18")


def test_a_defended_victim_is_compared_with_the_plain_clean_one(results):
    rows = read_rows(results)
    defended = next(r for r in rows if (r["poison"], r["metric"], r["seed"]) == ("unseg", "iou_object", 1))
    defended |= {"defense": "jpeg", "notebook": "victim/lung-unseg-unet-jpeg-s1/run.ipynb"}
    scores = scores_of(rows)
    score = next(s for s in scores if s.experiment.defense == "jpeg")
    assert clean_of(score, scores).mean == 85.0
    assert percent_of_clean(score, scores)[0] == pytest.approx(100 * 17 / 80)


def test_one_clean_run_under_a_defence_takes_no_seed_from_the_share(results):
    """Its mean and its share stand in one line: both are over all seeds of the defended recipe."""
    rows, more = read_rows(results), []
    for row in rows:
        if row["metric"] == "iou_object" and row["poison"] in ("clean", "unseg"):
            name = f"victim/lung-{row['poison']}-unet-jpeg-s{row['seed']}/run.ipynb"
            more.append(row | {"defense": "jpeg", "notebook": name})
    more = [row for row in more if (row["poison"], row["seed"]) != ("clean", 1)]
    scores = scores_of(rows + more)
    score = next(s for s in scores if (s.experiment.defense, s.poison) == ("jpeg", "unseg"))
    assert score.seeds == (0, 1)
    assert percent_of_clean(score, scores)[0] == pytest.approx(100 * score.mean / lung(scores, "clean").mean)


def test_every_number_of_the_main_table_leads_to_its_notebook(results):
    table = tables.effect_table(scores_of(read_rows(results)))
    assert all(len(row) in (1, len(table.columns)) for row in table.rows)
    links = re.findall(r'href="([^"]+)"', table._repr_html_())
    assert len(links) == sum(len(row) > 1 for row in table.rows) + 18  # one a mean, one a seed
    assert all((results / link).is_file() for link in links)


def test_paper_ours_difference(results):
    table = tables.effect_table(scores_of(read_rows(results)))
    records = {}
    for row in table.rows:
        if len(row) == 1:
            setting, metric, _ = row[0][0].split(" · ")
        records[setting, row[0], metric] = [str(cell) for cell in row[1:]]
    # voc: paper 70.6 -> 6.2 is 8.8 %, ours 40 -> 4 is 10 %
    assert records["voc", "unseg", "mean IoU"][:6] == ["6.2", "8.8 %", "4.0", "", "10.0 %", "+1.2"]
    assert records["voc", "clean", "mean IoU"][5] == "+0.0"
    # Mask2Former on Cityscapes: 79.4 -> 10.9; the paper has nothing on protected classes, and none on a tile
    whole, classwise = (
        records["camvid", "unseg", "mean IoU"],
        records["camvid", "unseg-things", "mean IoU of the protected classes"],
    )
    assert whole[:6] == ["10.9", "13.7 %", "30.0", "", "75.0 %", "+61.3"]
    assert classwise[:6] == ["–", "–", "4.0", "", "20.0 %", "–"]
    assert records["lung", "fixed-tile", "IoU of the object"][:2] == ["–", "–"]


def test_numbers_are_written_with_one_decimal_and_a_real_minus():
    assert [tables.signed(v) for v in (-0.01, 1.25, -3.0, None)] == ["+0.0", "+1.2", "−3.0", "–"]
    assert tables.number(-2.345) == "−2.3" and tables.number(None) == "–"


def test_recipes_are_listed_clean_first_unseg_last(results):
    scores = scores_of(read_rows(results))
    assert tables.recipes_of(lung(scores, "unseg").experiment, scores) == ["clean", "fixed-tile", "unseg"]


def test_missing_and_failed_runs_are_visible(results):
    scores = scores_of(read_rows(results))
    experiment = lung(scores, "clean").experiment
    plan = [
        {"name": "a", "experiment": experiment, "poison": "unseg", "seed": 2, "state": "failed"},
        {"name": "b", "experiment": experiment, "poison": "colour-offset", "seed": 0, "state": "not run"},
    ]
    html = tables.effect_table(scores, plan)._repr_html_()
    assert "(2: failed)" in html and "not run" in html and "colour-offset" in html
    bars = tables.bars_of(scores, plan)["lung · unet"]
    assert bars["colour-offset"] is None and bars["unseg"][0] == pytest.approx(10)
    assert b"<svg" in figures.bars({"lung": bars}, xlabel="%").content


def test_claims_are_judged_from_the_rows(results):
    judged = {one.text: one for one in claims.verdicts(scores_of(read_rows(results)))}
    lung_claim = judged["UnSeg on Lung leaves less than 10 % of the clean-trained score"]
    assert lung_claim.holds is False and lung_claim.found == "10.0 %"  # not less than ten
    assert judged["UnSeg on CamVid's protected classes leaves less than 50 %"].found == "20.0 %"
    found = judged["unseg-things on camvid works, and better than every control"].found
    assert found == (
        "20.0 %; random-things 95.0 %, strongest of 1; difference −15.0 points, 1 seed, no interval; "
        "colour-offset-things and grating-things not run"
    )
    assert judged["unseg on camvid works, and better than every control"].found.startswith("75.0 %; random 97.5 %")
    assert judged["UnSeg on VOC's well-filled classes leaves less than 20 %"].holds is None  # four classes are missing
    assert judged["Random noise on camvid leaves more than 93 %"].holds is True
    assert judged["Random noise on lung leaves more than 93 %"].holds is None
    control = judged["unseg on lung works, and better than every control"]
    assert control.holds is None and control.found.startswith("10.0 %; fixed-tile 41.2 %")  # a weak one alone
    words = claims.verdict_table(list(judged.values()))._repr_html_()
    assert "does not hold" in words and "– open" in words


def test_claims_are_judged_for_every_victim(results):
    rows = read_rows(results)
    of_lung = [row for row in rows if row["dataset"] == "lung"]
    doubled = rows + [
        row | {"victim": "deeplabv3", "notebook": row["notebook"].replace("-unet-", "-deeplab-"), "final": 85.0}
        for row in of_lung
    ]
    judged = {one.text: one for one in claims.verdicts(scores_of(doubled))}
    text = "UnSeg on Lung leaves less than 10 % of the clean-trained score"
    assert judged[f"{text} (unet)"].found == "10.0 %"
    assert judged[f"{text} (deeplab)"].found == "100.0 %" and judged[f"{text} (deeplab)"].holds is False
    assert "unseg on lung (deeplab) works, and better than every control" in judged and text not in judged
    assert "Random noise on camvid leaves more than 93 %" in judged  # one victim needs no name


def test_classes_that_are_known_equally_well_stand_by_name(tmp_path):
    names = ("tree", "pole", "bicyclist", "sign", "fence", "sky", "car")
    finals = {"miou": 5.0} | {f"iou:{name}": 35.0 if name == "sky" else 0.0 for name in names}
    write_csv(tmp_path / "rows.csv", make_run(tmp_path, "camvid", "clean", 0, finals), COLUMNS)
    scores = scores_of(read_rows(tmp_path))
    listed = [row[0] for row in tables.class_table(scores[0].experiment, scores).rows]
    assert listed == ["sky", "bicyclist", "car", "fence", "pole", "sign", "tree"]


def test_curves_and_predictions(results):
    scores = scores_of(read_rows(results))
    experiment = lung(scores, "clean").experiment
    assert curves_of(results, experiment, "iou_object", scores)["clean"] == [21.25, 42.5, 63.75, 85.0]
    rows = predictions_of(results, experiment, scores)
    assert list(rows[0]) == ["test image", "truth", "trained on\nclean", "trained on\nunseg"]
    assert (rows[0]["trained on\nclean"] == rows[0]["truth"]).all() and not rows[0]["trained on\nunseg"].any()
    clean = results / "victim/lung-clean-unet-s0"
    keep_masks(clean)
    (clean / "predictions.npz").unlink()
    again = predictions_of(results, experiment, scores)  # a clone has the masks alone: the same, without the image
    assert all((again[0][name] == rows[0][name]).all() for name in list(rows[0])[1:])
    for file in results.glob("victim/lung-clean-*/*.npz"):
        file.unlink()
    assert predictions_of(results, experiment, scores) == []


def test_the_report_is_one_file_that_needs_no_other(results):
    path = write_report(results)
    html = path.read_text()
    assert not re.search(r"<(script|link|iframe)\b", html) and "@import" not in html
    loaded = re.findall(r'(?:src|xlink:href)="([^"#][^"]*)"', html)
    assert loaded and all(source.startswith("data:") for source in loaded)
    assert "url(http" not in html
    links = [link for link in re.findall(r'<a href="([^"#]+)"', html)]
    assert links and all((results / link).is_file() for link in links)
    assert "does not hold" in html and "Some CPU" in html and "0123456789ab" in html
    assert str(results.parent) not in html
    assert write_report(results).read_text() == html
    for file in results.glob("victim/voc-*/predictions.npz"):
        file.unlink()
    assert "Not shown: voc" in write_report(results).read_text()  # not a section less, as if nobody had looked


def test_a_second_run_beside_the_first_one_has_a_section(results):
    assert "Run a second time" not in write_report(results).read_text()
    again = results.with_name(f"{results.name}-again")
    write_csv(again / "rows.csv", read_csv(results / "rows.csv")[:1], COLUMNS)
    html = write_report(results).read_text()
    first, _, rest = html.partition("<h2>Contents</h2>")
    assert "Run a second time: 1 of" in first  # the first page says it, too
    assert "Run a second time" in rest and "scores were repeated" in rest and f'href="../{again.name}/victim/' in rest


def test_no_rows_is_one_sentence(tmp_path):
    with pytest.raises(UnsegError, match=r"rows\.csv, found no such file"):
        write_report(tmp_path)
    write_csv(tmp_path / "rows.csv", [], COLUMNS)
    with pytest.raises(UnsegError, match="found only the header"):
        write_report(tmp_path)
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UnsegError, match="found a damaged file"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_what_a_profile_plans_is_known_before_it_runs(tmp_path):
    plan = planned(tmp_path / "results" / "smoke")
    assert plan and {run["state"] for run in plan} == {"not run"}
    assert all(run["experiment"].setting and run["experiment"].way for run in plan)
    assert planned(tmp_path / "no-such-profile") == []


@pytest.mark.parametrize("metric", sorted(set(MAIN_METRIC.values())))
def test_every_task_has_a_heading(metric):
    given = ("nwpu", "dino", "detection", "nwpu", "dino:NAME model.num_queries=60", "random", "none", 0.0)
    title = tables.title_of(Experiment(*given), metric)
    assert title.startswith("nwpu · ") and title.endswith(" · victim dino:NAME …") and metric not in title.split(" · ")


@pytest.mark.parametrize("profile", ["systems", "paper"])
def test_every_planned_run_has_a_task_with_a_metric(tmp_path, profile):
    tasks = {run["experiment"].task for run in planned(tmp_path / "results" / profile)}
    assert {"interactive", "instance", "detection", "object", "semantic"} <= tasks <= set(MAIN_METRIC)


# published numbers


def test_published_numbers_have_a_table_and_a_source():
    rows = published.published()
    assert {row["table"] for row in rows} >= {"1", "2", "4", "5", "7", "8", "9", "10", "11"}
    for row in rows:
        assert set(row) == set(published.COLUMNS)
        assert row["table"] and row["page_or_source"] and row["dataset"] and row["metric"]
        assert row["value"] is None or 0 <= row["value"] <= 100
    keys = [tuple(row[name] for name in published.COLUMNS[:-1]) for row in rows]
    assert len(keys) == len(set(keys)), "a number is listed twice"


@pytest.mark.parametrize(
    "place, value",
    [
        (("7", "voc", "deeplabv1-wideresnet38", "unseg", "miou"), 6.2),
        (("4", "voc", "deeplabv3-resnet50", "unseg+jpeg", "miou"), 44.8),
        (("9", "kvasir", "unetplusplus-resnet50", "unseg", "iou_object"), 2.5),
        (("2", "cityscapes", "mask2former-resnet50", "unseg", "miou"), 10.9),
        (("11", "voc", "deeplabv1-wideresnet38", "unseg init=random", "iou:boat"), 6.5),
        (("2", "ade20k", "mask2former-swin-t", "unseg", "miou"), None),  # not known
        (("3", "coco", "dino", "unseg", "ap"), None),
    ],
)
def test_some_published_numbers(place, value):
    assert published.value_of(*place) == value


def test_the_nearest_published_number():
    same = published.nearest("object", "kvasir", "unetplusplus-densenet169", "iou_object", "unseg")
    assert same["same"] and same["value"] == 6.0 and same["percent"] == pytest.approx(100 * 6 / 73.6)
    other = published.nearest("object", "lung", "unet-resnet18", "iou_object", "unseg")
    assert not other["same"] and "Kvasir" in other["note"]
    assert published.nearest("object", "lung", "unet-resnet18", "iou_object", "random") is None
    assert published.nearest("semantic", "scenes", "unet-resnet18", "miou", "unseg") is None


def test_deviations_from_the_published_settings():
    from dataclasses import fields, replace

    from unseg_lib.method import BilevelConfig

    paper = BilevelConfig(sam_weights="sam.pth", mae_weights="mae.pth")
    assert published.deviations(paper, "HQSeg-44K (44,320 images)").rows == ()
    small = published.deviations(BilevelConfig(train_eps=8.0, scales=(0.5, 1.5)), "scenes").records()
    ratio = "train_eps / train_eps_bg"
    assert [line["setting"] for line in small] == ["sam_weights", "mae_weights", "train_eps", ratio, "scales", "data"]
    kept = published.deviations(replace(paper, mean_free=9), "HQSeg-44K (44,320 images)", "bf16-mixed").records()
    assert [line["here"] for line in kept] == ["9", "noise", "bf16-mixed"]
    assert all(line["why"] for line in small)
    settings = {line["setting"] for line in published._read("training.csv")}
    assert settings == {field.name for field in fields(BilevelConfig)} | {"data", "precision", ratio}


# figures


def test_figures_are_the_same_bytes_every_time():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for make in (
        lambda: figures.show(a=image, mask=image[..., 0] > 20, label=image[..., 0], noise=image / 255.0),
        lambda: figures.curves({"clean": [1, 2, 3], "unseg": [1, 1, 0]}, x=[1, 2, 3], xlabel="epoch", ylabel="%"),
        lambda: figures.dots({"surrogate": [(0, 1.0), (1, 0.5)]}, xlabel="step", ylabel="loss"),
        lambda: figures.learning_curve([1.0, 0.5], {"miou": [10, 20]}, ylabel="%"),
    ):
        assert make().content == make().content
    assert figures.show(a=image)._repr_mimebundle_().keys() == {"image/png"}
    assert figures.dots({"a": [(0, 1.0), (1, 2.0)]}, xlabel="", ylabel="").html("alt <text>").startswith("<div")


def test_label_maps_have_vocs_colours_and_white_for_ignored():
    colours = figures.paint(np.array([[0, 1, 2, 15, 255]], np.uint8))[0]
    assert colours.tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [255, 255, 255]]


def test_magnified_difference():
    x = np.full((1, 2, 3), 100, np.uint8)
    y = x.copy()
    y[0, 1] = 108
    assert figures.magnify(x, y)[0, :, 0].tolist() == [127, 207]
    assert figures.magnify(x, y, times=100)[0, 1, 0] == 255


def test_a_table_escapes_and_lists():
    table = Table(("a & b", "n"), (("<x>", Link("1", "some/run.ipynb")), ("a heading",)), "lr")
    html = table._repr_html_()
    assert "a &amp; b" in html and "&lt;x&gt;" in html and '<a href="some/run.ipynb">1</a>' in html
    assert table.records() == [{"a & b": "<x>", "n": "1"}]
    assert json.dumps(table.records())


# statistics of pixels


def test_histogram_by_hand():
    image = np.array([[[0, 1, 2], [0, 1, 255]]], np.uint8)
    share = pixels.histogram([image, image])
    assert (
        share.shape == (3, 256) and share[0, 0] == 1 and share[1, 1] == 1 and share[2, [2, 255]].tolist() == [0.5, 0.5]
    )


def test_spectrum_of_a_wave_and_of_white_noise():
    column = np.arange(64)
    wave = np.tile(np.cos(2 * np.pi * 16 * column / 64), (64, 1))  # 0.25 cycles per pixel
    spectrum = pixels.radial_spectrum(wave, bins=8)
    assert spectrum.argmax() == 4 and spectrum[[0, 1, 2, 6, 7]].max() < 1e-20
    white = np.random.default_rng(0).normal(0, 3, (256, 256, 3))
    flat = pixels.radial_spectrum(white, bins=8)
    assert np.allclose(flat[1:], 9, rtol=0.1)
    assert pixels.frequencies(4).tolist() == [0.0625, 0.1875, 0.3125, 0.4375]


def test_shares_of_noise():
    rng = np.random.default_rng(0)
    tile = rng.normal(size=(20, 20, 3))
    assert pixels.common_share([tile, tile, np.pad(tile, ((0, 5), (0, 0), (0, 0)))]) == pytest.approx(1)
    independent = [rng.normal(size=(40, 40, 3)) for _ in range(8)]
    assert pixels.common_share(independent) == pytest.approx(1 / 8, rel=0.1)
    gray = np.repeat(tile[..., :1], 3, axis=2)
    assert pixels.gray_share(gray) == pytest.approx(1)
    assert pixels.gray_share(gray * [1, -2, 1]) == pytest.approx(0)
    assert pixels.gray_share(np.zeros((2, 2, 3))) == pixels.common_share([np.zeros((2, 2, 3))]) == 0


def test_separability_is_the_area_under_the_curve():
    mask = np.array([[True, True, False, False]])
    assert pixels.separability(np.array([[3, 4, 1, 2]]), mask) == 1
    assert pixels.separability(np.array([[1, 2, 3, 4]]), mask) == 0
    assert pixels.separability(np.array([[1, 1, 1, 1]]), mask) == 0.5
    assert pixels.separability(np.array([[1, 4, 2, 3]]), mask) == 0.5
    assert pixels.separability(np.array([[1.0]]), np.array([[True]])) == 0.5


def test_no_two_lines_of_a_figure_look_alike():
    names = ["clean", "unseg", *(f"control-{i}" for i in range(20)), *(f"unseg-{i}" for i in range(6))]
    strokes = figures.strokes_of(names)
    assert len({tuple(stroke.values()) for stroke in strokes.values()}) == len(names)
    assert strokes["unseg"]["linestyle"] == strokes["clean"]["linestyle"] == "-"


# what the recipes are


def test_every_poison_has_words_and_a_recipe_the_generator_that_it_names(project):
    from unseg_lib.poisons import POISONS

    assert set(recipes.MEANINGS) == set(POISONS) and set(recipes.ENDINGS) == set(MODES) - {""}
    assert recipes.legend(["clean", "unseg", "grating-things"], project / "results" / "small") == (
        "unseg: UnSeg with the generator small; grating: two-coloured stripes; "
        "…-things: the full budget only on the protected classes."
    )
    assert recipes.legend(["clean", "my-own"], project / "results" / "small") == ""
