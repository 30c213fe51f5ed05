"""The report on paper: report.html printed by a browser that is there anyway."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import whole_file

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
SECONDS = 300


def write_pdf(results: str | Path) -> Path:
    """Print `results/report.html` to report.pdf beside it, A4; raises `UnsegError` without a report or a browser.

    Links to other files are left out: a browser writes them with the whole path of this machine.
    """
    results = Path(results)
    html, pdf = results / "report.html", results / "report.pdf"
    if not html.is_file():
        raise UnsegError(f"Expected a report in {html}, found no such file; run `unseg report {results}` first.")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise UnsegError("Expected a browser to print with, found none; install one: apt-get install chromium.")
    with tempfile.TemporaryDirectory() as folder, whole_file(pdf) as partial:
        page = Path(folder) / "report.html"
        page.write_text(without_files(html.read_text()))
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
        command += ["--no-pdf-header-footer", f"--print-to-pdf={partial.resolve()}", page.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
        if done.returncode or not partial.is_file() or not partial.stat().st_size:
            said = " ".join(done.stderr.split())[-300:]
            raise UnsegError(f"Expected {browser} to print {html}, found an error: {said or done.returncode}.")
    return pdf


def without_files(html: str) -> str:
    """The page with the text of its links to files, but not the links; those within the page stay.

    >>> without_files('<a href="victim/a/run.ipynb">1.0</a> <a href="#part-1">one</a>')
    '1.0 <a href="#part-1">one</a>'
    """
    return re.sub(r'<a href="[^"#][^"]*">(.*?)</a>', r"\1", html, flags=re.S)
