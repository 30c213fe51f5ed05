"""One small helper per kind of figure, in one house style: SVG for lines and bars, PNG for pixels, the same bytes on
every run. Each returns a `Drawing`, the last value of a notebook's cell; nothing here touches pyplot or global state.
"""

import base64
import io
from dataclasses import dataclass
from html import escape
from itertools import cycle, product
from pathlib import Path
from textwrap import wrap

import numpy as np

from unseg_lib.evaluation import METRICS

STYLE = Path(__file__).with_name("house.mplstyle")
# the method in colour, the clean reference dark, the controls in quiet tones
INK, REDS = "#2b2f36", ("#c0392b", "#e08a7e", "#8c2a20", "#d9a29b")
QUIET = ("#4c78a8", "#72a98f", "#b59f3b", "#8f7bb0", "#7f8c8d", "#c58b6b", "#5aa2b5")
DASHES = ("-", "--", ":", "-.")
MIME = {"svg": "image/svg+xml", "png": "image/png"}
MOST = 150_000  # bytes; a larger SVG is drawn as PNG
COLOURED = 6  # lines of a panel, at most
# how a prediction agrees with the truth, on light ground
AGREEMENT = {"right": "#8fb8de", "missed": "#f3c98b", "wrong": "#d96a5b", "not scored": "#ffffff"}
GROUND = "#eef0f2"
# of a label map's classes, light and dark in turn: told apart by the colour-blind, and on paper
LABELS = bytes.fromhex("4477aa ee6677 228833 ccbb44 aa3377 66ccee 332288 ee7733 117733 ddaa77 882255 88ccaa")


@dataclass(frozen=True)
class Drawing:
    """A rendered "svg" or "png". dataset_image: it shows pixels of a data set, so `unseg publish` takes it out."""

    kind: str
    content: bytes
    dataset_image: bool = False

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        text = self.content if self.kind == "svg" else base64.b64encode(self.content)
        return {MIME[self.kind]: text.decode()}, {"dataset_image": self.dataset_image}

    def html(self, alt: str) -> str:
        """An HTML element that needs no other file; `alt` is read out in place of the image."""
        content = base64.b64encode(self.content).decode()
        return f'<img alt="{escape(alt)}" src="data:{MIME[self.kind]};base64,{content}">'


def draw(
    width: float, height: float, kind: str, plot, rows: int = 1, columns: int = 1, dataset_image: bool | None = None
) -> Drawing:
    """Render what `plot` draws on axes `(rows,columns)`, in inches. dataset_image: see `Drawing`; None: if a png."""
    import matplotlib
    from matplotlib.figure import Figure

    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with matplotlib.rc_context(fname=STYLE):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
        plot(figure.subplots(rows, columns, squeeze=False))
        for made, dpi in ((kind, 110), ("png", 150)):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=made, metadata=metadata[made], dpi=dpi)
            if made == "png" or buffer.tell() <= MOST:
                break
    return Drawing(made, buffer.getvalue(), kind == "png" if dataset_image is None else dataset_image)


def strokes_of(names: list[str]) -> dict[str, dict[str, str]]:
    """How to draw each recipe's line: clean dark, UnSeg and its generator red, all else quiet; later ones dashed."""
    reds, quiet = (cycle(product(DASHES, colours)) for colours in (REDS, QUIET))
    chosen = (next(reds if name.startswith(("unseg", "generator")) else quiet) for name in names if name != "clean")
    strokes = {name: ("-", INK) if name == "clean" else next(chosen) for name in names}
    return {name: {"color": colour, "linestyle": dash} for name, (dash, colour) in strokes.items()}


# pixels


def paint(label: np.ndarray) -> np.ndarray:
    """Label map `(H,W)`, 255 = ignore -> uint8 RGB `(H,W,3)`: class 0 pale, the others in `LABELS`, ignored white."""
    palette = np.insert(np.resize(np.frombuffer(LABELS, np.uint8), (255, 3)), 0, 0, axis=0)  # class c is palette[c]
    palette[0], palette[255] = list(bytes.fromhex(GROUND[1:])), 255
    return palette[label]


def magnify(original: np.ndarray, changed: np.ndarray, times: float = 10) -> np.ndarray:
    """The difference of two uint8 images, `times` stronger, around middle gray."""
    return np.clip(127.5 + times * (changed.astype(np.float32) - original), 0, 255).astype(np.uint8)


def agreement(truth: np.ndarray, prediction: np.ndarray, background: bool = True, over=None) -> np.ndarray:
    """Where a prediction agrees with the truth, both label maps `(H,W)`, as uint8 RGB in the colours of `AGREEMENT`:
    "missed" is an object taken for background, "wrong" any other error; background that was found is pale. background:
    whether 0 is one, not a class like the others. over: the image `(H,W,3)` that shines through, if any.
    """
    from matplotlib.colors import to_rgb

    none = background & (prediction == 0)
    found = np.select([truth == 255, none & (truth == 0), truth == prediction, none], [3, 4, 0, 1], default=2)
    palette = np.array([to_rgb(colour) for colour in (*AGREEMENT.values(), GROUND)])
    colours = (255 * palette[found]).round().astype(np.uint8)
    return colours if over is None else (0.3 * over + 0.7 * colours).astype(np.uint8)


def extremes(scores: list[float]) -> dict[str, int]:
    """{"best", "median", "worst"}: where in `scores` they stand; fewer of them where there are fewer scores."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    named = {order[len(order) // 2]: "median", order[-1]: "worst", order[0]: "best"}  # one place has the last of them
    return {name: place for place, name in sorted(named.items(), key=lambda pair: pair[1])}


def _as_image(image: np.ndarray) -> np.ndarray:
    """bool masks black and white, label maps painted, float noise in [-1,1] around gray, images as they are."""
    image = np.asarray(image)
    if image.dtype == bool:
        return np.repeat(image[..., None], 3, axis=2).astype(np.uint8) * 255
    if image.ndim == 2:
        return paint(image)
    return np.clip(127.5 * (1 + image), 0, 255).astype(np.uint8) if image.dtype.kind == "f" else image


def show(*, free: bool = False, **images: np.ndarray) -> Drawing:
    """Images side by side, each under its name: `show(original=x, mask=m)`; `free` as in `show_rows`."""
    return show_rows([images], free=free)


def show_rows(rows: list[dict[str, np.ndarray]], *, free=False, key=None, over=None, names=()) -> Drawing:
    """Rows of images: above them the names of the first row, left of them `names`, below the colours of `key` (name ->
    colour). `free`: nothing in it is an image of a data set; masks, charts, generated scenes and free photos may be
    published. `over` may draw more on the grid of axes.
    """
    from matplotlib.patches import Patch

    aspect = max(image.shape[0] / image.shape[1] for row in rows for image in row.values())
    columns, width = len(rows[0]), min(2.2, 7.6 / len(rows[0]))

    def plot(axes):
        for row, line in zip(rows, axes):
            for axis, (name, image) in zip(line, row.items()):
                axis.imshow(_as_image(image), interpolation="nearest")
                axis.set_axis_off()
                axis.set_title(name.replace("_", " ") if row is rows[0] else "")
        for axis, name in zip(axes[:, 0], names):
            axis.text(-0.1, 0.5, name, transform=axis.transAxes, ha="right", va="center")
        if key:
            patches = [Patch(facecolor=colour, edgecolor="#8a8f98", label=name) for name, colour in key.items()]
            axes[0, 0].figure.legend(handles=patches, loc="outside lower left", ncols=len(patches))
        if over:
            over(axes)

    height = len(rows) * width * min(aspect, 1.6) + (0.6 if key else 0.25)
    return draw(columns * width, height, "png", plot, len(rows), columns, dataset_image=not free)


# lines and bars


def coloured(group: dict[str, list]) -> list[str]:
    """The lines worth drawing where there are many: clean, at most three of UnSeg's, then whose end is lowest."""
    by_end = sorted(group, key=lambda name: group[name][-1])
    own = [name for name in by_end if name.startswith("unseg")][:3]
    return list(dict.fromkeys([*(name for name in group if name == "clean"), *own, *by_end]))[:COLOURED]


def _lines(axis, series: dict[str, list], x, **style) -> None:
    for name, stroke in strokes_of(list(series)).items():
        axis.plot(list(x)[: len(series[name])], series[name], label=name.replace("_", " "), **style, **stroke)
    axis.grid(axis="y")
    axis.xaxis.get_major_locator().set_params(integer=all(isinstance(value, int) for value in x))


def curves(series: dict[str, list], *, x, xlabel: str, ylabel: str, log=False, steps=False) -> Drawing:
    """One line per name over the abscissae `x`, a shorter one over the first of them; of more than `COLOURED` names
    only those worth it. `log` draws y logarithmically, `steps` as a histogram.
    """
    named = coloured(series) if len(series) > COLOURED else series

    def plot(axes):
        axis, style = axes[0, 0], "steps-mid" if steps else "default"
        _lines(axis, {name: values for name, values in series.items() if name in named}, x, drawstyle=style)
        axis.set(xlabel=xlabel, ylabel=ylabel, **({"yscale": "log"} if log else {"ylim": (0, None)}))
        if len(series) > 1:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        axis.margins(x=0.01)

    return draw(6.4, 2.7, "svg", plot)


def learning_curve(loss: list[float], scores: dict[str, list[float]], *, ylabel: str) -> Drawing:
    """Training loss on the left, test scores on the right, both by epoch; a metric's name becomes its words."""
    scores = {METRICS[name].words.partition(",")[0] if name in METRICS else name: one for name, one in scores.items()}

    def plot(axes):
        for axis, series, label, top in zip(axes[0], ({"loss": loss}, scores), ("training loss", ylabel), (None, 100)):
            _lines(axis, series, range(1, len(loss) + 1), marker="o", markersize=3)
            axis.set(xlabel="epoch", ylabel=label, ylim=(0, top))
        axis.legend(loc="upper left" if len(scores) == 1 else "best")

    return draw(6.4, 2.5, "svg", plot, 1, 2)


def bars(groups: dict[str, dict[str, tuple]], *, xlabel: str, colours: dict[str, str] | None = None) -> Drawing:
    """Horizontal bars, a panel a group: {group: {name: (value, std), NaN if not run}}; wider with `colours`."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    long = max(map(len, names)) > 21  # and needs the room of a third panel
    columns, width = min(3 - long, len(groups)), 6.4 if colours else 2.9 + 1.2 * long
    lines, longest = -(-len(groups) // columns), max(map(len, groups.values()))
    colours = colours or {name: stroke["color"] for name, stroke in strokes_of(names).items()}

    def plot(axes):
        for axis in axes.flat[len(groups) :]:
            axis.set_axis_off()
        for axis, (title, group) in zip(axes.flat, groups.items()):
            axis.set_title("\n".join(wrap(title, 25 if width < 6 else 50)))
            for place, (name, value) in enumerate(group.items()):
                mean, std = np.nan_to_num(value)
                axis.barh(place, mean, 0.66, color=colours[name], xerr=std or None, ecolor="#6b7079")
                text, colour = ("not run", "#9aa0a8") if np.isnan(value[0]) else (f"{mean:.0f}", INK)
                axis.text(mean + std + 2, place, text, va="center", fontsize=8, color=colour)
            axis.axvline(100, color="#9aa0a8", linewidth=0.7)
            axis.set(xlabel=xlabel, xlim=(0, 122), ylim=(longest - 0.4, -0.6))
            axis.set_yticks(range(len(group)), [name.replace("_", " ") for name in group])
        axes[0, 0].figure.get_layout_engine().set(h_pad=0.12)

    return draw(width * columns, lines * (0.24 * longest + 1.0), "svg", plot, lines, columns)
