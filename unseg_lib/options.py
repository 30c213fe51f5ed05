"""Options after a name, as notebooks and profiles write them: "jpeg quality=50", "unet width=8"."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, TypeVar

from unseg_lib.errors import UnsegError, closest, pick

Entry = TypeVar("Entry")
Kinds = dict[str, type]  # option -> bool, int, float or str
READERS = {bool: {"True": True, "False": False}.__getitem__, int: int, float: float, str: str}
WORDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def parse_options(
    text: str, known: Mapping[str, Entry], what: str, kinds_of: Callable[[Entry], Kinds], kind: str = ""
) -> tuple[str, Entry, dict[str, Any]]:
    """Read "NAME key=value ...": the name, what is known by it, and the values of its options.

    what: the kind of name, for the error of an unknown one. kinds_of: the options of an entry. kind: stands before
    the name in the other errors, as "the defence ".
    """
    name, *options = text.split() or [""]
    entry, values = pick(dict(known), name, what), {}
    kinds = kinds_of(entry)
    for option in options:
        key, _, value = option.partition("=")
        if not kinds:
            raise UnsegError(f"Expected no options of {kind}{name}, found '{option}'.")
        if key not in kinds:
            raise UnsegError(f"Unknown option '{key}' of {kind}{name}; {closest(key, sorted(kinds))}")
        if key in values:
            raise UnsegError(f"Expected {key} once in {kind}'{text.strip()}', found it twice.")
        try:
            values[key] = READERS[kinds[key]](value)
            if not value or (kinds[key] is float and not math.isfinite(values[key])):
                raise ValueError(value)
        except (ValueError, KeyError) as error:
            words = WORDS[kinds[key]]
            raise UnsegError(f"Expected {words} for {key} of {kind}{name} ({key}=...), found '{value}'.") from error
    return name, entry, values


def keywords_of(function: Callable) -> Kinds:
    """A function's keyword-only arguments are its options."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    return {p.name: p.annotation for p in parameters if p.kind is p.KEYWORD_ONLY}


def fields_of(settings: object) -> Kinds:
    """A dataclass's fields that are numbers, texts, True or False are its options."""
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
    return {name: kind for name, kind in kinds.items() if kind in READERS}


def with_options(text: str, known: Mapping[str, Entry], what: str) -> tuple[str, Entry]:
    """The same with settings, frozen dataclasses, into which the options are put; they refuse values by themselves."""
    name, settings, values = parse_options(text, known, what, fields_of)
    return name, replace(settings, **values)


def check_kinds(settings: object) -> None:
    """Raise `UnsegError` where a text or a whole number is expected of a field; a path is a text, None an empty one."""
    for name, kind in ((field.name, field.type) for field in fields(settings) if field.type in (str, int)):
        value = getattr(settings, name)
        if isinstance(value, Path) or (value is None and getattr(type(settings), name) == ""):
            setattr(settings, name, value := str(value or ""))
        if not isinstance(value, str if kind is str else Integral):
            what = f"a {'text' if kind is str else 'whole number'} for {name}, as on the command line"
            raise UnsegError(f"Expected {what}, found {type(value).__name__}.")
