"""What several tests share: the real data where it is, tiny images, and toy notebooks."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

# one thread whatever the caller has set: tensors are tiny, and a test that forks would hang with OpenMP's threads
os.environ["OMP_NUM_THREADS"] = "1"

import unseg_lib  # noqa: F401 - before any test imports torchvision

REAL_DATA = os.environ.get("UNSEG_DATA")  # now: the commands under test set it for themselves


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    """A test must not depend on how it was started: only UNSEG_DATA is let in."""
    for name in ("UNSEG_BATCH", "UNSEG_METRICS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real images; tests that need it are skipped where there is none."""
    root = REAL_DATA
    if not root:
        pytest.skip("UNSEG_DATA is not set: no real images here")
    if not Path(root).is_dir():
        pytest.skip(f"UNSEG_DATA={root} is no folder")
    return Path(root)


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def tiny_image() -> np.ndarray:
    """An image, uint8 RGB (32,48,3), with every value from 0 to 255: what clips, clips here."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 48, 3), dtype=np.uint8)
    image[:2], image[-2:] = 0, 255
    return image


@pytest.fixture
def tiny_mask() -> np.ndarray:
    """The mask of one object, bool (32,48): a disc of radius 9 in the middle."""
    rows, columns = np.mgrid[:32, :48]
    return (rows - 16) ** 2 + (columns - 24) ** 2 < 81


def write_notebook(path: Path, *cells: str, parameters: str = 'out: str = "results/scratch/toy"  # where') -> Path:
    """Write a notebook of code cells, the first one its parameters; a toy for tests of the pipeline."""

    def cell(number: int, source: str, tags: list[str]) -> dict:
        return {
            "cell_type": "code",
            "id": f"cell-{number}",
            "execution_count": None,
            "metadata": {"tags": tags} if tags else {},
            "outputs": [],
            "source": source.splitlines(keepends=True),
        }

    body = [cell(0, parameters, ["parameters"])] + [cell(i, text, []) for i, text in enumerate(cells, start=1)]
    spec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = {"cells": body, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(notebook, indent=1) + "\n")
    return path


@pytest.fixture
def toy_notebook():
    """`toy_notebook(path, *cells, parameters=...)` writes a small notebook."""
    return write_notebook


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> str:
    """A tiny generator with strong noise, as a file."""
    import torch

    from unseg_lib.method import LAYOUTS, Generator, save_generator

    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(LAYOUTS["tiny"], logit_scale=3.0)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_generator(generator, path)
    return str(path)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple:
    """Two toy sets that a victim learns in seconds: train and test."""
    from toy_set import boxes

    root = tmp_path_factory.mktemp("boxes")
    return boxes(root, "train", 9), boxes(root, "test", 5)


@pytest.fixture
def bf16_everywhere(monkeypatch):
    """bf16 is computed in where it is asked for, on processors that only emulate it, too."""
    monkeypatch.setattr("unseg_lib.runtime.has_bf16", lambda device: True)
