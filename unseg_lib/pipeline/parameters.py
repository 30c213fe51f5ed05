"""Notebook parameters, strictly: a misspelt or ill-typed one is refused before anything runs (papermill only warns).

A notebook declares them in its cell tagged `parameters`, one per line: `name: Type = value  # help`, with the types
int, float, str, bool, Optional[one of them] and list[one of them]. What few readers change stands in a folded cell
before it, tagged `more-parameters`.
"""

import ast
import hashlib
import json
import math
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from unseg_lib.errors import UnsegError, closest

SHOWN, FOLDED = "parameters", "more-parameters"  # tags of cells
PLAIN = {"int": int, "float": float, "str": str, "bool": bool}


class Parameter(NamedTuple):
    """One line of the cell: `type` as written, e.g. `list[int]`."""

    type: str
    default: object
    help: str


def _code(notebook: Path) -> list[tuple[str, str]]:
    """A notebook's code cells: of each the tag that makes it one of parameters, or "", and its text."""
    if not notebook.is_file():
        raise UnsegError(f"Expected a notebook at {notebook}, found no such file; see the folder notebooks/.")
    try:
        cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnsegError(f"Expected a notebook in {notebook}, found a file that is none ({error!r}).") from error
    tags = [cell.get("metadata", {}).get("tags", []) for cell in cells]
    tags = [next((tag for tag in (FOLDED, SHOWN) if tag in own), "") for own in tags]
    return [(tag, "".join(cell.get("source", ""))) for tag, cell in zip(tags, cells)]


def notebook_code_hash(notebook: str | Path) -> str:
    """sha256 of the notebook's code without the parameters; a stage knows all their values itself.

    A better sentence or another default is no reason to compute again.
    """
    texts = [text for tag, text in _code(Path(notebook)) if not tag]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def notebook_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """Read the parameters, folded ones last; raises `UnsegError` where there are none or a line has another form."""
    tagged = [(tag, text) for tag, text in _code(Path(notebook)) if tag]
    if [tag for tag, _ in tagged] not in ([SHOWN], [FOLDED, SHOWN]):  # papermill sets values behind the cell SHOWN
        said = f"found {len(tagged)}; tag one, and if need be one before it '{FOLDED}'"
        raise UnsegError(f"Expected one cell tagged '{SHOWN}' in {notebook}, {said}.")
    return {name: one for _, text in reversed(tagged) for name, one in _parsed(text, Path(notebook)).items()}


@lru_cache  # by the cell's text: a profile asks a thousand times for the same few cells
def _parsed(text: str, notebook: Path) -> dict[str, Parameter]:
    where, lines, found = f"in the parameters cell of {notebook}", text.splitlines(), {}
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise UnsegError(f"Expected Python {where}, found {error}.") from error
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            continue  # `from typing import Optional`
        try:
            name, kind = statement.target.id, ast.unparse(statement.annotation)
            default = check_value(name, kind, ast.literal_eval(statement.value))
        except (AttributeError, ValueError) as error:  # no annotation, no name, or no plain value
            line = lines[statement.lineno - 1]
            raise UnsegError(f"Expected `name: Type = value  # help` {where}, found `{line}`.") from error
        # the help starts at the first # after the value, so that a # inside a string is none
        rest = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
        found[name] = Parameter(kind, default, rest.partition("#")[2].strip())
    return found


def _split(kind: str) -> tuple[str, str]:
    """`list[int]` -> ("list", "int"), `int` -> ("", "int")."""
    outer, _, inner = kind.removesuffix("]").rpartition("[")
    outer = outer.removeprefix("typing.").lower()
    if inner not in PLAIN or outer not in ("", "list", "optional"):
        raise UnsegError(f"Expected a type of {sorted(PLAIN)}, Optional[...] or list[...], found '{kind}'.")
    return outer, inner


def check_value(name: str, kind: str, value: object) -> object:
    """`value` as the type `kind` names (an int is taken as float), or raise `UnsegError`."""
    outer, inner = _split(kind)
    if outer == "optional" and value is None:
        return None
    if outer == "list" and isinstance(value, list | tuple):
        return [check_value(name, inner, item) for item in value]
    if inner == "float" and type(value) is int:
        value = float(value)
    if outer == "list" or type(value) is not PLAIN[inner] or (inner == "float" and not math.isfinite(value)):
        raise UnsegError(f"Expected {kind} for the parameter '{name}', found {value!r}; write {name}=<{kind}>.")
    return value


def parse_value(name: str, kind: str, text: str) -> object:
    """The value of `-p name=text`: lists as Python or JSON write them, or by commas; `none` is the empty Optional."""
    outer, inner = _split(kind)
    text = text.strip()
    if outer == "optional" and text.lower() in ("none", "null"):
        return None
    if outer == "list":
        items = [item.strip().strip("'\"") for item in text.removeprefix("[").removesuffix("]").split(",")]
        return check_value(name, kind, [_plain(inner, item) for item in items if item])
    return check_value(name, kind, _plain(inner, text))


def _plain(kind: str, text: str) -> object:
    """The text as an int, float or bool where it is one; what stays a text is refused as ill-typed."""
    if kind == "bool":
        return {"true": True, "false": False}.get(text.lower(), text)
    with suppress(ValueError):
        return PLAIN[kind](text)
    return text


def check_parameters(notebook: str | Path, given: dict) -> dict:
    """All parameters of the notebook with the given ones in place of the defaults, each checked."""
    known = notebook_parameters(notebook)
    values = {name: parameter.default for name, parameter in known.items()}
    for name, value in given.items():
        if name not in known:
            raise UnsegError(f"Unknown parameter '{name}' of {Path(notebook).name}; {closest(name, sorted(known))}")
        values[name] = check_value(name, known[name].type, value)
    return values
