"""The chain of the profile paper at a hundredth of its size: what `make rehearse` does for all tables, here for one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_sets import rehearsal

from unseg_lib.datasets import DATASETS, load_dataset
from unseg_lib.files import read_csv
from unseg_lib.pipeline import load_profile, missing_data

# two shares of one table, so that the chain is one generator, one poisoned copy and four victims
PART = {"extends": "paper-tiny", "pixels": []}
PART["grid"] = [{"for": "table 9", "datasets": ["kvasir"], "recipes": ["clean", "unseg"], "seeds": [0]}]
PART["grid"][0]["victims"] = ["unetpp-resnet50"]
PART["grid"].append(PART["grid"][0] | {"vary": {"clean_fraction": [0.4]}})


def checkout(folder: Path, project: Path) -> Path:
    """A checkout with tiny images for the whole profile, and a part of it as `part`."""
    shutil.copytree(project / "notebooks", folder / "notebooks")
    shutil.copy(project / "Snakefile", folder)
    (folder / "notebooks/profiles/part.yaml").write_text(yaml.safe_dump(PART))
    rehearsal(folder / "data/tiny")
    return folder


@pytest.fixture(scope="module")
def root(tmp_path_factory, project) -> Path:
    return checkout(tmp_path_factory.mktemp("rehearsal"), project)


def test_the_tiny_images_are_all_that_the_rehearsal_reads(root):
    tiny = load_profile("paper-tiny", root)
    assert missing_data(tiny, root / "data/tiny") == []
    for name in {stage.values["dataset"] for stage in tiny.stages.values() if "dataset" in stage.values}:
        for split in DATASETS[name].splits:
            found = load_dataset(name, root / "data/tiny", split)
            assert 0 < len(found) < 20 and found.image(found.ids[0]).shape == (12, 16, 3)
    five = load_dataset("voc", root / "data/tiny", "test")
    assert all(set(range(1, 6)) <= set(five.label(id).ravel()) for id in five.ids)


@pytest.mark.notebook
def test_a_table_is_run_and_stands_beside_the_published_one(root):
    words = ["reproduce", "--profile", "part", "--data", "data/tiny", "--only", "table 9", "--jobs", "1"]
    ran = subprocess.run([sys.executable, "-m", "unseg_lib.cli", *words], cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    rows = [row for row in read_csv(root / "results/part/rows.csv") if row["metric"] == "iou_object"]
    trained = {(row["recipe"], row["clean_fraction"]) for row in rows}
    assert trained == {(recipe, share) for recipe in ("clean", "unseg") for share in ("0.0", "0.4")}
    lines = [line.strip("|").split("|") for line in ran.stdout.splitlines() if line.startswith("| ")]
    head = [name.strip() for name in ran.stdout.split("\n| task")[1].split("\n")[0].split(" | ")]
    assert lines and {"mixed 40%|paper", "mixed 40%|ours", "clean|ours", "unseg|ours"} <= set(head)
    (own,) = (line for line in lines if line[3:4] == [" iou_object "] and line[2].strip() == "unetplusplus-resnet50")
    assert " 68.7 " in own and " 72.3 " in own
