"""Where a number comes from: the code, the versions, the machine. No dates, users, hosts or paths, so that
two runs can be compared by diff."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "segment-anything",
    "segmentation-models-pytorch",
    "mmsegmentation",
    "torchmetrics",
    "lightning",
    "papermill",
    "snakemake",
)


def provenance(root: str | Path = ".") -> dict:
    """Describe code, versions and machine; `root` is a folder of the project's git checkout.

    `commit` is None outside git; `dirty` says whether files other than results differ from the commit.
    """
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": bool(_git(root, "status", "--porcelain", "--", ":/", ":(exclude,top)results")),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "gpus": gpus,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | versions(),
    }


def _git(root: str | Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_model() -> str:
    """The processor's name, e.g. "AMD EPYC 9R14"; the architecture where the system does not tell."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Installed versions of the packages that can change a number."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
