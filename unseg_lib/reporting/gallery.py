"""The gallery: every notebook as it looks after it has run at its defaults, with its images, in results/gallery/.

Only code that has changed is run again; sentences are always those of the notebook as it stands.
"""

import base64
import io
from pathlib import Path

from unseg_lib.files import read_json, write_json

SMALL = 20_000  # bytes of a PNG (in base64) from which on it is tried as JPEG
QUALITY = 88


def write_gallery(root: str | Path = ".") -> list[Path]:
    """Bring the executed copies of the checkout `root` up to date; their paths."""
    from unseg_lib import pipeline

    root, pages = Path(root), []
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        page, source = root / "results/gallery" / notebook.name, read_json(notebook)
        shown = read_json(page) if page.is_file() else {"cells": []}
        if moved_on(source, shown):
            out = root / "results/scratch/gallery" / notebook.stem
            pipeline.run_notebook(notebook, out, {})
            shown = read_json(out / "run.ipynb")
        outputs = {cell["id"]: cell["outputs"] for cell in shown["cells"] if "outputs" in cell}
        for cell in source["cells"]:
            if "outputs" in cell:  # what a library says by the way, with dates and paths, is nobody's result
                cell["outputs"] = [output for output in outputs[cell["id"]] if output.get("name") != "stderr"]
                for output in cell["outputs"]:
                    _shrink(output.get("data", {}))
        write_json(page, source)
        pages.append(page)
    return pages


def moved_on(source: dict, shown: dict) -> bool:
    """Whether an executed copy is of other code, or other defaults, than the notebook `source`."""
    cells = [[cell for cell in one["cells"] if cell["cell_type"] == "code"] for one in (source, shown)]
    texts = [[(cell["id"], "".join(cell["source"])) for cell in one] for one in cells]
    return texts[0] != [pair for pair in texts[1] if pair[0] != "injected-parameters"]


def _shrink(data: dict) -> None:
    """Put a JPEG in the place of a large PNG where that is smaller by a third."""
    from PIL import Image

    if len(data.get("image/png", "")) > SMALL:
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        image.save(buffer, "JPEG", quality=QUALITY, subsampling=0, optimize=True)
        small = base64.b64encode(buffer.getvalue()).decode()
        if len(small) < 2 / 3 * len(data["image/png"]):
            del data["image/png"]
            data["image/jpeg"] = small
