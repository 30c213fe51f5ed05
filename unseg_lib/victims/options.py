"""Options after a victim's name, separated by blanks: "wideresnet38 label_padding=ignore"."""

import ast
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TypeVar

from unseg_lib.errors import UnsegError, closest, pick

Settings = TypeVar("Settings")  # a frozen dataclass; its fields that are numbers, texts, True or False are options
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}


def with_options(text: str, known: Mapping[str, Settings], what: str) -> tuple[str, Settings]:
    """Read "NAME key=value ...": the name, and its settings with the options put in.

    what: the kind of name, for errors. A value that the settings refuse is refused by themselves.
    """
    name, *options = text.split() or [""]
    settings = pick(dict(known), name, what)
    values = {}
    for option in options:
        key, _, value = option.partition("=")
        kinds = {field.name: type(getattr(settings, field.name)) for field in fields(settings)}
        kinds = {key: kind for key, kind in kinds.items() if kind in KINDS}
        if key not in kinds:
            raise UnsegError(f"Unknown option '{key}' of {name}; {closest(key, sorted(kinds))}")
        if key in values:
            raise UnsegError(f"Expected {key} once in '{text.strip()}', found it twice.")
        values[key] = _value(name, key, kinds[key], value)
    return name, replace(settings, **values)


def _value(name: str, key: str, kind: type, text: str) -> object:
    """The text as Python writes such a value; a whole number will do for a number."""
    value = text if kind is str and text else _literal(text)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise UnsegError(f"Expected {KINDS[kind]} for {key} of {name} ({key}=...), found '{text}'.")
    return value


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
