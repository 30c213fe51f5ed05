"""Executed notebooks as they are read: the report and the gallery.

The report, results/<profile>/report.html, is a book made of the notebooks 04, 05, 08 and 11, in one file that needs no
network, no script and no other file. In results/gallery/ is every notebook after it has run at its defaults, with the
sentences of the notebook as it stands.
"""

import base64
import io
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, sha256_of, whole_file, write_bytes, write_json
from unseg_lib.reporting.rows import load

PAGES = ("tables", "defenses", "mixture", "ablations")  # stages whose notebooks they are
HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SMALL = 20_000  # bytes of a PNG (in base64) from which on the gallery tries it as JPEG


def write_report(results: str | Path) -> Path:
    """Write `results/report.html` from the executed pages; its path. Raises `UnsegError` without rows. A page that was
    not executed for these rows is executed first: 04 always, the others where the profile names them or one lies there.
    """
    from unseg_lib.pipeline import NOTEBOOKS, profile_of, run_notebook

    results, digest = Path(results), load(results).digest
    profile, pages = profile_of(results), []
    planned = profile.pages if profile else {}
    for kind in PAGES:
        folder, notebook = results / kind, HERE.parents[1] / f"notebooks/{NOTEBOOKS[kind]}.ipynb"
        metrics, origin, page = (folder / name for name in ("metrics.json", "provenance.json", "run.ipynb"))
        if kind != "tables" and kind not in planned and not origin.is_file():
            continue
        if not (metrics.is_file() and read_json(metrics).get("rows") == digest and page.is_file()):
            asked = read_json(origin)["parameters"] if origin.is_file() else planned.get(kind, {})
            run_notebook(notebook, folder, asked | {"results": results.as_posix()}, inputs=(digest,))
        pages.append(page)
    write_bytes(results / "report.html", _book(results, pages).encode())
    return results / "report.html"


def _book(results: Path, pages: list[Path]) -> str:
    """The whole document: a table of contents of the headings, then every page without what only its reader needs."""
    import nbformat
    from jinja2 import Template
    from nbconvert import HTMLExporter

    from unseg_lib.pipeline import relink

    how = {"template_name": "basic", "anchor_link_text": ""}
    exporter, body = HTMLExporter(raw_template=(HERE / "page.html.j2").read_text(), **how), ""
    for path in pages:
        notebook = nbformat.read(path, as_version=4)
        hidden = {"parameters", "more-parameters", "injected-parameters", "by-hand"}
        notebook.cells = [cell for cell in notebook.cells if not hidden & set(cell.metadata.get("tags", ()))]
        relink(notebook.cells, results, HERE.parents[1])
        body += f'<section class="page">{exporter.from_notebook_node(notebook)[0]}</section>'
    body = re.sub(r'<a class="anchor-link"[^>]*>.*?</a>', "", body)
    heads = re.findall(r'<h([12]) id="([^"]+)">(.*?)</h\1>', body, flags=re.S)
    shell = Template((HERE / "book.html.j2").read_text(), keep_trailing_newline=True)
    return shell.render(profile=results.resolve().name, style=(HERE / "book.css").read_text(), heads=heads, body=body)


def write_pdf(results: str | Path) -> Path:
    """Print `results/report.html` to report.pdf beside it, A4; raises `UnsegError` without a report or a browser."""
    results = Path(results)
    html, pdf = results / "report.html", results / "report.pdf"
    if not html.is_file():
        raise UnsegError(f"Expected a report in {html}, found no such file; run `unseg report {results}` first.")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UnsegError("Expected a browser to print with, found none; install one: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as folder, whole_file(pdf) as partial:
        page = Path(folder) / "report.html"
        # links to other files would hold this machine's paths
        page.write_text(re.sub(r'<a href="[^"#][^"]*">(.*?)</a>', r"\1", html.read_text(), flags=re.S))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += ["--no-pdf-header-footer", f"--print-to-pdf={partial.resolve()}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode or not partial.is_file() or not partial.stat().st_size:
            said = " ".join(done.stderr.split())[-300:]
            raise UnsegError(f"Expected {browser} to print {html}, found an error: {said or done.returncode}.")
    return pdf


def write_gallery(root: str | Path = ".") -> list[Path]:
    """Bring the executed copies of the checkout `root` up to date; their paths. What is run again says `moved_on`."""
    from unseg_lib import pipeline

    root, pages = Path(root), []
    for notebook in sorted((root / "notebooks").glob("*.ipynb")):
        page, source = root / "results/gallery" / notebook.name, read_json(notebook)
        shown = read_json(page) if page.is_file() else {"cells": []}
        rows = rows_shown(source, root)
        if moved_on(source, shown, rows):
            out = root / "results/scratch/gallery" / notebook.stem
            pipeline.run_notebook(notebook, out, {}, inputs=(rows,) if rows else ())
            shown = read_json(out / "run.ipynb")
        source["metadata"] |= {"rows": rows} if rows else {}
        pipeline.relink(source["cells"], page.parent, root)
        outputs = {cell["id"]: cell["outputs"] for cell in shown["cells"] if "outputs" in cell}
        for cell in source["cells"]:
            if "outputs" in cell:  # what a library says by the way, with dates and paths, is nobody's result
                cell["outputs"] = [output for output in outputs[cell["id"]] if output.get("name") != "stderr"]
                for output in cell["outputs"]:
                    _shrink(output.get("data", {}))
        write_json(page, source)
        pages.append(page)
    return pages


def moved_on(source: dict, shown: dict, rows: str) -> bool:
    """Whether an executed copy is of other code, other defaults, or other `rows_shown` than the notebook `source`."""
    cells = [[cell for cell in one["cells"] if cell["cell_type"] == "code"] for one in (source, shown)]
    texts = [[(cell["id"], "".join(cell["source"])) for cell in one] for one in cells]
    same = texts[0] == [pair for pair in texts[1] if pair[0] != "injected-parameters"]
    return not same or shown.get("metadata", {}).get("rows", "") != rows


def rows_shown(source: dict, root: Path) -> str:
    """What tells the rows that a notebook shows at its defaults from others; "" where it shows none."""
    code = "\n".join("".join(cell["source"]) for cell in source["cells"])
    folders = ",".join(re.findall(r'^(?:results|beside): str = "([^"]+)"', code, flags=re.MULTILINE))
    return " ".join(sha256_of(root / name / "rows.csv")[:12] for name in folders.split(",") if name)


def _shrink(data: dict) -> None:
    """Put a JPEG in the place of a large PNG where that is smaller by a third."""
    from PIL import Image

    if len(data.get("image/png", "")) > SMALL:
        buffer = io.BytesIO()
        image = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
        image.save(buffer, "JPEG", quality=88, subsampling=0, optimize=True)
        small = base64.b64encode(buffer.getvalue()).decode()
        if len(small) < 2 / 3 * len(data["image/png"]):
            del data["image/png"]
            data["image/jpeg"] = small
