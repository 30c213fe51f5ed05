"""The table of small stand-ins: a line each, what is left of clean, and a word where nothing was learnt."""

import pytest
from test_systems import score

from unseg_lib.reporting import COLUMNS, Link, stand_in_table

PAPERS = "paper: DeepLabV1 on the whole of VOC 2012, all 21 classes (Table 7)"  # another experiment than ours


def victim(victim: str, task: str, dataset: str, metric: str, **finals: float) -> list:
    named = {"setting": dataset, "way": victim.partition(":")[0]}
    return [
        score(task, dataset, victim, metric, name.replace("_", "-"), value, **named) for name, value in finals.items()
    ]


def lines(*scores) -> list[dict]:
    return stand_in_table([one for some in scores for one in some], "up/").records()


def test_a_line_has_clean_random_and_unseg_and_the_papers_share():
    made = victim("deeplabv1:wideresnet38-tiny", "object", "voc", "iou_object", clean=40, random=41, unseg=8)
    (line,) = lines(made)
    assert line == dict(
        zip(COLUMNS, ("object", "voc", "deeplabv1", "IoU", "40.0", "41.0", "8.0", "small", "20 %", "9 %", PAPERS))
    )
    assert stand_in_table(made, "up/").rows[0][4] == Link("40.0", "up/victim/voc-clean/run.ipynb")


def test_nothing_is_said_of_a_victim_that_clean_images_taught_nothing():
    (line,) = lines(victim("dino:x", "detection", "nwpu", "AP", clean=4.9, random=1, unseg=0))
    assert line["of clean"] == "–" and "learns too little" in line[""]
    (line,) = lines(victim("dino:x", "detection", "nwpu", "AP", clean=5.0, random=1, unseg_colour=0))
    assert (line["of clean"], line["generator"], line[""]) == ("0 %", "colour", "")


def test_a_victim_that_knows_one_class_is_judged_by_it():
    both = [
        *victim("mask2former:tiny", "instance", "nwpu", "AP", clean=3.4, random=3.3, unseg_colour=1.0),
        *victim("mask2former:tiny", "instance", "nwpu", "AP:track", clean=32, random=30, unseg_colour=8),
        *victim("mask2former:tiny", "instance", "nwpu", "AP:ship", clean=2, random=1, unseg_colour=2),
    ]
    (line,) = lines(both)
    assert line["metric"] == "AP of track, which it knows best"
    assert (line["clean"], line["random"], line["UnSeg"], line["of clean"]) == ("32.0", "30.0", "8.0", "25 %")


@pytest.mark.parametrize("missing", ["clean", "random", "unseg"])
def test_a_run_that_is_missing_is_named(missing):
    finals = {"clean": 60.0, "random": 60.0, "unseg": 30.0}
    finals.pop(missing)
    (line,) = lines(victim("sam-hq:small", "interactive", "folder:a/b", "miou_pictures", **finals))
    assert line["UnSeg" if missing == "unseg" else missing] == "not run"
    assert line["of clean"] == ("50 %" if missing == "random" else "–")


def test_where_some_classes_are_protected_only_they_count():
    both = [
        *victim("mask2former:tiny", "semantic", "camvid", "miou", clean=30, unseg_colour_things=25),
        *victim("mask2former:tiny", "semantic", "camvid", "iou_protected", clean=20, unseg_colour_things=5),
    ]
    (line,) = lines(both)
    assert (line["metric"], line["of clean"], line["paper"]) == ("IoU of the protected classes", "25 %", "14 %")


def test_the_table_in_markdown_has_a_line_for_each_row():
    table = stand_in_table(victim("dino:x", "detection", "nwpu", "AP", clean=9))
    head, rule, line = table.markdown().splitlines()
    assert head.startswith("| task | data set |") and set(rule) <= set("|- ") and line.count("|") == head.count("|")
