"""A project of toy notebooks around the real Snakefile and pipeline: each job takes as long as its kernel's start.

The toys declare the parameters of the real notebooks and leave the files that later ones read; no torch.
"""

import shutil
from pathlib import Path

from conftest import write_notebook

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
row = dict(task=task, dataset=dataset, victim=victim, init=init, recipe=poison, eps=eps, eps_bg=eps_bg,
           defense=defense, clean_fraction=clean_fraction, seed=seed, metric="miou", final=0.5, peak=0.75,
           epochs=epochs)
save({"rows": [row], "noise": noise})
"""
TABLES = """
save({"rows": len((pathlib.Path(results) / "rows.csv").read_text().splitlines()) - 1})
"""
PARAMETERS = {
    "01_train_generator": ["data: str = 'scenes'", "steps: int = 10", "seed: int = 42"],
    "02_poison_dataset": [
        *("dataset: str = 'scenes'", "task: str = 'object'", "protect: str = 'all'", "poison: str = 'unseg'"),
        *("eps: float = 8.0", "eps_bg: float = 2.0", "generator: str = 'small'", "gray: bool = False", "seed: int = 0"),
        *("file_format: str = 'png'", "limit: int = 0", "jobs: int = 1", "cache: str = ''", "data_root: str = ''"),
    ],
    "03_train_victim": [
        *("dataset: str = 'scenes'", "task: str = 'object'", "victim: str = 'unet-resnet18'", "init: str = 'random'"),
        *("poison: str = 'clean'", "poisoned: str = ''", "eps: float = 0.0", "eps_bg: float = 0.0", "seed: int = 0"),
        *("limit: int = 0", "size: list[int] = [96, 96]", "epochs: int = 3", "defense: str = 'none'"),
        *("clean_fraction: float = 0.0", "protected: str = ''", "threads: int = 0", "data_root: str = ''"),
    ],
    "04_results": ["results: str = 'results/toy'"],
    "06_pixel_distributions": [
        *("dataset: str = 'scenes'", "task: str = 'object'", "split: str = 'train'"),
        *("poisoned: str = ''", "limit: int = 0"),
    ],
    "08_mixed_data": ["results: str = 'results/toy'", "dataset: str = 'scenes'", "shares: list[float] = [0.5]"],
}
BODIES = dict(zip(PARAMETERS, (GENERATOR, POISON, VICTIM, TABLES, "save({})", TABLES)))
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


def make_project(root: Path, source: Path) -> Path:
    """Write notebooks, profiles `toy` and `small` and a copy of the real Snakefile under `root`."""
    for name, lines in PARAMETERS.items():
        lines = [f"{line}  # help" for line in [*lines, "out: str = 'results/scratch'"]]
        write_notebook(root / "notebooks" / f"{name}.ipynb", SAVE + BODIES[name], parameters="\n".join(lines))
    (root / "notebooks" / "profiles").mkdir()
    (root / "notebooks" / "profiles" / "toy.yaml").write_text(PROFILE)
    (root / "notebooks" / "profiles" / "small.yaml").write_text(PROFILE + "data: [Lung, CamVid]\n")
    (root / "notebooks" / "profiles" / "smoke.yaml").write_text(PROFILE)
    shutil.copy(source / "Snakefile", root / "Snakefile")
    return root
