"""The paper's tables cell by cell, and the table of small stand-ins: its numbers, ours, or a reason."""

import pandas as pd
import pytest
from made_results import made, rows_of

from unseg_lib.reporting import beside, paper_numbers, stand_ins, transfer


@pytest.fixture
def ran(tmp_path):
    return lambda *rows: made(tmp_path, [row for some in rows for row in some])


def victim(victim: str, task: str, dataset: str, metric: str, **finals: float) -> list[dict]:
    named = {"task": task, "dataset": dataset, "victim": victim, "victim_key": victim.partition(":")[0]}
    return [row for name, v in finals.items() for row in rows_of(name.replace("_", "-"), v, metric=metric, **named)]


def test_every_system_has_a_line_and_what_it_would_take(ran):
    nobody, paper, key = ran(rows_of("clean", 90)), paper_numbers(), ["task", "dataset", "victim", "metric"]
    for number in ("1", "2", "3"):
        lines = beside(number, nobody)
        assert lines[["needs|all of", "needs|to download"]].notna().all(axis=None)
        assert len(lines) == len(paper[paper.table == number].drop_duplicates(key))
        assert not any(name.endswith("ours") for name in lines)
    table = beside("1", nobody)
    assert len(table) == (paper.table == "1").sum() == 20
    assert table[table.model == "dino"][["clean|paper", "unseg|paper"]].isna().all(axis=None)
    one = table.set_index(["task", "data set", "model"]).T
    assert one["semantic", "voc", "deeplabv1-wideresnet38"][["clean|paper", "unseg|paper"]].tolist() == [70.6, 6.2]
    for place, needs in {
        ("panoptic", "coco", "mask2former"): ["COCO 2017 panoptic", "21,266 MB"],  # masks, and the images of others
        ("interactive", "coift", "sam-hq"): ["HQSeg-44K", "fetched by hand"],
        ("object", "kvasir", "unetplusplus"): ["Kvasir-SEG", "46 MB"],
    }.items():
        assert one[place][["needs|all of", "needs|to download"]].tolist() == needs


def test_ours_stands_beside_the_very_same_system_only(ran):
    place = ("panoptic", "coco-panoptic", "PQ")
    same = victim("mask2former:resnet50", *place, clean=50, unseg=5)
    other = victim("mask2former:tiny", *place, clean=1)
    other += victim("mask2former:resnet50", "semantic", "ade20k", "PQ", clean=3)
    table = beside("1", ran([row | {"defense": "grayscale", "final": 2.0} for row in same[:1]], other, same))
    line = table[(table.task == "panoptic") & (table["data set"] == "coco")].iloc[0]
    assert (line["clean|ours"], line["unseg|ours"]) == (50, 5) and pd.isna(line["needs|all of"])
    assert table["clean|ours"].count() == 1


def test_tables_2_and_3_are_whole(ran):
    own = ran(victim("mask2former:swin-tiny", "instance", "cityscapes", "AP", cuda=7))
    two, three, paper = beside("2", own), beside("3", own), paper_numbers()
    numbers = paper.value[(paper.table == "2") & paper.value.notna()].tolist()
    shown = two[[name for name in two if name.endswith("paper")]].stack().dropna().tolist()
    assert sorted(shown) == sorted(numbers) and set(three.task) == {"detection"}
    ran_here = (two["data set"] == "cityscapes") & (two.model == "mask2former-swin-t") & (two.metric == "ap")
    line = two[ran_here].iloc[0]
    assert line["cuda|ours"] == 7 and pd.isna(line["needs|all of"])  # something was run: no reason why not


def test_defences_shares_and_five_classes_stand_beside_theirs(ran):
    three, one = ("deeplabv3-resnet50", "semantic", "voc", "miou"), ("deeplabv1:wideresnet38", "semantic", "voc")
    own = victim(*three, clean=70, unseg=6)
    own += [row | {"defense": "jpeg quality=10"} for row in victim(*three, clean=60, unseg=40)]
    own += [row | {"clean_fraction": 0.2} for row in victim(*three, clean=65, unseg=66)]
    own += victim(*one, "iou:boat", clean=61, unseg=2, unseg_five=19, unseg_box_five=23)
    results = ran(own)
    (four,), (five,) = (beside(table, results).to_dict("records") for table in ("4", "5"))
    assert (four["unseg+jpeg|paper"], four["unseg+jpeg|ours"]) == (44.8, 40)
    assert (four["clean|ours"], four["unseg|ours"]) == (70, 6) and "unseg+at|ours" not in four
    assert (five["clean-only 20%|ours"], five["mixed 20%|ours"]) == (65, 66) and "mixed 20%|paper" not in five
    seven = beside("7", results).set_index("metric").loc["iou:boat"]
    cells = ["clean|ours", "unseg|ours", "unseg prompt=box|ours", "unseg prompt=box|paper"]
    assert list(seven[cells]) == [61, 19, 23, 23.7]


def test_a_line_has_clean_random_and_unseg_and_the_papers_share(ran):
    own = victim("deeplabv1:wideresnet38-tiny", "object", "voc", "iou_object", clean=40, random=41, unseg=8)
    line = stand_ins(ran(own)).iloc[0]
    cells = ["task", "data set", "stand-in", "clean", "random", "UnSeg", "generator", "learnt"]
    assert list(line[cells]) == ["object", "voc", "deeplabv1", "40.0", "41.0", "8.0", "small", "yes"]
    assert (line["ours|of clean"], line["paper|of clean"]) == (20, pytest.approx(100 * 6.2 / 70.6))
    assert line["paper|of"] == "DeepLabV1 on the whole of VOC 2012, all 21 classes (Table 7)"


@pytest.mark.parametrize(("clean", "learnt"), [(4.9, "no"), (5.0, "yes")])
def test_nothing_is_said_of_a_victim_that_clean_images_taught_nothing(ran, clean, learnt):
    line = stand_ins(ran(victim("dino:x", "detection", "nwpu", "AP", clean=clean, random=1, unseg=0))).iloc[0]
    assert line.learnt == learnt and pd.isna(line["ours|of clean"]) == (learnt == "no")


def test_a_victim_that_knows_one_class_is_judged_by_it(ran):
    place = ("mask2former:tiny", "instance", "nwpu")
    scores = {"AP": (3.4, 3.3, 1.0), "AP:track": (32, 30, 8), "AP:ship": (2, 1, 2)}
    rows = [victim(*place, name, **dict(zip(("clean", "random", "unseg"), of))) for name, of in scores.items()]
    line = stand_ins(ran(*rows)).iloc[0]
    assert list(line[["metric", "clean", "random", "UnSeg"]]) == ["AP:track", "32.0", "30.0", "8.0"]
    assert line["ours|of clean"] == 25


@pytest.mark.parametrize("missing", ["clean", "random", "unseg"])
def test_a_run_that_is_missing_is_named(ran, missing):
    finals = {"clean": 60.0, "random": 60.0, "unseg": 30.0}
    finals.pop(missing)
    line = stand_ins(ran(victim("sam-hq:small", "interactive", "folder:a/b", "miou_pictures", **finals))).iloc[0]
    assert line["UnSeg" if missing == "unseg" else missing] == "not run" and line["data set"] == "a/b"
    assert line["ours|of clean"] == 50 if missing == "random" else pd.isna(line["ours|of clean"])


def test_transfer_takes_what_another_profile_has_and_mixes_no_metrics(tmp_path):
    street = {"task": "semantic", "dataset": "camvid-car"}
    jpeg = {"defense": "jpeg quality=75", "label": "jpeg-quality-75"}
    own = [*rows_of("unseg-box", 33), *rows_of("unseg", 44, **jpeg), *rows_of("clean", 40, metric="miou", **street)]
    own += rows_of("clean", 20, metric="iou_protected", **street)
    small = [*rows_of("clean", 80, 90), *rows_of("unseg", 8, 9), *rows_of("synper", 7)]
    small += rows_of("unseg", 5, defense="coin")
    found = transfer(made(tmp_path / "own", own), made(tmp_path / "small", small + rows_of("clean", 1, dataset="voc")))
    lines = found.set_index(["recipe", "defense"])
    names = ("clean", "none"), ("unseg", "jpeg quality=75"), ("unseg", "none"), ("unseg-box", "none")
    assert tuple(lines.index) == names
    assert lines["lung|IoU of the object"].tolist() == [85, 44, 8.5, 33]
    assert lines.loc[("clean", "none")].tolist() == [40, 20, 85] and not any("voc" in name for name in lines)


def test_where_some_classes_are_protected_only_they_count(ran):
    place = ("mask2former:tiny", "semantic", "camvid")
    whole = victim(*place, "miou", clean=30, unseg_things=25)
    line = stand_ins(ran(whole, victim(*place, "iou_protected", clean=20, unseg_things=5))).iloc[0]
    assert line.metric == "mean IoU of the protected classes" and line["ours|of clean"] == 25
    assert round(line["paper|of clean"]) == 14
