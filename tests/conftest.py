"""What several tests share: the real data where it is, tiny images and sets, tiny weights, the project's profiles."""

import os
import sys
from collections.abc import Callable
from functools import cache, partial
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
    if not REAL_DATA or not Path(REAL_DATA).is_dir():
        pytest.skip(f"no real images here: UNSEG_DATA is {REAL_DATA}")
    return Path(REAL_DATA)


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def profiles(project) -> Callable:
    """`profiles(name)`: a profile of the project, each read once: reading `paper` takes a second."""
    from unseg_lib.pipeline import load_profile

    return cache(partial(load_profile, root=project))


@pytest.fixture(scope="session")
def paper(profiles):
    return profiles("paper")


@pytest.fixture
def tiny_image() -> np.ndarray:
    """An image, uint8 RGB (32,48,3), with every value from 0 to 255: what clips, clips here."""
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    image[:2], image[-2:] = 0, 255
    return image


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


@pytest.fixture
def protect_files(weights):
    """`unseg_lib.protection.protect_files` with the tiny generator."""
    from unseg_lib import protection

    return partial(protection.protect_files, generator=weights, device="cpu")


@pytest.fixture(scope="session")
def sam_file(tmp_path_factory) -> Path:
    """A checkpoint of SAM in the official format, of the tiny layout and random weights."""
    from toys import save_sam

    save_sam(path := tmp_path_factory.mktemp("sam") / "sam_tiny.pth")
    return path


@pytest.fixture
def unseg(monkeypatch, capfd):
    """Run a command in this process; return its exit code, stdout and stderr."""
    from unseg_lib import cli

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["unseg", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capfd.readouterr()

    return run


@pytest.fixture
def toys(tmp_path, project, monkeypatch) -> Path:
    """A project of toy notebooks, in which one stands."""
    from toy_project import make_project

    monkeypatch.chdir(make_project(tmp_path, project))
    return tmp_path


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> tuple:
    """Two toy sets that a victim learns in seconds: train and test."""
    from toys import boxes

    root = tmp_path_factory.mktemp("boxes")
    return boxes(root, "train", 9), boxes(root, "test", 5)


@pytest.fixture(scope="module")
def shaped(tmp_path_factory) -> tuple:
    """The same with several things in an image, and their masks."""
    from toys import shapes

    root = tmp_path_factory.mktemp("shapes")
    return shapes(root, "train", 7), shapes(root, "test", 4)


@pytest.fixture
def bf16_everywhere(monkeypatch):
    """bf16 is computed in where it is asked for, on processors that only emulate it, too."""
    monkeypatch.setattr("unseg_lib.runtime.has_bf16", lambda device: True)
