"""Your own purifier: a function from pixels to pixels, from a file or a package.

"purify module=my_purifier.py" calls the function `purify` of that file, "purify function=package.module:name"
a function of an installed package. It gets one image, uint8 `(H,W,3)`, and returns one of the same size:

    # my_purifier.py: total-variation smoothing
    def purify(pixels):
        from skimage.restoration import denoise_tv_chambolle

        return (255 * denoise_tv_chambolle(pixels, weight=0.1, channel_axis=-1)).round().astype("uint8")
"""

import importlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unseg_lib.defenses.defense import Defense
from unseg_lib.errors import UnsegError


def purify(seed: int, *, module: str = "", function: str = "") -> Defense:
    """module: a Python file with a function `purify`. function: "package.module:name". One of the two."""
    if bool(module) == bool(function):
        raise UnsegError(
            "Expected one of module=path/to/file.py and function=package.module:name for the defence purify, found "
            f"{'both' if module else 'none'}."
        )
    call = _of_file(Path(module)) if module else _of_package(function)

    def image(pixels: np.ndarray, id: str) -> np.ndarray:
        return call(pixels.copy())

    return Defense(image=image)


def _of_file(path: Path) -> Callable:
    if not path.is_file():
        raise UnsegError(f"Expected a Python file with a function purify(pixels) at {path}, found no such file.")
    spec = importlib.util.spec_from_file_location(f"purifier_{path.stem}", path)
    if spec is None:
        raise UnsegError(f"Expected a Python file (.py) as module of the defence purify, found {path}.")
    loaded = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(loaded)
    except Exception as error:  # whatever a user's file raises
        raise UnsegError(f"Could not load {path} ({type(error).__name__}: {error}); mend it.") from error
    return _callable(loaded, "purify", path)


def _of_package(text: str) -> Callable:
    place, _, name = text.partition(":")
    if not place or not name:
        raise UnsegError(f"Expected function=package.module:name for the defence purify, found '{text}'.")
    try:
        loaded = importlib.import_module(place)
    except Exception as error:  # whatever a package raises
        raise UnsegError(f"Could not import {place} ({type(error).__name__}: {error}); install or mend it.") from error
    return _callable(loaded, name, place)


def _callable(loaded, name: str, place: object) -> Callable:
    if not callable(found := getattr(loaded, name, None)):
        raise UnsegError(f"Expected a function {name}(pixels) in {place}, found none.")
    return found
