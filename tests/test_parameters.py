"""Notebook parameters are strict: what is misspelt or ill-typed is refused, with a hint."""

import json

import pytest
from toy_project import write_notebook

from unseg_lib import UnsegError
from unseg_lib.pipeline import check_parameters, check_value, notebook_parameters, parse_value
from unseg_lib.pipeline.parameters import notebook_code_hash

CELL = """from typing import Optional

# budgets
epsilon: float = 8  # inside the mask, 1/255
steps: int = 20  # how "many" # really
name: str = "a # b"  # a text with a hash
gray: bool = False
size: list[int] = [96, 64]  # height, width
limit: Optional[int] = None  # all of them"""


@pytest.fixture
def notebook(tmp_path):
    return write_notebook(tmp_path / "toy.ipynb", "1", parameters=CELL)


def test_the_cell_is_read_with_types_defaults_and_help(notebook):
    found = notebook_parameters(notebook)
    assert found == {
        "epsilon": ("float", 8.0, "inside the mask, 1/255"),
        "steps": ("int", 20, 'how "many" # really'),
        "name": ("str", "a # b", "a text with a hash"),
        "gray": ("bool", False, ""),
        "size": ("list[int]", [96, 64], "height, width"),
        "limit": ("Optional[int]", None, "all of them"),
    }
    assert isinstance(found["epsilon"].default, float)


def test_given_values_replace_defaults_and_a_misspelt_name_names_the_closest(notebook):
    values = check_parameters(notebook, {"epsilon": 4, "limit": 3})
    assert values == {"epsilon": 4.0, "steps": 20, "name": "a # b", "gray": False, "size": [96, 64], "limit": 3}
    with pytest.raises(UnsegError, match=r"Unknown parameter 'epsilonn' of toy\.ipynb; did you mean 'epsilon'"):
        check_parameters(notebook, {"epsilonn": 8})


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        *(("int", [1.0, True, "1", None]), ("float", ["1", True, float("nan")]), ("str", [1]), ("bool", [1])),
        *(("list[int]", [[1, 2.0], 3]), ("list[str]", ["ab"]), ("list[float]", [[None]]), ("Optional[int]", ["none"])),
    ],
)
def test_an_ill_typed_value_is_refused(kind, values):
    for value in values:
        with pytest.raises(UnsegError, match="for the parameter 'x'"):
            check_value("x", kind, value)


@pytest.mark.parametrize(
    ("kind", "texts", "wrong"),
    [
        ("int", {"7": 7}, ["3.5", ""]),
        ("float", {"4": 4.0, "1e-3": 0.001}, ["a", "nan"]),
        ("str", {"8": "8", "a=b": "a=b"}, []),
        ("bool", {"true": True, "False": False}, ["1"]),
        ("Optional[int]", {"none": None, "5": 5}, ["five"]),
        ("list[int]", {"[96, 128]": [96, 128], "96,128": [96, 128]}, ["96,a"]),
        ("list[str]", {"['a','b']": ["a", "b"]}, []),
        ("list[float]", {"[]": []}, ["nan"]),
    ],
)
def test_text_from_the_command_line(kind, texts, wrong):
    for text, value in texts.items():
        parsed = parse_value("x", kind, text)
        assert parsed == value and type(parsed) is type(value)
    for text in wrong:
        with pytest.raises(UnsegError, match="for the parameter 'x'"):
            parse_value("x", kind, text)


@pytest.mark.parametrize(
    "line", ["x = 1", "x: int", "x: dict = {}", "print(1)", "x: int = 1 + y", "x: int | None = 1", "x: int = 'a'"]
)
def test_another_form_of_line_is_refused(tmp_path, line):
    with pytest.raises(UnsegError):
        notebook_parameters(write_notebook(tmp_path / "toy.ipynb", parameters=line))


def test_a_folded_cell_is_read_too_and_must_stand_where_given_values_come_after_it(tmp_path):
    folded = {"cell_type": "code", "metadata": {"tags": ["more-parameters"]}, "source": "rare: int = 3  # seldom"}
    path = write_notebook(tmp_path / "toy.ipynb", "1", parameters=CELL)
    book, mark = json.loads(path.read_text()), notebook_code_hash(path)
    for place in (0, 1):
        cells = [*book["cells"][:place], folded, *book["cells"][place:]]
        path.write_text(json.dumps(book | {"cells": cells}))
        if not place:
            assert list(notebook_parameters(path))[-2:] == ["limit", "rare"] and notebook_code_hash(path) == mark
    with pytest.raises(UnsegError, match="one before it 'more-parameters'"):
        notebook_parameters(path)


def test_what_is_no_notebook_is_one_sentence(tmp_path):
    (tmp_path / "a.ipynb").write_text("{]")
    for name in ("a.ipynb", "missing.ipynb"):
        with pytest.raises(UnsegError, match="Expected a notebook"):
            notebook_parameters(tmp_path / name)
