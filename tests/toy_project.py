"""A project of toy notebooks around the real Snakefile and pipeline: each job takes as long as its kernel's start.

The toys have the parameters of the real notebooks and leave the files that later ones read; no torch.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

from unseg_lib.pipeline import notebook_parameters

SAVE = """
import json, os, pathlib
def save(metrics):
    pathlib.Path(os.environ["UNSEG_METRICS"]).write_text(json.dumps(metrics))
folder = pathlib.Path(out)
with open("log.txt", "a") as log:
    log.write(f"{out}\\n")
"""
GENERATOR = """
(folder / "generator.safetensors").write_text(str(steps))
save({"steps": steps})
"""
POISON = """
(folder / "dataset").mkdir(exist_ok=True)
(folder / "dataset" / "manifest.csv").write_text(f"{poison} {eps}")
save({"eps": eps})
"""
VICTIM = """
noise = pathlib.Path(poisoned, "manifest.csv").read_text() if poisoned else "clean"
names = "task dataset victim init eps eps_bg defense clean_fraction seed epochs".split()
row = {name: globals()[name] for name in names} | {"recipe": poison, "metric": "miou", "final": 0.5, "peak": 0.75}
save({"rows": [row], "noise": noise})
"""
TABLES = 'save({"rows": len((pathlib.Path(results) / "rows.csv").read_text().splitlines()) - 1})'
BODIES = {"01b_train_generator": GENERATOR, "02_poison_dataset": POISON, "03_train_victim": VICTIM}
BODIES |= {"04_results": TABLES, "06_pixel_distributions": "save({})", "08_mixed_data": TABLES}
PROFILE = """
about: toys
jobs: 2
generators:
  own: {steps: 5}
datasets:
  scenes: {task: object, size: [64, 64], protect: disc}
recipes:
  clean: {poison: clean}
  random: {poison: random}
  unseg: {poison: unseg, generator: own}
victims:
  unet: {victim: unet-resnet18, epochs: 2}
grid:
  - {datasets: [scenes], recipes: [clean, unseg], victims: [unet], seeds: [0]}
pixels:
  - {dataset: scenes, recipe: unseg, limit: 4}
pages:
  mixture: {shares: [0.2]}
"""


def code(notebook: Path) -> list[str]:
    """The texts of the code cells, without the parameters."""
    cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    return [cell.source for cell in cells if not cell.metadata.get("tags")]


def play(notebook: Path, until: str = "", **given) -> dict:
    """The names that a notebook's code leaves, to the first cell with `until`: in this process, which needs no kernel
    and imports nothing twice. Call it in a folder that the test goes back from.
    """
    names = {name: one.default for name, one in notebook_parameters(notebook).items()} | given
    for text in code(notebook):
        exec(text, names)
        if until and until in text:
            break
    return names


def wait(until: Callable[[], object], seconds: float) -> bool:
    """Ask again and again, for so many seconds at most; whether it came true."""
    deadline = time.monotonic() + seconds
    while not (found := until()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(found)


def write_notebook(path: Path, *cells: str, parameters: str) -> Path:
    """Write a notebook of code cells, the first one its parameters."""
    body = [new_code_cell(text, id=f"cell-{number}") for number, text in enumerate((parameters, *cells))]
    body[0].metadata["tags"] = ["parameters"]
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=body, metadata={"kernelspec": spec}), path)
    return path


def make_project(root: Path, source: Path) -> Path:
    """Write notebooks, profiles `toy` and `small` and a copy of the real Snakefile under `root`."""
    for name, body in BODIES.items():
        cells = nbformat.read(source / "notebooks" / f"{name}.ipynb", 4).cells
        named = {"parameters", "more-parameters"}
        parameters = "\n".join(cell.source for cell in cells if named & set(cell.metadata.get("tags", ())))
        write_notebook(root / "notebooks" / f"{name}.ipynb", SAVE + body, parameters=parameters)
    profiles = root / "notebooks" / "profiles"
    profiles.mkdir()
    for name, data in {"toy": "", "smoke": "", "small": "data: [Lung, CamVid]\n"}.items():
        (profiles / f"{name}.yaml").write_text(PROFILE + data)
    shutil.copy(source / "Snakefile", root / "Snakefile")
    return root
