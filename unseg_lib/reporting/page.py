"""The report's page: the whole document, and how a table or a figure stands in it."""

from html import escape
from pathlib import Path

from unseg_lib.reporting.drawing import Drawing
from unseg_lib.reporting.html import Table

SHORT = 50  # rows of a table that fits on a page


def page(profile: str, parts: list[tuple[str, str]]) -> str:
    """The whole document; parts without content are left out."""
    named = {f"part-{i}": part for i, part in enumerate(part for part in parts if part[1])}
    style = (Path(__file__).parent / "report.css").read_text()
    first, *rest = (f'<section id="{key}"><h2>{escape(t)}</h2>{body}</section>' for key, (t, body) in named.items())
    listed = _contents({key: title for key, (title, _) in named.items()})
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>UnSeg, profile {escape(profile)}</title><style>{style}</style></head><body><main>"
        f"<h1>UnSeg, reproduced: profile {escape(profile)}</h1>{first}{listed}{''.join(rest)}"
        "<footer>Paper: Ye Sun, Hao Zhang, Tiehua Zhang, Xingjun Ma, Yu-Gang Jiang, “UnSeg: One Universal Unlearnable "
        "Example Generator is Enough against All Image Segmentation”, NeurIPS 2024, arXiv 2410.09909. What it reports "
        "but is not known to us stays missing: nothing is guessed.</footer></main></body></html>\n"
    )


def _contents(titles: dict[str, str]) -> str:
    """The table of contents: {id of a section: title}."""
    entries = "".join(f'<li><a href="#{key}">{escape(title)}</a></li>' for key, title in titles.items())
    return f'<nav><h2>Contents</h2><ol class="contents">{entries}</ol></nav>'


def framed(table: Table) -> str:
    """A table that scrolls on a screen where it is wide, and stays in one piece on paper where it is short."""
    whole = " whole" if len(table.rows) <= SHORT else ""
    return f'<div class="wide{whole}">{table._repr_html_()}</div>' if table.rows else ""


def figure(drawing: Drawing, alt: str, caption: str = "") -> str:
    """A figure for the page; `alt` says it to those who cannot see it."""
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{drawing.html(alt)}{caption}</figure>"
