"""What may be published: numbers, curves and masks, but no image of a data set."""

import json

import numpy as np

from unseg_lib.files import write_json
from unseg_lib.reporting import INSTEAD, strip_images


def notebook() -> dict:
    images = [{"data": {"image/png": "AAAA"}}, {"data": {"image/svg+xml": "<svg/>"}}, {"text": ["said"]}]
    return {"cells": [{"cell_type": "code", "outputs": images}, {"cell_type": "markdown"}]}


def test_photographs_go_and_drawings_stay():
    one = notebook()
    assert strip_images(one) == 1
    outputs = one["cells"][0]["outputs"]
    assert outputs[0]["data"] == {"text/plain": INSTEAD} and "image/svg+xml" in outputs[1]["data"]
    assert strip_images(one) == 0
    page = {"data": {"text/html": ["<img src='data:image/", "png;base64,AAAA'>"], "text/plain": "a page"}}
    assert strip_images({"cells": [{"outputs": [page, {"data": {"text/html": "<table/>"}}]}]}) == 1
    assert page["data"] == {"text/plain": INSTEAD}


def test_only_notebooks_on_data_sets_are_stripped(tmp_path, monkeypatch):
    from unseg_lib.reporting import publish

    written = []
    monkeypatch.setattr(publish, "write_report", lambda results, photographs: written.append(photographs))
    for name, dataset in {"real": "voc", "own": "scenes"}.items():
        folder = tmp_path / "victim" / name
        write_json(folder / "provenance.json", {"parameters": {"dataset": dataset}})
        for one in ("run.ipynb", "failed.ipynb"):
            (folder / one).write_text(json.dumps(notebook()))
        (tmp_path / "poison" / name / "dataset").mkdir(parents=True)
        write_json(tmp_path / "poison" / name / "provenance.json", {"parameters": {"dataset": dataset}})
    masks = np.ones((1, 4, 4), np.uint8)
    shown = {"image": np.zeros((1, 4, 4, 3), np.uint8), "truth": masks, "prediction": masks * 2}
    np.savez(tmp_path / "victim/real/predictions.npz", **shown)
    publish.publish(tmp_path)
    kept = {name: "AAAA" in (tmp_path / "victim" / name / "run.ipynb").read_text() for name in ("real", "own")}
    assert kept == {"real": False, "own": True} and written == [False]
    assert "AAAA" not in (tmp_path / "victim/real/failed.ipynb").read_text()
    assert not (tmp_path / "victim/real/predictions.npz").exists()
    assert publish.copies_in(tmp_path) == [tmp_path / "poison/real/dataset"]
    with np.load(tmp_path / "victim/real/masks.npz") as left:  # the report of a clone shows what victims predict
        assert sorted(left) == ["prediction", "truth"] and (left["prediction"] == 2).all()
