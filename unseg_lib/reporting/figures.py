"""One small helper per kind of figure, in one house style: SVG for lines and bars, PNG for pixels, the same bytes on
every run. Each returns a `Drawing`, which a notebook shows as the last value of a cell.

Nothing here touches pyplot or another global state.
"""

import base64
import io
from collections import Counter
from dataclasses import dataclass
from html import escape
from itertools import cycle
from textwrap import wrap

import numpy as np

STYLE = {
    "font.family": ["DejaVu Sans", "sans-serif"],
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
    "svg.fonttype": "none",  # text as text: as paths it was nine tenths of a figure
    "svg.hashsalt": "unseg",  # element ids depend on the drawing alone
}
# the method in colour, the clean reference dark, the controls in quiet tones
INK, REDS, PALE = "#2b2f36", ("#c0392b", "#e08a7e", "#8c2a20", "#d9a29b"), "#d5d8dc"
DASHES = ("-", "--", ":", "-.")
QUIET = ("#4c78a8", "#72a98f", "#b59f3b", "#8f7bb0", "#7f8c8d", "#c58b6b", "#5aa2b5")
MOST = 100_000  # bytes; a larger SVG is drawn as PNG
COLOURED = 6  # lines of a panel that have a colour and a name
# how a prediction agrees with the truth, on light ground
AGREEMENT = {"right": "#8fb8de", "missed": "#f3c98b", "wrong": "#d96a5b", "not scored": "#ffffff"}
GROUND = "#eef0f2"


@dataclass(frozen=True)
class Drawing:
    """A rendered figure: `kind` is "svg" or "png". dataset_image: whether it shows pixels of a data set's images, which
    may not be passed on; the notebook's output says so, and `unseg publish` takes these out.
    """

    kind: str
    content: bytes
    dataset_image: bool = False

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        text = self.content.decode() if self.kind == "svg" else base64.b64encode(self.content).decode()
        return {"image/svg+xml" if self.kind == "svg" else "image/png": text}, {"dataset_image": self.dataset_image}

    def html(self, alt: str) -> str:
        """An HTML element that needs no other file; `alt` is read out in place of the image."""
        if self.kind == "svg":
            code = self.content.decode()
            return f'<div role="img" aria-label="{escape(alt)}">{code[code.index("<svg") :]}</div>'
        return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(self.content).decode()}">'


def draw(
    width: float, height: float, kind: str, plot, rows: int = 1, columns: int = 1, dataset_image: bool | None = None
) -> Drawing:
    """Give `plot` a grid of axes `(rows,columns)` in the house style and render what it drew; sizes in inches.

    dataset_image: see `Drawing`; None takes a "png" for one.
    """
    import matplotlib
    from matplotlib.figure import Figure

    metadata = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
        plot(figure.subplots(rows, columns, squeeze=False))
        for one, dpi in {kind: 110, "png": 150}.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=one, metadata=metadata[one], dpi=110 if kind == "png" else dpi)
            if kind == "png" or buffer.tell() <= MOST:
                break
    return Drawing(one, buffer.getvalue(), kind == "png" if dataset_image is None else dataset_image)


def colours_of(names: list[str]) -> dict[str, str]:
    """A colour per recipe: clean dark, UnSeg, its variants and its generator red, everything else quiet."""
    reds, quiet = cycle(REDS), cycle(QUIET)
    return {
        name: INK if name == "clean" else next(reds if name.startswith(("unseg", "generator")) else quiet)
        for name in names
    }


def strokes_of(names: list[str]) -> dict[str, dict[str, str]]:
    """How to draw each recipe's line: its colour, and dashes where an earlier name has that colour already."""
    used, strokes = Counter(), {}
    for name, colour in colours_of(names).items():
        strokes[name] = {"color": colour, "linestyle": DASHES[used[colour] % len(DASHES)]}
        used[colour] += 1
    return strokes


# pixels


def paint(label: np.ndarray) -> np.ndarray:
    """Label map `(H,W)`, 255 = ignore -> uint8 RGB `(H,W,3)` in Pascal VOC's palette; ignored pixels white."""
    index = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= (((index >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    palette[255] = 255
    return palette[label]


def magnify(original: np.ndarray, changed: np.ndarray, times: float = 10) -> np.ndarray:
    """The difference of two uint8 images, `times` stronger, around middle gray."""
    return np.clip(127.5 + times * (changed.astype(np.float32) - original), 0, 255).astype(np.uint8)


def numbered(masks: list[np.ndarray]) -> np.ndarray:
    """Objects, bool masks `(H,W)`, as one label map: each its number from 1, small ones on top; 0 is none of them."""
    found = np.zeros(masks[0].shape, np.uint8)
    for number in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        found[masks[number]] = 1 + number % 254
    return found


def agreement(truth: np.ndarray, prediction: np.ndarray, background: bool = True) -> np.ndarray:
    """Where a prediction agrees with the truth, both label maps `(H,W)`, as uint8 RGB in the colours of `AGREEMENT`.

    "missed" is an object that was taken for background, "wrong" any other error; background that was found is pale.
    background: whether 0 is one, not a class like the others.
    """
    from matplotlib.colors import to_rgb

    found = np.select(
        [
            truth == 255,
            background & (truth == 0) & (prediction == 0),
            truth == prediction,
            background & (prediction == 0),
        ],
        [3, 4, 0, 1],
        default=2,
    )
    palette = np.array([to_rgb(colour) for colour in (*AGREEMENT.values(), GROUND)])
    return (255 * palette[found]).round().astype(np.uint8)


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


def show_rows(rows: list[dict[str, np.ndarray]], *, free: bool = False, key: dict[str, str] | None = None) -> Drawing:
    """Rows of images, the names of the first row above, the colours of `key` (name -> colour) explained below.

    `free`: nothing in it is an image of a data set; masks, charts, generated scenes and free photos may be published.
    """
    from matplotlib.patches import Patch

    aspect = max(image.shape[0] / image.shape[1] for row in rows for image in row.values())
    columns = len(rows[0])
    width = min(2.2, 7.6 / columns)

    def plot(axes):
        for row, line in zip(rows, axes):
            for axis, (name, image) in zip(line, row.items()):
                axis.imshow(_as_image(image), interpolation="nearest")
                axis.set_axis_off()
                axis.set_title(name.replace("_", " ") if row is rows[0] else "")
        patches = [Patch(facecolor=colour, edgecolor="#8a8f98", label=name) for name, colour in (key or {}).items()]
        if patches:
            axes[0, 0].figure.legend(handles=patches, loc="outside lower left", ncols=len(patches))

    height = len(rows) * width * min(aspect, 1.6) + (0.6 if key else 0.25)
    return draw(columns * width, height, "png", plot, len(rows), columns, dataset_image=not free)


def show_prompts(
    image: np.ndarray, mask: np.ndarray, box: np.ndarray, points: np.ndarray, *, free: bool = False
) -> Drawing:
    """An image with its prompts: mask bool `(H,W)` tinted, box xyxy, points `(k,2)` xy, one panel each."""
    from matplotlib.patches import Rectangle

    tinted = np.where(mask[..., None], 0.45 * image + 0.55 * np.array([192, 57, 43]), image).astype(np.uint8)

    def plot(axes):
        panels = {"mask": tinted, "box": image, "points": image}
        for axis, (name, panel) in zip(axes[0], panels.items()):
            axis.imshow(panel, interpolation="nearest")
            axis.set_axis_off()
            axis.set_title(name)
        left, top, right, bottom = box
        outline = Rectangle((left, top), right - left, bottom - top, fill=False, color=REDS[0], linewidth=2)
        axes[0, 1].add_patch(outline)
        axes[0, 2].plot(*points.T, "o", color=REDS[0], markersize=5, markeredgecolor="white")

    height = 2.2 * min(1.6, image.shape[0] / image.shape[1]) + 0.25
    return draw(6.6, height, "png", plot, 1, 3, dataset_image=not free)


# lines and bars


def _quiet(axis, **settings) -> None:
    """Labels and limits of an axis, and its faint grid."""
    axis.set(**settings)
    axis.grid(axis="y", color="#e6e8eb", linewidth=0.6)


def _panels(axes, groups: dict, letters: int = 30):
    """The axes of each group with its title, broken after so many letters, and content; those left over are hidden."""
    for axis in axes.flat[len(groups) :]:
        axis.set_axis_off()
    for axis, (title, group) in zip(axes.flat, groups.items()):
        axis.set_title("\n".join(wrap(title, letters)))
        yield axis, group


def curves(
    series: dict[str, list], *, x: list, xlabel: str, ylabel: str, log: bool = False, steps: bool = False
) -> Drawing:
    """One line per name over the abscissae `x`, a shorter one over the first of them.

    `log` draws y logarithmically, `steps` as a histogram.
    """
    strokes = strokes_of(list(series))

    def plot(axes):
        axis = axes[0, 0]
        for name, values in series.items():
            style = "steps-mid" if steps else "default"
            label = name.replace("_", " ")
            axis.plot(list(x)[: len(values)], values, label=label, drawstyle=style, **strokes[name])
        _quiet(axis, xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
        if not log:
            axis.set_ylim(0, None)
        axis.margins(x=0.01)
        if len(series) > 1:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw(6.4, 2.7, "svg", plot)


def coloured(group: dict[str, list]) -> list[str]:
    """The lines of a panel that are worth a colour: clean, at most three of UnSeg's, then whose end is lowest."""
    by_end = sorted(group, key=lambda name: group[name][-1])
    own = [name for name in by_end if name.startswith("unseg")][:3]
    first = [name for name in group if name == "clean"] + own
    return [*first, *(name for name in by_end if name not in first)][:COLOURED]


def curve_panels(groups: dict[str, dict[str, list]], *, xlabel: str, ylabel: str) -> Drawing:
    """Learning curves, one panel per group: {group: {name: [value of epoch 1, 2, ...]}}.

    At most `COLOURED` lines have a colour and their name at their end (`coloured`); the others are gray.
    """
    columns = min(2, len(groups))
    lines = -(-len(groups) // columns)

    def plot(axes):
        for axis, group in _panels(axes, groups, 50):
            named = coloured(group)
            strokes = strokes_of([name for name in group if name in named])
            top = max(max(values) for values in group.values()) or 1.0
            for name, values in group.items():
                stroke = strokes.get(name, {"color": PALE, "zorder": 1})
                axis.plot(range(1, len(values) + 1), values, **{"linewidth": 1.4} | stroke)
            # names at the ends of their lines, pushed apart where they would touch, none above the top
            names, step = sorted(strokes, key=lambda name: group[name][-1]), 0.085 * top
            places = [min(group[name][-1], 1.05 * top - step * (len(names) - i)) for i, name in enumerate(names)]
            place = -np.inf
            for name, wanted in zip(names, places):
                place = max(wanted, place + step)
                at = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 7.5}
                axis.annotate(name.replace("_", " "), (1.02, place), color=strokes[name]["color"], **at)
            _quiet(axis, xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.05 * top))
            axis.xaxis.get_major_locator().set_params(integer=True)

    return draw(4.4 * columns, lines * 2.5 + 0.2, "svg", plot, lines, columns)


def dots(series: dict[str, list[tuple[float, float]]], *, xlabel: str, ylabel: str) -> Drawing:
    """Measured points (x, y) as faint dots, with a running mean over a twentieth of them as a line."""
    colours = colours_of(list(series))

    def plot(axes):
        axis = axes[0, 0]
        for name, points in series.items():
            x, y = np.array(points, float).T
            weights = np.ones(max(1, len(y) // 20))
            smooth = np.convolve(y, weights, "same") / np.convolve(np.ones_like(y), weights, "same")
            axis.plot(x, y, ".", color=colours[name], markersize=3, alpha=0.35)
            axis.plot(x, smooth, color=colours[name], label=name.replace("_", " "))
        _quiet(axis, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw(6.4, 2.7, "svg", plot)


def learning_curve(loss: list[float], scores: dict[str, list[float]], *, ylabel: str) -> Drawing:
    """Training loss on the left, test scores on the right, both by epoch."""
    colours, epochs = colours_of(list(scores)), range(1, len(loss) + 1)

    def plot(axes):
        left, right = axes[0]
        left.plot(epochs, loss, color=QUIET[0], marker="o", markersize=3)
        _quiet(left, xlabel="epoch", ylabel="training loss", ylim=(0, None))
        for name, values in scores.items():
            right.plot(epochs, values, color=colours[name], marker="o", markersize=3, label=name.replace("_", " "))
        _quiet(right, xlabel="epoch", ylabel=ylabel, ylim=(0, 100))
        right.legend(loc="upper left" if len(scores) == 1 else "best")
        for axis in (left, right):
            axis.xaxis.get_major_locator().set_params(integer=True)

    return draw(6.4, 2.5, "svg", plot, 1, 2)


def bars(
    groups: dict[str, dict[str, tuple[float, float] | None]],
    *,
    xlabel: str,
    reference: float = 100,
    colours: dict[str, str] | None = None,
) -> Drawing:
    """Horizontal bars, one panel per group: {group: {name: (value, std), or None or NaN for a run that is missing}}.

    A thin line marks `reference`; values are written at the bars, so that nobody has to read an axis. With `colours`
    of its own, a figure has long names and is wider.
    """
    columns, width = min(3, len(groups)), 6.4 if colours else 2.9
    colours = colours or colours_of(list(dict.fromkeys(name for group in groups.values() for name in group)))
    lines = -(-len(groups) // columns)
    longest = max(len(group) for group in groups.values())

    def plot(axes):
        for axis, group in _panels(axes, groups, 30 if width < 6 else 90):
            for place, (name, value) in enumerate(group.items()):
                there = value is not None and not np.isnan(value[0])
                mean, std = np.nan_to_num(value) if there else (0.0, 0.0)
                axis.barh(place, mean, 0.66, color=colours[name], xerr=std or None, ecolor="#6b7079")
                text, colour = (f"{mean:.0f}", INK) if there else ("not run", "#9aa0a8")
                axis.text(mean + std + 2, place, text, va="center", fontsize=8, color=colour)
            axis.axvline(reference, color="#9aa0a8", linewidth=0.7)
            axis.set(xlabel=xlabel, xlim=(0, 1.22 * reference), ylim=(longest - 0.4, -0.6))
            axis.set_yticks(range(len(group)), [name.replace("_", " ") for name in group])
        axes[0, 0].figure.get_layout_engine().set(h_pad=0.12)

    return draw(width * columns, lines * (0.24 * longest + 1.0), "svg", plot, lines, columns)


def heat_map(grid) -> Drawing:
    """A DataFrame of percentages, its index down and its columns across: dark is much, empty is not run."""
    values = grid.to_numpy(float)

    def plot(axes):
        axis = axes[0, 0]
        axis.pcolormesh(values, cmap="Blues", vmin=0, vmax=120, edgecolors="white", linewidth=0.6)
        axis.invert_yaxis()
        axis.set_xticks(np.arange(values.shape[1]) + 0.5, [name.replace("_", " ") for name in grid.columns])
        axis.xaxis.tick_top()
        axis.set_yticks(np.arange(len(values)) + 0.5, [name.replace("_", " ") for name in grid.index])
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
        for (row, column), value in np.ndenumerate(values):
            text = "" if np.isnan(value) else f"{value:.0f}"
            place = (column + 0.5, row + 0.5)
            axis.text(*place, text, ha="center", va="center", color="white" if value > 70 else INK)

    return draw(2.4 + 1.2 * values.shape[1], 0.8 + 0.26 * len(values), "svg", plot)
