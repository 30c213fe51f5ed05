"""One small helper per kind of figure; each returns a `Drawing`, which a notebook shows as the last value of a cell and
the report embeds.
"""

import numpy as np

from unseg_lib.reporting.drawing import INK, QUIET, REDS, Drawing, colours_of, draw, strokes_of


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


def _as_image(image: np.ndarray) -> np.ndarray:
    """bool masks black and white, label maps painted, float noise in [-1,1] around gray, images as they are."""
    image = np.asarray(image)
    if image.dtype == bool:
        return np.repeat(image[..., None], 3, axis=2).astype(np.uint8) * 255
    if image.ndim == 2:
        return paint(image)
    if image.dtype.kind == "f":
        return np.clip(127.5 * (1 + image), 0, 255).astype(np.uint8)
    return image


def numbered(masks: list[np.ndarray]) -> np.ndarray:
    """Objects, bool masks `(H,W)`, as one label map: each its number from 1, small ones on top; 0 is none of them."""
    found = np.zeros(masks[0].shape, np.uint8)
    for number in sorted(range(len(masks)), key=lambda i: -int(masks[i].sum())):
        found[masks[number]] = 1 + number % 254
    return found


def show(**images: np.ndarray) -> Drawing:
    """Images side by side, each under its name: `show(original=x, mask=m)`."""
    return show_rows([images])


def show_rows(rows: list[dict[str, np.ndarray]]) -> Drawing:
    """Rows of images, the names of the first row above."""
    aspect = max(image.shape[0] / image.shape[1] for row in rows for image in row.values())
    columns = len(rows[0])
    width = min(2.2, 7.6 / columns)

    def plot(axes):
        for number, (row, line) in enumerate(zip(rows, axes)):
            for axis, (name, image) in zip(line, row.items()):
                axis.imshow(_as_image(image), interpolation="nearest")
                axis.set_axis_off()
                if number == 0:
                    axis.set_title(name.replace("_", " "))

    height = len(rows) * width * min(aspect, 1.6) + 0.25
    return draw(columns * width, height, "png", plot, len(rows), columns)


def show_prompts(image: np.ndarray, mask: np.ndarray, box: np.ndarray, points: np.ndarray) -> Drawing:
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

    return draw(6.6, 2.2 * min(1.6, image.shape[0] / image.shape[1]) + 0.25, "png", plot, 1, 3)


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
        axis.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
        if not log:
            axis.set_ylim(0, None)
        axis.grid(axis="y", color="#e6e8eb", linewidth=0.6)
        axis.margins(x=0.01)
        if len(series) > 1:
            axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw(6.4, 2.7, "svg", plot)


def curve_panels(groups: dict[str, dict[str, list]], *, xlabel: str, ylabel: str) -> Drawing:
    """Learning curves, one panel per group, with one legend: {group: {name: [value of epoch 1, 2, ...]}}."""
    strokes = strokes_of(list(dict.fromkeys(name for group in groups.values() for name in group)))
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)

    def plot(axes):
        for axis in axes.flat[len(groups) :]:
            axis.set_axis_off()
        for axis, (title, group) in zip(axes.flat, groups.items()):
            for name, values in group.items():
                axis.plot(range(1, len(values) + 1), values, **strokes[name], linewidth=1.3)
            axis.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
            axis.grid(axis="y", color="#e6e8eb", linewidth=0.6)
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure, keys = axes[0, 0].figure, [_key(stroke) for stroke in strokes.values()]
        names = [name.replace("_", " ") for name in strokes]
        figure.legend(keys, names, loc="outside lower left", ncols=4, handlelength=2.2)

    return draw(max(2.9 * columns, 5.0), lines * 2.3 + 0.4, "svg", plot, lines, columns)


def _key(stroke: dict[str, str]):
    from matplotlib.lines import Line2D

    return Line2D([], [], **stroke)


def dots(series: dict[str, list[tuple[float, float]]], *, xlabel: str, ylabel: str) -> Drawing:
    """Measured points (x, y) as faint dots, with a running mean over a twentieth of them as a line."""
    colours = colours_of(list(series))

    def plot(axes):
        axis = axes[0, 0]
        for name, points in series.items():
            x, y = np.array(points, float).T
            window = max(1, len(y) // 20)
            weights = np.ones(window)
            smooth = np.convolve(y, weights, "same") / np.convolve(np.ones_like(y), weights, "same")
            axis.plot(x, y, ".", color=colours[name], markersize=3, alpha=0.35)
            axis.plot(x, smooth, color=colours[name], label=name.replace("_", " "))
        axis.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
        axis.grid(axis="y", color="#e6e8eb", linewidth=0.6)
        axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw(6.4, 2.7, "svg", plot)


def learning_curve(loss: list[float], scores: dict[str, list[float]], *, ylabel: str) -> Drawing:
    """Training loss on the left, test scores on the right, both by epoch."""
    colours, epochs = colours_of(list(scores)), range(1, len(loss) + 1)

    def plot(axes):
        left, right = axes[0]
        left.plot(epochs, loss, color=QUIET[0], marker="o", markersize=3)
        left.set(xlabel="epoch", ylabel="training loss", ylim=(0, None))
        for name, values in scores.items():
            right.plot(epochs, values, color=colours[name], marker="o", markersize=3, label=name.replace("_", " "))
        right.set(xlabel="epoch", ylabel=ylabel, ylim=(0, 100))
        right.legend(loc="upper left" if len(scores) == 1 else "best")
        for axis in (left, right):
            axis.grid(axis="y", color="#e6e8eb", linewidth=0.6)
            axis.xaxis.get_major_locator().set_params(integer=True)

    return draw(6.4, 2.5, "svg", plot, 1, 2)


def bars(
    groups: dict[str, dict[str, tuple[float, float] | None]],
    *,
    xlabel: str,
    reference: float = 100,
    colours: dict[str, str] | None = None,
) -> Drawing:
    """Horizontal bars, one panel per group: {group: {name: (value, std) or None for a run that is missing}}.

    With `colours` of its own, a figure has long names and is wider.
    A thin line marks `reference`; values are written at the bars, so that nobody has to read an axis.
    """
    width = 6.4 if colours else 2.9
    colours = colours or colours_of(list(dict.fromkeys(name for group in groups.values() for name in group)))
    columns = min(3, len(groups))
    lines = -(-len(groups) // columns)
    longest = max(len(group) for group in groups.values())

    def plot(axes):
        for axis in axes.flat[len(groups) :]:
            axis.set_axis_off()
        for axis, (title, group) in zip(axes.flat, groups.items()):
            for place, (name, value) in enumerate(group.items()):
                mean, std = value or (0.0, 0.0)
                axis.barh(place, mean, 0.66, color=colours[name], xerr=std or None, ecolor="#6b7079")
                text = f"{mean:.0f}" if value else "not run"
                axis.text(mean + std + 2, place, text, va="center", fontsize=8, color=INK if value else "#9aa0a8")
            axis.axvline(reference, color="#9aa0a8", linewidth=0.7)
            axis.set(title=title, xlabel=xlabel, xlim=(0, 1.22 * reference), ylim=(longest - 0.4, -0.6))
            axis.set_yticks(range(len(group)), [name.replace("_", " ") for name in group])
        axes[0, 0].figure.get_layout_engine().set(h_pad=0.12)

    return draw(width * columns, lines * (0.24 * longest + 0.9), "svg", plot, lines, columns)
