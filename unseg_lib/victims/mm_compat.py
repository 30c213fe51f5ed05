"""What the frozen OpenMMLab packages need beside today's torch, in one place.

mmcv-lite has no compiled operators (`mmcv._ext`), but importing mmseg's models looks them up: a stand-in
whose functions raise when called is enough.
"""

import importlib.machinery
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

from unseg_lib.errors import UnsegError


def import_mmseg() -> types.ModuleType:
    """Import mmseg with its models, transforms and schedulers registered (7 s the first time)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # their deprecations, which nobody will mend
        stand_in_for_compiled_operators()
        import mmseg
        import mmseg.datasets
        import mmseg.engine
        import mmseg.models
        from mmengine.logging import MMLogger
        from mmengine.registry import init_default_scope

        init_default_scope("mmseg")  # where configs' bare names are looked up
        MMLogger.get_instance("unseg", log_level="ERROR")  # else every weight's first value is announced
    return mmseg


def stand_in_for_compiled_operators() -> None:
    """Put a module in the place of `mmcv._ext` where mmcv has been installed without it."""
    if "mmcv._ext" in sys.modules or importlib.util.find_spec("mmcv._ext"):
        return
    module = types.ModuleType("mmcv._ext", "Stand-in: every function raises when called.")
    module.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", loader=None)
    module.__getattr__ = _missing_operator
    sys.modules["mmcv._ext"] = module


def _missing_operator(name: str) -> Callable:
    if name.startswith("__"):
        raise AttributeError(name)

    def raise_when_called(*_arguments, **_options):
        raise UnsegError(
            f"Expected mmcv's compiled operator '{name}', found mmcv-lite, which has none; "
            "choose a config without it or install the full mmcv 2.1.0."
        )

    return raise_when_called


def shipped_configs() -> dict[str, Path]:
    """The configs inside the mmsegmentation package by name, e.g. deeplabv3_r50-d8_4xb4-20k_voc12aug-512x512."""
    folder = Path(importlib.util.find_spec("mmseg").origin).parent / ".mim" / "configs"
    files = {file.stem: file for file in sorted(folder.glob("[!_]*/*.py"))}
    if not files:
        raise UnsegError(f"Expected mmsegmentation's configs in {folder}, found none; install mmsegmentation 1.2.2.")
    return files
