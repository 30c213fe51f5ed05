"""The desk with something to hold in the hand: widgets that pass on what a person does and show what comes of it.

Needs a browser on the other side (JupyterLab with ipywidgets and ipympl). All decisions are the desk's.
"""

from collections.abc import Callable
from pathlib import Path

import ipywidgets as widgets
import matplotlib
from ipympl.backend_nbagg import Canvas, FigureManager
from matplotlib.figure import Figure

from unseg_lib.errors import UnsegError
from unseg_lib.method import shipped
from unseg_lib.protection.desk import Desk, free_name, saved_sentence, summary, uploaded
from unseg_lib.protection.desk_figure import panel_height, plot_changes, plot_panels
from unseg_lib.reporting import STYLE

WIDTH = 8.4  # inches of the three images: a cell of JupyterLab on a small screen
STILL = 4  # pixels; a hand that moves less means a click
NARROW = {"width": "auto"}  # as wide as its words


class Panel:
    """Controls, images and histogram of a desk; `widget` is what a notebook shows. Copies are saved below `out`."""

    def __init__(self, desk: Desk, out: str | Path):
        self.desk, self.out, self.start = desk, Path(out), None
        self.status, self.histogram, self.trouble = widgets.HTML(), widgets.HTML(), widgets.Output()
        self._make_controls()
        self._make_canvas()
        buttons = widgets.HBox([self.upload, self.undo, self.clear, self.save])
        choices = widgets.HBox([self.eps, self.eps_bg, self.generator])
        self.widget = widgets.VBox([buttons, choices, self.status, self.canvas, self.histogram, self.trouble])
        self._draw()
        self._say(summary(desk))

    def _make_controls(self) -> None:
        desk = self.desk
        options = [(Path(name).stem, name) for name in dict.fromkeys((*shipped(), desk.generator))]
        self.upload = widgets.FileUpload(accept="image/*", description="open an image", layout=NARROW)
        self.generator = widgets.Dropdown(options=options, value=desk.generator, description="generator")
        self.eps, self.eps_bg = _slider("inside", desk.eps), _slider("outside", desk.eps_bg)
        self.undo = widgets.Button(description="undo", icon="undo", layout=NARROW)
        self.clear = widgets.Button(description="clear", icon="times", layout=NARROW)
        self.save = widgets.Button(description="save PNG", icon="save", button_style="primary", layout=NARROW)
        self.undo.on_click(lambda _: self._do(desk.undo))
        self.clear.on_click(lambda _: self._do(desk.point_at))
        self.save.on_click(lambda _: self._do(self._save))
        self.upload.observe(lambda change: self._do(self._open, change.new), "value")
        self.generator.observe(lambda change: self._do(desk.set_generator, change.new), "value")
        for slider in (self.eps, self.eps_bg):
            slider.observe(lambda _: self._do(desk.set_budget, self.eps.value, self.eps_bg.value), "value")

    def _make_canvas(self) -> None:
        """An interactive figure of three axes, of which the first listens."""
        with matplotlib.rc_context(STYLE):
            self.figure = Figure(figsize=(WIDTH, panel_height(self.desk, WIDTH)), dpi=100, layout="constrained")
            self.axes = self.figure.subplots(1, 3)
        self.canvas = Canvas(self.figure)
        # else the page learns the size by a message that it now and then handles too early, and shows nothing
        self.canvas._size = tuple(float(side) for side in self.figure.bbox.bounds[2:])
        self.canvas.header_visible = self.canvas.footer_visible = self.canvas.resizable = False
        self.canvas.toolbar_visible = False
        self.toolbar = FigureManager(self.canvas, 0).toolbar
        self.canvas.mpl_connect("button_press_event", self._press)
        self.canvas.mpl_connect("motion_notify_event", self._move)
        self.canvas.mpl_connect("button_release_event", self._release)

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
        (x0, y0), (x1, y1) = (self._place(*end) for end in ends)
        if max(abs(a - b) for a, b in zip(*ends)) < STILL * self.canvas.device_pixel_ratio:
            self._do(self.desk.on_click, x0, y0)
        else:
            self._do(self.desk.on_box, x0, y0, x1, y1)

    def _place(self, x: float, y: float) -> tuple[int, int]:
        """Pixels of the canvas -> the nearest pixel of the image."""
        places = self.axes[0].transData.inverted().transform((x, y))
        sides = self.desk.photo.pixels.shape[1::-1]
        return tuple(int(min(max(round(place), 0), side - 1)) for place, side in zip(places, sides))

    def _do(self, step: Callable, *values) -> None:
        """Do one step and show the result; what a person can mend is a sentence, anything else a traceback."""
        self._say("working …")
        self.trouble.clear_output()
        with self.trouble:
            try:
                said = step(*values)
                self._draw()
                self._say(said or summary(self.desk))
            except UnsegError as error:
                self._say(str(error))

    def _open(self, files: tuple[dict, ...]) -> None:
        for file in files:
            self.desk.take(uploaded(file["name"], bytes(file["content"])), Path(file["name"]).stem)
            self.figure.set_size_inches(WIDTH, panel_height(self.desk, WIDTH))

    def _save(self) -> str:
        return saved_sentence(self.desk.save(free_name(self.out, self.desk.name)))

    def _draw(self) -> None:
        with matplotlib.rc_context(STYLE):
            plot_panels(self.axes, self.desk)
            self.axes[0].set_title("region: click, or drag a box")
        self.canvas.draw_idle()
        self.histogram.value = plot_changes(self.desk).html("how often each change occurs")

    def _say(self, text: str) -> None:
        from html import escape

        self.status.value = escape(text)


def _slider(name: str, value: float) -> widgets.FloatSlider:
    options = {"min": 0, "max": max(32, value), "step": 1, "readout_format": "", "continuous_update": False}
    return widgets.FloatSlider(value, description=name, **options)
