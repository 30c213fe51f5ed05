"""What may be published: numbers, charts and masks, but no image of a data set."""

import json

import numpy as np
import pytest
from made_results import rows_of, write_results

from unseg_lib import reporting
from unseg_lib.files import write_json
from unseg_lib.pipeline import INSTEAD, copies_in, strip_images, strip_results
from unseg_lib.reporting.commands import publish


def output(dataset_image: bool | None = None, **data) -> dict:
    said = {} if dataset_image is None else {"dataset_image": dataset_image}
    return {"data": {name.replace("_", "/"): value for name, value in data.items()}, "metadata": said}


def notebook(*outputs: dict) -> dict:
    return {"cells": [{"cell_type": "code", "outputs": list(outputs)}, {"cell_type": "markdown"}]}


@pytest.mark.parametrize(
    ("one", "stays"),
    [
        (output(True, image_png="AAAA"), False),
        (output(False, image_png="AAAA"), True),  # a chart, a mask, a generated scene or a free photo
        (output(None, image_png="AAAA"), False),  # nobody vouches for it
        ({"data": {"image/svg+xml": "<svg/>"}}, True),
        ({"data": {"image/svg+xml": "<svg><image href='data:image/png;base64,A'/></svg>"}}, False),
        (output(False, **{"image_svg+xml": "<svg><image href='data:image/png;base64,A'/></svg>"}), True),
        ({"data": {"text/html": ["<img src='data:image/", "png;base64,AAAA'>"], "text/plain": "a page"}}, False),
        ({"data": {"text/html": "<table/>"}}, True),
        ({"text": ["said"]}, True),
    ],
)
def test_images_of_data_sets_go_and_all_else_stays(one, stays):
    before, page = json.dumps(one), notebook(one)
    assert strip_images(page) == (not stays) and strip_images(page) == 0
    assert json.dumps(one) == before if stays else one["data"] == {"text/plain": INSTEAD}


def test_only_notebooks_on_data_sets_are_stripped(tmp_path):
    write_results(tmp_path, rows_of("clean", 90))
    for name, dataset in {"real": "voc", "own": "scenes"}.items():
        folder = tmp_path / "victim" / name
        write_json(folder / "provenance.json", {"parameters": {"dataset": dataset}})
        for one in ("run.ipynb", "failed.ipynb"):
            (folder / one).write_text(json.dumps(notebook(output(True, image_png="AAAA"))))
        (tmp_path / "poison" / name / "dataset").mkdir(parents=True)
        write_json(tmp_path / "poison" / name / "provenance.json", {"parameters": {"dataset": dataset}})
    masks = np.ones((1, 4, 4), np.uint8)
    shown = {"image": np.zeros((1, 4, 4, 3), np.uint8), "truth": masks, "prediction": masks * 2}
    np.savez(tmp_path / "victim/real/predictions.npz", **shown)
    strip_results(tmp_path)
    kept = {name: "AAAA" in (tmp_path / "victim" / name / "run.ipynb").read_text() for name in ("real", "own")}
    assert kept == {"real": False, "own": True}
    assert "AAAA" not in (tmp_path / "victim/real/failed.ipynb").read_text()
    assert not (tmp_path / "victim/real/predictions.npz").exists()
    assert copies_in(tmp_path) == [tmp_path / "poison/real/dataset"]
    with np.load(tmp_path / "victim/real/masks.npz") as left:  # the report of a clone shows what victims predict
        assert sorted(left) == ["prediction", "truth"] and (left["prediction"] == 2).all()


def test_pages_that_the_report_executes_anew_lose_their_images_too(tmp_path, monkeypatch):
    page, executed = tmp_path / "defenses/run.ipynb", []
    write_json(page.with_name("provenance.json"), {"parameters": {"dataset": "lung"}})

    def write_report(results):
        if not executed:  # outdated: it is executed, and shows images again
            executed.append(page.write_text(json.dumps(notebook(output(True, image_png="AAAA")))))
        (results / "report.html").write_text(page.read_text())
        return results / "report.html"

    monkeypatch.setattr(reporting, "write_report", write_report)
    publish(tmp_path)
    assert executed and INSTEAD.strip() in page.read_text()
    assert "AAAA" not in page.read_text() + (tmp_path / "report.html").read_text()


def test_what_victims_predict_is_drawn_again_once_its_images_are_gone(tmp_path):
    results = write_results(tmp_path, rows_of("clean", 90) + rows_of("unseg", 10))
    masks = np.ones((3, 8, 8), np.uint8)
    for stage in reporting.load(results).rows.stage.unique():
        shown = {"image": np.zeros((3, 8, 8, 3), np.uint8), "truth": masks, "prediction": masks}
        (results / stage).mkdir(parents=True, exist_ok=True)
        np.savez(results / stage / "predictions.npz", **shown)
    page = results / "tables/run.ipynb"  # as executed for these rows, with images
    write_json(page, notebook(output(True, image_png="AAAA")))
    write_json(page.with_name("metrics.json"), {"rows": reporting.load(results).digest})
    publish(results)
    assert "image/png" in page.read_text() and INSTEAD.strip() not in page.read_text()
