"""The house style and how a figure is rendered: SVG for lines and bars, PNG for pixels, the same bytes on every run.

Nothing here touches pyplot or another global state.
"""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from itertools import cycle

STYLE = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial"],
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#8a8f98",
    "axes.labelcolor": "#3b4048",
    "axes.linewidth": 0.7,
    "xtick.color": "#6b7079",
    "ytick.color": "#6b7079",
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "svg.fonttype": "path",  # looks the same where DejaVu is not installed
    "svg.hashsalt": "unseg",  # element ids depend on the drawing alone
}
# the method in colour, the clean reference dark, the controls in quiet tones
INK, REDS = "#2b2f36", ("#c0392b", "#e08a7e", "#8c2a20", "#d9a29b")
DASHES = ("-", "--", ":", "-.")
QUIET = ("#4c78a8", "#72a98f", "#b59f3b", "#8f7bb0", "#7f8c8d", "#c58b6b", "#5aa2b5")


@dataclass(frozen=True)
class Drawing:
    """A rendered figure: `kind` is "svg" or "png"."""

    kind: str
    content: bytes

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        if self.kind == "svg":
            return {"image/svg+xml": self.content.decode()}
        return {"image/png": base64.b64encode(self.content).decode()}

    def html(self, alt: str) -> str:
        """An HTML element that needs no other file; `alt` is read out in place of the image."""
        from html import escape

        if self.kind == "svg":
            code = self.content.decode()
            return f'<div role="img" aria-label="{escape(alt)}">{code[code.index("<svg") :]}</div>'
        return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(self.content).decode()}">'


def colours_of(names: list[str]) -> dict[str, str]:
    """A colour per recipe: clean dark, UnSeg, its variants and its generator red, everything else quiet."""
    reds, quiet = cycle(REDS), cycle(QUIET)
    return {
        name: INK if name == "clean" else next(reds if name.startswith(("unseg", "generator")) else quiet)
        for name in names
    }


def strokes_of(names: list[str]) -> dict[str, dict[str, str]]:
    """How to draw each recipe's line: its colour, and dashes where an earlier name has that colour already."""
    colours, used = colours_of(names), Counter()
    strokes = {}
    for name, colour in colours.items():
        strokes[name] = {"color": colour, "linestyle": DASHES[used[colour] % len(DASHES)]}
        used[colour] += 1
    return strokes


def draw(width: float, height: float, kind: str, plot, rows: int = 1, columns: int = 1) -> Drawing:
    """Give `plot` a grid of axes `(rows,columns)` in the house style and render what it drew; sizes in inches."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
        plot(figure.subplots(rows, columns, squeeze=False))
        buffer = io.BytesIO()
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(buffer, format=kind, metadata=metadata)
    return Drawing(kind, buffer.getvalue())
