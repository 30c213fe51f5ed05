"""What is on a desk as images: the region with what was pointed at, the noise, the protected image, the changes."""

import numpy as np

from unseg_lib.protection.desk import Desk
from unseg_lib.reporting import REDS, Drawing, curves, draw, magnify

DIM = 0.35  # of the brightness is left outside the region


def panels(desk: Desk) -> Drawing:
    """The three images side by side."""
    width = 7.6
    return draw(width, panel_height(desk, width), "png", lambda axes: plot_panels(axes[0], desk), 1, 3)


def panel_height(desk: Desk, width: float) -> float:
    """The height of a figure of three images of this desk, in inches as the width."""
    height, across = desk.view.shape[:2]
    return width / 3 * min(1.6, height / across) + 0.3


def plot_panels(axes, desk: Desk) -> None:
    """Draw the three images on three axes, whose coordinates are pixels of the original."""
    height, width = desk.photo.pixels.shape[:2]
    noise = magnify(desk.view, desk.view_protected)
    images = {"region": dimmed(desk), "noise, 10 times enlarged": noise, "protected": desk.view_protected}
    for axis, (name, image) in zip(axes, images.items()):
        axis.clear()
        axis.imshow(image, extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
        axis.set_axis_off()
        axis.set_title(name)
    _plot_prompt(axes[0], desk)


def dimmed(desk: Desk) -> np.ndarray:
    """The image as it is shown, dark outside the region."""
    return np.where(desk.view_mask[..., None], desk.view, DIM * desk.view).astype(np.uint8)


def _plot_prompt(axis, desk: Desk) -> None:
    from matplotlib.patches import Rectangle

    for x0, y0, x1, y1 in desk.prompt.get("box", []):
        axis.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=REDS[0], linewidth=1.5))
    for x, y in desk.prompt.get("points", []):
        axis.plot(x, y, "o", color=REDS[0], markersize=6, markeredgecolor="white", scalex=False, scaley=False)


def changes(desk: Desk) -> dict[str, np.ndarray]:
    """Share of values in percent by their change, `-k..k` in steps over 255, inside and outside the region."""
    change = desk.view_protected.astype(np.int16) - desk.view
    most = largest_change(desk)
    parts = {"inside": change[desk.view_mask], "outside": change[~desk.view_mask]}
    return {
        name: 100 * np.bincount(part.ravel() + most, minlength=2 * most + 1) / part.size
        for name, part in parts.items()
        if part.size
    }


def largest_change(desk: Desk) -> int:
    """The largest change that the budget allows anywhere, in whole steps."""
    return int(max(desk.eps, desk.eps_bg, 1))


def plot_changes(desk: Desk) -> Drawing:
    """The histogram of the changes."""
    most = largest_change(desk)
    return curves(
        changes(desk), x=range(-most, most + 1), xlabel="change in steps of 1/255", ylabel="values, %", steps=True
    )
