"""Notebook parameters, strictly: a misspelt or ill-typed one is refused before anything runs.

A notebook declares them in its cell tagged `parameters`, one per line: `name: Type = value  # help`, with the
types int, float, str, bool, Optional[one of them] and list[one of them]. (papermill's own check only warns.)
"""

import ast
import hashlib
import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from unseg_lib.errors import UnsegError, closest

PLAIN = {"int": int, "float": float, "str": str, "bool": bool}


@dataclass(frozen=True)
class Parameter:
    """One line of the cell: `type` as written, e.g. `list[int]`."""

    name: str
    type: str
    default: object
    help: str


def _cells(notebook: Path) -> list[dict]:
    if not notebook.is_file():
        raise UnsegError(f"Expected a notebook at {notebook}, found no such file; see the folder notebooks/.")
    try:
        return json.loads(notebook.read_text())["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise UnsegError(f"Expected a notebook in {notebook}, found a file that is none ({error!r}).") from error


def _source(cell: dict) -> str:
    source = cell.get("source", "")
    return source if isinstance(source, str) else "".join(source)


def notebook_code_hash(notebook: str | Path) -> str:
    """sha256 of what the notebook does: its code, without the text around it and the parameters' cell.

    A better sentence or another default is no reason to compute again; a stage knows all its values itself.
    """
    cells = [cell for cell in _cells(Path(notebook)) if cell["cell_type"] == "code" and not _is_parameters(cell)]
    return hashlib.sha256(json.dumps([_source(cell) for cell in cells]).encode()).hexdigest()


def _is_parameters(cell: dict) -> bool:
    return "parameters" in cell.get("metadata", {}).get("tags", [])


def notebook_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """Read the parameters cell; raises `UnsegError` where there is none or a line has another form."""
    notebook = Path(notebook)
    tagged = [cell for cell in _cells(notebook) if _is_parameters(cell)]
    if len(tagged) != 1:
        raise UnsegError(f"Expected one cell tagged 'parameters' in {notebook}, found {len(tagged)}; tag one.")
    return dict(_parsed(_source(tagged[0]), notebook))


@lru_cache  # by the cell's text: a profile asks a thousand times for the same few cells
def _parsed(text: str, notebook: Path) -> dict[str, Parameter]:
    try:
        statements = ast.parse(text).body
    except SyntaxError as error:
        raise UnsegError(f"Expected Python in the parameters cell of {notebook}, found {error}.") from error
    found = [_parameter(statement, text.splitlines(), notebook) for statement in statements]
    return {parameter.name: parameter for parameter in found if parameter}


def _parameter(statement: ast.stmt, lines: list[str], notebook: Path) -> Parameter | None:
    line = lines[statement.lineno - 1]
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return None  # `from typing import Optional`
    wrong = UnsegError(f"Expected `name: Type = value  # help` in the parameters cell of {notebook}, found `{line}`.")
    if (
        not isinstance(statement, ast.AnnAssign)
        or statement.value is None
        or not isinstance(statement.target, ast.Name)
    ):
        raise wrong
    kind = ast.unparse(statement.annotation)
    try:
        default = check_value(statement.target.id, kind, ast.literal_eval(statement.value))
    except ValueError as error:
        raise wrong from error
    # the help starts at the first # after the value, so that a # inside a string is none
    rest = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].decode()
    return Parameter(statement.target.id, kind, default, rest.partition("#")[2].strip())


def _split(kind: str) -> tuple[str, str]:
    """`list[int]` -> ("list", "int"), `int` -> ("", "int")."""
    outer, _, inner = kind.removesuffix("]").rpartition("[")
    outer = outer.removeprefix("typing.")
    if inner not in PLAIN or outer not in ("", "list", "List", "Optional"):
        raise UnsegError(f"Expected a type of {sorted(PLAIN)}, Optional[...] or list[...], found '{kind}'.")
    return outer.lower(), inner


def check_value(name: str, kind: str, value: object) -> object:
    """Return `value` as the type `kind` names (an int is taken as float), or raise `UnsegError`."""
    outer, inner = _split(kind)
    if outer == "optional" and value is None:
        return None
    if outer == "list":
        if not isinstance(value, list | tuple):
            raise _ill_typed(name, kind, value)
        return [check_value(name, inner, item) for item in value]
    if inner == "float" and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not PLAIN[inner] or (inner == "float" and not math.isfinite(value)):
        raise _ill_typed(name, kind, value)
    return value


def _ill_typed(name: str, kind: str, value: object) -> UnsegError:
    return UnsegError(f"Expected {kind} for the parameter '{name}', found {value!r}; write {name}=<{kind}>.")


def parse_value(name: str, kind: str, text: str) -> object:
    """Read a value from the command line (`-p name=text`) as the type the notebook declares.

    Lists as Python or JSON write them, or separated by commas; `none` is the empty Optional.
    """
    outer, inner = _split(kind)
    text = text.strip()
    if outer == "optional" and text.lower() in ("none", "null"):
        return None
    if outer == "list":
        items = text.removeprefix("[").removesuffix("]").split(",")
        return [_parse_plain(name, kind, inner, item.strip().strip("'\"")) for item in items if item.strip()]
    return _parse_plain(name, kind, inner, text)


def _parse_plain(name: str, kind: str, inner: str, text: str) -> object:
    if inner == "str":
        return text
    if inner == "bool":
        if text.lower() not in ("true", "false"):
            raise _ill_typed(name, kind, text)
        return text.lower() == "true"
    try:
        return check_value(name, inner, PLAIN[inner](text))
    except ValueError as error:
        raise _ill_typed(name, kind, text) from error


def check_parameters(notebook: str | Path, given: dict) -> dict:
    """All parameters of the notebook with the given ones in place of the defaults, each checked."""
    known = notebook_parameters(notebook)
    for name in given:
        if name not in known:
            raise UnsegError(f"Unknown parameter '{name}' of {Path(notebook).name}; {closest(name, sorted(known))}")
    return {
        name: check_value(name, parameter.type, given[name]) if name in given else parameter.default
        for name, parameter in known.items()
    }
