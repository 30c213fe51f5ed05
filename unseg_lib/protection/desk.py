"""The desk: an image, what somebody points at, a budget and a generator, and what comes of them.

`Desk` knows nothing of a browser, `Panel` holds it out to one. Shown is a small image, saved one as large as given.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from html import escape
from itertools import chain, count
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unseg_lib.errors import UnsegError
from unseg_lib.files import write_bytes, writing
from unseg_lib.images import decode_image, outlined, resize_label
from unseg_lib.method import Region, find_region, measure, shipped, shrunk
from unseg_lib.poisons import PoisonSettings
from unseg_lib.protection.api import Protector
from unseg_lib.protection.photo import Photo, check_size, gray_remark, read_photo
from unseg_lib.protection.report import check_new_png
from unseg_lib.reporting import REDS, STYLE, Drawing, curves, draw, magnify

VIEW = 640  # pixels; the longer side of what is shown: a slider must not wait for a whole photograph
PLACES = {"points": (-1, 2), "labels": -1, "box": (-1, 4)}  # numbers of one point, its label, one box
DIM = 0.5  # of the brightness is left outside the region
STILL = 4  # pixels; a hand that moves less means a click


@dataclass(eq=False)
class Desk:
    """One image being protected; places are pixels of the original, x first.

    prompt: `{}`, `{"points": [[x, y], ...], "labels": [1, ...]}` or `{"box": [[x0, y0, x1, y1], ...]}`; region: what it
    means, see `find_region`. raw: noise `(3,g,g)` in [-1,1], before any budget. view, view_mask, view_protected: the
    image `(h,w,3)`, the region `(h,w)` and the protected image, shrunk to at most `VIEW` pixels a side.
    """

    photo: Photo
    name: str = "image"  # what its copies are called after
    _: KW_ONLY
    generator: str = "small"
    eps: float = 8
    eps_bg: float = 2
    rgb: bool = False  # store gray images in three channels, which keep all of the noise
    device: str = "auto"
    segmenter: str = "small"  # who finds the object, see `find_region`

    def __post_init__(self):
        own = Protector(self.generator, eps=self.eps, eps_bg=self.eps_bg, device=self.device)
        self.protectors = {self.generator: own}
        self.take(self.photo, self.name)

    def take(self, photo: Photo, name: str) -> None:
        """Put another image on the desk; generator and budget stay, what was pointed at goes."""
        photo = photo.with_three_channels() if self.rgb else photo
        check_size(photo.pixels)
        region = find_region(photo.pixels, segmenter=self.segmenter)
        self.photo, self.name, self.view = photo, name, shrunk(photo.pixels, VIEW)
        self._found({}, region)

    def on_click(self, x: float, y: float, label: int = 1) -> None:
        """One more point, on what is meant (1) or beside it (0); boxes go, since a prompt is of one kind."""
        points, labels = ([*self.prompt.get(kind, []), one] for kind, one in (("points", (x, y)), ("labels", label)))
        self.point_at(points=points, labels=labels)

    def on_box(self, x0: float, y0: float, x1: float, y1: float) -> None:
        """One more box by two opposite corners, in any order; points go."""
        self.point_at(box=[*self.prompt.get("box", []), (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))])

    def undo(self) -> None:
        """Take the last point or box back."""
        self.point_at(**{kind: places[:-1] for kind, places in self.prompt.items()})

    def point_at(self, *, points: Sequence = (), box: Sequence = (), labels: Sequence = ()) -> None:
        """Replace the prompt by points `(k,2)` with labels `(k,)` (1 = on what is meant, 0 = beside it; none: 1), or by
        box `(k,4)`, flat lists too, or by neither: what stands out."""
        labels = labels if len(labels) else [1] * (len(np.ravel(points)) // 2)
        given = {"points": points, "labels": labels, "box": box}
        prompt = {kind: places for kind, places in given.items() if len(places)}
        region = find_region(self.photo.pixels, **prompt, segmenter=self.segmenter)
        self._found({kind: np.reshape(places, PLACES[kind]).tolist() for kind, places in prompt.items()}, region)

    def set_generator(self, name: str) -> None:
        """Another generator, by its shipped name or its file, for the same region."""
        if name not in self.protectors:
            self.protectors[name] = Protector(name, device=self.device)
        self.generator = name
        self._found(self.prompt, self.region)

    def set_budget(self, eps: float, eps_bg: float) -> None:
        """The largest change inside and outside the region, in steps over 255; no generator runs."""
        PoisonSettings(eps, eps_bg)  # checks the budget
        self.eps, self.eps_bg = eps, eps_bg
        self.view_protected = self._with_noise(self.view, self.view_mask)

    def _found(self, prompt: dict, region: Region) -> None:
        self.prompt, self.region = prompt, region
        self.view_mask = resize_label(region.mask, self.view.shape[:2])
        self.raw = self.protectors[self.generator].raw_noise(self.photo.pixels, region.mask, self.photo.gray)
        self.set_budget(self.eps, self.eps_bg)

    def _with_noise(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        own = self.protectors[self.generator]
        return own.with_noise(pixels, self.raw, mask, self.eps, self.eps_bg, gray=self.photo.gray)

    def measured(self) -> dict[str, float]:
        """What the noise does to the image as it is shown, see `measure`."""
        return measure(self.view, self.view_protected, self.view_mask)

    def summary(self) -> str:
        """What is on the desk, in a line."""
        found, beware = self.measured(), gray_remark(self.photo.pixels, self.photo.gray, self.generator)
        return (
            f"Protected: {100 * self.region.mask.mean():.0f} % of {self.name}, found by {self.region.found_by}. "
            f"Largest change {found['linf_inside']} inside and {found['linf_outside']} outside, of 255 steps; "
            f"PSNR {found['psnr']:.1f} dB." + f" Beware: {beware}." * bool(beware)
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> dict:
        """Write the protected image in its full size as PNG, with the original's colour profile and transparency.

        A file that is there stays, unless `overwrite`. Returns what the file, read back, has changed (see `measure`):
        that and `written`, `found_by`, `protected` (share of the image), `eps`, `eps_bg`, and its size in `bytes`.
        """
        path, mask = Path(path), self.region.mask
        check_new_png(path, overwrite=overwrite)
        content = self.photo.encode(self._with_noise(self.photo.pixels, mask), "png")
        with writing(path, "folder"):
            write_bytes(path, content)
        found = {"written": path.as_posix(), "found_by": self.region.found_by, "protected": float(mask.mean())}
        found |= {"eps": self.eps, "eps_bg": self.eps_bg, "bytes": len(content)}
        return found | measure(self.photo.pixels, decode_image(path.read_bytes()), mask)


def saved_sentence(saved: dict) -> str:
    """What was written and what it has changed, in a line."""
    return (
        f"Written: {saved['written']} ({saved['bytes'] / 1e6:.1f} MB). Read back, it differs by at most "
        f"{saved['linf_inside']} inside (allowed {saved['eps']:g}) and {saved['linf_outside']} outside (allowed "
        f"{saved['eps_bg']:g}), of 255 steps; PSNR {saved['psnr']:.1f} dB."
    )


def uploaded(name: str, content: bytes) -> Photo:
    """The image in a file's content, as `read_photo` reads it; `name` tells the format."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        try:
            return read_photo(path)
        except UnsegError as error:
            raise UnsegError(str(error).replace(f"{folder}/", "")) from error


def free_name(folder: str | Path, name: str) -> Path:
    """Where a protected copy of the image `name` can be written without replacing a file."""
    endings = chain([""], (f"-{number}" for number in count(2)))
    paths = (Path(folder) / f"{name[:60]}-protected{ending}.png" for ending in endings)
    return next(path for path in paths if not path.exists())


# what is on the desk, drawn


def panels(desk: Desk) -> Drawing:
    """The region with what was pointed at, the noise, the protected image, side by side."""
    return draw(7.6, _height(desk, 7.6), "png", lambda axes: _plot(axes[0], desk), 1, 3)


def _height(desk: Desk, width: float) -> float:
    """The height of a figure of three images of this desk, in inches as the width."""
    height, across = desk.view.shape[:2]
    return width / 3 * min(1.6, height / across) + 0.3


def _plot(axes, desk: Desk) -> None:
    """Draw the three images on three axes, whose coordinates are pixels of the original."""
    (height, width), inside = desk.photo.pixels.shape[:2], desk.view_mask[..., None]
    images = {
        "region": outlined(np.where(inside, desk.view, DIM * desk.view).astype(np.uint8), desk.view_mask),
        "noise, 10 times enlarged": magnify(desk.view, desk.view_protected),
        "protected": desk.view_protected,
    }
    for axis, (name, image) in zip(axes, images.items()):
        axis.clear()
        axis.imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(name)
    for x0, y0, x1, y1 in desk.prompt.get("box", []):
        axes[0].add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=REDS[0], linewidth=1.5))
    for (x, y), label in zip(desk.prompt.get("points", []), desk.prompt.get("labels", [])):
        colours = {"color": REDS[0] if label else "white", "markeredgecolor": "white" if label else REDS[0]}
        axes[0].plot(x, y, "o" if label else "X", markersize=6, scalex=False, scaley=False, **colours)


def changes(desk: Desk) -> dict[str, np.ndarray]:
    """Share of values in percent by their change, from `-k` to `k` steps over 255, inside and outside the region; k is
    the largest change that the budget allows anywhere."""
    change, most = desk.view_protected.astype(np.int16) - desk.view, int(max(desk.eps, desk.eps_bg, 1))
    parts = {"inside": change[desk.view_mask], "outside": change[~desk.view_mask]}
    counts = {name: np.bincount(part.ravel() + most, minlength=2 * most + 1) for name, part in parts.items()}
    return {name: 100 * counts[name] / part.size for name, part in parts.items() if part.size}


def plot_changes(desk: Desk) -> Drawing:
    """The histogram of the changes."""
    shares = changes(desk)
    most = len(next(iter(shares.values()))) // 2
    steps = range(-most, most + 1)
    return curves(shares, x=steps, xlabel="change in steps of 1/255", ylabel="values, %", steps=True)


class Panel:
    """Controls, images and histogram of a desk for JupyterLab with ipywidgets and ipympl; `widget` is what a notebook
    shows. Copies are saved below `out`."""

    WIDTH = 8.4  # inches of the three images: a cell of JupyterLab on a small screen

    def __init__(self, desk: Desk, out: str | Path):
        import ipywidgets as widgets

        self.desk, self.out, self.start = desk, Path(out), None
        self.status, self.histogram, self.trouble = widgets.HTML(), widgets.HTML(), widgets.Output()
        self._make_controls(widgets)
        self._make_canvas()
        buttons = widgets.HBox([self.upload, self.undo, self.clear, self.save, self.label])
        choices = widgets.HBox([self.eps, self.eps_bg, self.generator])
        self.widget = widgets.VBox([buttons, choices, self.status, self.canvas, self.histogram, self.trouble])
        self._draw()
        self._say(desk.summary())

    def _make_controls(self, widgets) -> None:
        desk, narrow = self.desk, {"width": "auto"}  # as wide as its words

        def slider(name: str, value: float):
            options = {"min": 0, "max": max(32, value), "step": 1, "readout_format": "", "continuous_update": False}
            return widgets.FloatSlider(value, description=name, **options)

        names = [(Path(name).stem, name) for name in dict.fromkeys((*shipped(), "grating", desk.generator))]
        self.upload = widgets.FileUpload(accept="image/*", description="open an image", layout=narrow)
        self.generator = widgets.Dropdown(options=names, value=desk.generator, description="generator")
        self.eps, self.eps_bg = slider("inside", desk.eps), slider("outside", desk.eps_bg)
        self.label = widgets.ToggleButtons(options=[("protect", 1), ("leave out", 0)], description="a click says")
        self.undo = widgets.Button(description="undo", icon="undo", layout=narrow)
        self.clear = widgets.Button(description="clear", icon="times", layout=narrow)
        self.save = widgets.Button(description="save PNG", icon="save", button_style="primary", layout=narrow)
        for button, step in ((self.undo, desk.undo), (self.clear, desk.point_at), (self.save, self._save)):
            button.on_click(lambda _, step=step: self._do(step))
        self.upload.observe(lambda change: self._do(self._open, change.new), "value")
        self.generator.observe(lambda change: self._do(desk.set_generator, change.new), "value")
        for one in (self.eps, self.eps_bg):
            one.observe(lambda _: self._do(desk.set_budget, self.eps.value, self.eps_bg.value), "value")

    def _make_canvas(self) -> None:
        """An interactive figure of three axes, of which the first listens."""
        from ipympl.backend_nbagg import Canvas, FigureManager

        with matplotlib.rc_context(fname=STYLE):
            self.figure = Figure(figsize=(self.WIDTH, _height(self.desk, self.WIDTH)), dpi=100, layout="constrained")
            self.axes = self.figure.subplots(1, 3)
        self.canvas = canvas = Canvas(self.figure)
        # else the page learns the size by a message that it now and then handles too early, and shows nothing
        canvas._size = tuple(float(side) for side in self.figure.bbox.bounds[2:])
        canvas.header_visible = canvas.footer_visible = canvas.resizable = canvas.toolbar_visible = False
        self.toolbar = FigureManager(canvas, 0).toolbar
        canvas.mpl_connect("button_press_event", self._press)
        canvas.mpl_connect("motion_notify_event", self._move)
        canvas.mpl_connect("button_release_event", self._release)

    def _press(self, event) -> None:
        if event.inaxes is self.axes[0] and event.button == 1:
            self.start = (event.x, event.y)

    def _move(self, event) -> None:
        if self.start:
            self.toolbar.draw_rubberband(event, *self.start, event.x, event.y)

    def _release(self, event) -> None:
        """A click where press and release are one place, else a box; both end at the image's border."""
        if not self.start:
            return
        ends, self.start = (self.start, (event.x, event.y)), None
        self.toolbar.remove_rubberband()
        # pixels of the canvas -> the nearest pixels of the image
        places = np.rint(self.axes[0].transData.inverted().transform(ends))
        places = np.clip(places, 0, np.subtract(self.desk.photo.pixels.shape[1::-1], 1)).astype(int).tolist()
        if np.abs(np.subtract(*ends)).max() < STILL * self.canvas.device_pixel_ratio:
            self._do(self.desk.on_click, *places[0], self.label.value)
        else:
            self._do(self.desk.on_box, *places[0], *places[1])

    def _do(self, step: Callable, *values) -> None:
        """Do one step and show the result; what a person can mend is a sentence, anything else a traceback."""
        self._say("working …")
        self.trouble.clear_output()
        with self.trouble:
            try:
                said = step(*values)
                self._draw()
                self.canvas._force_full = True  # pushed, and whole: a page that has lost an image asks for no other
                self.canvas.draw()
                self._say(said or self.desk.summary())
            except UnsegError as error:
                self._say(str(error))

    def _open(self, files: tuple[dict, ...]) -> None:
        for file in files:
            self.desk.take(uploaded(file["name"], bytes(file["content"])), Path(file["name"]).stem)
            self.figure.set_size_inches(self.WIDTH, _height(self.desk, self.WIDTH))

    def _save(self) -> str:
        return saved_sentence(self.desk.save(free_name(self.out, self.desk.name)))

    def _draw(self) -> None:
        with matplotlib.rc_context(fname=STYLE):
            _plot(self.axes, self.desk)
            self.axes[0].set_title("region: click, or drag a box")
        self.histogram.value = plot_changes(self.desk).html("how often each change occurs")

    def _say(self, text: str) -> None:
        self.status.value = escape(text)
