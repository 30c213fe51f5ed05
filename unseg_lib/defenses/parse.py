"""Read "jpeg quality=50 subsampling=444+grayscale": names joined by "+", each with options as name=value."""

import inspect
import math
from collections.abc import Callable, Mapping

from unseg_lib.defenses.defense import Defense
from unseg_lib.errors import UnsegError, closest, pick


def parse(text: str, known: Mapping[str, Callable[..., Defense]], seed: int) -> tuple[Defense, ...]:
    """The defences that `text` names, in its order. A maker's keyword-only arguments are its options."""
    found = tuple(_one(part, known, seed) for part in text.split("+"))
    if sum(defense.loss is not None for defense in found) > 1:
        raise UnsegError(f"Expected at most one defence that trains in its own way, found several in '{text}'.")
    return found


def _one(text: str, known: Mapping[str, Callable[..., Defense]], seed: int) -> Defense:
    name, *options = text.split() or [""]
    maker = pick(dict(known), name, "defence")
    signature = inspect.signature(maker)
    kinds = {p.name: p.annotation for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    values = {}
    for option in options:
        key, _, value = option.partition("=")
        if not kinds:
            raise UnsegError(f"Expected no options of the defence {name}, found '{option}'.")
        if key not in kinds:
            raise UnsegError(f"Unknown option '{key}' of the defence {name}; {closest(key, sorted(kinds))}")
        if key in values:
            raise UnsegError(f"Expected {key} once in the defence '{text.strip()}', found it twice.")
        values[key] = _value(name, key, kinds[key], value)
    return maker(seed, **values)


def _value(name: str, key: str, kind: type, text: str) -> object:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or value == "" or (kind is float and not math.isfinite(value)):
        what = {int: "a whole number", float: "a number", str: "a text"}[kind]
        raise UnsegError(f"Expected {what} for {key} of the defence {name} ({key}=...), found '{text}'.")
    return value
