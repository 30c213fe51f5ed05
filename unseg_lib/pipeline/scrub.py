"""Make an executed notebook the same on every machine: no times, paths, process numbers or addresses."""

import os
import re
import sys
import tempfile
from pathlib import Path

IMAGES = ("image/png", "image/jpeg", "application/pdf")  # base64: not text
VOLATILE = [
    (re.compile(r"\S*ipykernel_\d+/\d+\.py"), "<cell>"),
    (re.compile(r" at 0x[0-9a-f]{6,}"), " at 0x0"),
    (re.compile(r"^.*: \d+/\d+, \d+ s spent, \d+ s left\n", re.M), ""),  # unseg_lib.runtime
]


def clean_notebook(notebook: dict, places: dict[str, str]) -> dict:
    """Return the notebook without execution metadata; `places` maps absolute paths to what to call them."""
    replacements = VOLATILE + [
        (re.compile(re.escape(path) + r"(?![\w.-])"), name)
        for path, name in sorted(places.items(), key=lambda place: -len(place[0]))
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {
        "cells": [_clean_cell(cell, replacements) for cell in notebook["cells"]],
        "metadata": {"kernelspec": kernel, "language_info": {"name": "python"}},
        "nbformat": notebook["nbformat"],
        "nbformat_minor": notebook["nbformat_minor"],
    }


def _clean_cell(cell: dict, replacements: list) -> dict:
    tags = cell.get("metadata", {}).get("tags", [])
    cleaned = {**cell, "metadata": {"tags": tags} if tags else {}}
    if "injected-parameters" in tags:
        cleaned["source"] = _clean(cell["source"], replacements)
        if "id" in cell:
            cleaned["id"] = "injected-parameters"  # papermill's is random
    if "outputs" in cell:
        outputs = _joined_streams(cell["outputs"])
        cleaned["outputs"] = [_without_twin(_clean(output, replacements)) for output in outputs]
        cleaned["outputs"] = [output for output in cleaned["outputs"] if output.get("text") != ""]
    return cleaned


def _clean(value: object, replacements: list) -> object:
    """Apply the replacements to every text inside, except to encoded images."""
    if isinstance(value, dict):
        return {key: item if key in IMAGES else _clean(item, replacements) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item, replacements) for item in value]
    if isinstance(value, str):
        for pattern, name in replacements:
            # a function, because a name such as "$UNSEG_DATA" or a backslash is meant literally
            value = pattern.sub(lambda match, name=name: name, value)
    return value


def _without_twin(output: dict) -> dict:
    """Drop the text that stands beside an image: a reader sees the image, and some texts hold it again."""
    if any(kind.startswith("image/") for kind in output.get("data", {})):
        return output | {"data": {kind: item for kind, item in output["data"].items() if kind != "text/plain"}}
    return output


def _joined_streams(outputs: list[dict]) -> list[dict]:
    """Join neighbouring texts of one stream: how they were cut depends on timing."""
    joined: list[dict] = []
    for output in outputs:
        last = joined[-1] if joined else {}
        if output["output_type"] == "stream" and last.get("name") == output["name"]:
            last["text"] = "".join(last["text"]) + "".join(output["text"])
        elif output["output_type"] == "stream":
            joined.append({**output, "text": "".join(output["text"])})
        else:
            joined.append(dict(output))
    return joined


def places_of(root: Path, out: Path) -> dict[str, str]:
    """The absolute paths that could show up in outputs, and what to call each."""
    places = {
        tempfile.gettempdir(): "$TMP",
        str(Path.home()): "~",
        sys.prefix: "$VENV",
        str(root): ".",
        str(out.resolve()): out.name,
    }
    if out.resolve().is_relative_to(root):
        places[str(out.resolve())] = out.resolve().relative_to(root).as_posix()
    if os.environ.get("UNSEG_DATA"):
        places[str(Path(os.environ["UNSEG_DATA"]).resolve())] = "$UNSEG_DATA"
    return {path: name for path, name in places.items() if path not in ("/", "")}
