"""Generated images with labels: for a machine without data, for tests, and for the smoke profile.

Six classes of things lie on a ground, each known by its outline and its surface, none by its colour:
things, ground and clutter draw their colours from one distribution. Light comes from one side, things
cast soft shadows and hide each other, and litter without a class is strewn below and above them.

A thing has coordinates u, v (float arrays, radius 1). A contour is how far inside a point is, in radii,
negative outside; a surface is a relief of about -1 to 1.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import Instance, SegmentationSet, label_set
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, write_json
from unseg_lib.images import read_label, write_image
from unseg_lib.runtime import progress
from unseg_lib.seeds import numpy_rng

FOLDER = Path("scenes")
INDEX = "scenes.json"  # written last: a set without it is not complete
POISONED = "poison.json"  # a poisoned copy; nothing may be generated there
VERSION = 2  # of the drawing; another one gives other images
LENS_BLUR, COLOUR_BLUR, SATURATION = 0.5, 1.5, 0.45  # of the camera: pixels, pixels, share of the colour that is kept
SPECK = 12  # pixels
SIZE, COUNTS = 96, {"train": 240, "test": 60}


def read_scenes(root: Path, split: str, seed: int) -> SegmentationSet:
    """Read `root/scenes`, which is generated if it is not there (96 pixels, 240 + 60 images, seed 0).

    The argument `seed` has no effect: the splits are the written ones.
    """
    index = root / FOLDER / INDEX
    if not index.is_file():
        if (root / POISONED).exists():
            raise UnsegError(f"Expected {index} in the poisoned set {root}, found none; poison it again.")
        write_scenes(root)
    found = _read_index(index)
    images = {id: FOLDER / "images" / id for id in found[split]}
    masks = {id: root / FOLDER / "labels" / f"{id}.png" for part in COUNTS for id in found[part]}
    more = {"files": (index, *masks.values()), "read_instances": partial(_instances, masks)}
    return label_set("scenes", root, split, CLASSES, images, masks, **more)


def _read_index(index: Path) -> dict:
    """Version and ids of the scenes beside it, as `write_scenes` left them."""
    found = read_json(index)
    version = found.get("version") if isinstance(found, dict) else f"a {type(found).__name__}"
    if version != VERSION:
        raise UnsegError(
            f"Expected scenes of version {VERSION} in {index.parent}, found {version}; delete that folder."
        )
    for part in COUNTS:
        ids = found.get(part)
        if not isinstance(ids, list) or not all(isinstance(id, str) for id in ids):
            raise UnsegError(f"Expected names of images under '{part}' in {index}, found none; delete that folder.")
    return found


def _instances(masks: dict[str, Path], id: str) -> list[Instance]:
    """The connected parts of each class: a thing that another one cuts in two counts twice, specks not at all."""
    from scipy.ndimage import label as parts_of

    label, found = read_label(masks[id]), []
    for index in np.unique(label[label > 0]):
        parts, count = parts_of(label == index)
        masks_of_parts = (parts == number for number in range(1, count + 1))
        found += [Instance(mask, int(index)) for mask in masks_of_parts if mask.sum() >= SPECK]
    return found


def write_scenes(root: str | Path, size: int = SIZE, counts: dict[str, int] | None = None, seed: int = 0) -> Path:
    """Write scenes below `root`; the folder. Two processes may write the same scenes at the same time."""
    folder, counts = Path(root) / FOLDER, counts or COUNTS
    ids = {split: [f"{split}_{i:04d}" for i in range(count)] for split, count in counts.items()}
    try:
        for id in progress([id for part in ids.values() for id in part], "drawing scenes"):
            image, label = draw_scene(size, seed, id)
            write_image(folder / "images" / f"{id}.png", image)
            write_image(folder / "labels" / f"{id}.png", label[..., None], gray=True)
        write_json(folder / INDEX, {"version": VERSION, "size": size, "seed": seed, **ids})
    except OSError as error:
        raise UnsegError(
            f"Expected a folder that can be written for the scenes, found {root} ({error.strerror}); "
            "name another data root with --data or UNSEG_DATA."
        ) from error
    return folder


def draw_scene(size: int, seed: int, id: str) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 `(size,size,3)` and label uint8 `(size,size)`, the same for the same arguments."""
    rng = numpy_rng(seed, "scene", VERSION, size, id)
    light = _direction(rng)
    rough, smooth = natural_fields(rng, size, rng.uniform(1.0, 1.4)), natural_fields(rng, size, rng.uniform(1.7, 2.2))
    image = _ground(rng, rough[0], smooth)
    label = np.zeros((size, size), np.uint8)
    _strew(rng, image, label, rough[1], light, rng.integers(4, 8))
    for _ in range(rng.integers(3, 6)):
        _place_thing(rng, image, label, rough[1], light)
    _strew(rng, image, label, rough[1], light, rng.integers(1, 4))
    return _photograph(rng, image, smooth[1], light), label


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    """Where the light comes from, (down, right)."""
    angle = rng.uniform(0, 2 * np.pi)
    return float(np.sin(angle)), float(np.cos(angle))


def _ground(rng: np.random.Generator, rough: np.ndarray, smooth: np.ndarray) -> np.ndarray:
    """Two grounds, one sandy, one cloudy, each of two colours, with a winding border between them; `(size,size,3)`."""
    size = len(rough)
    colours, sandy = palette(rng, 4), rng.uniform(0.3, 0.8)
    mixtures = (0.5 + 0.22 * rough, 0.5 + 0.22 * (sandy * smooth[0] + (1 - sandy) * rough.T))
    sides = [a + (b - a) * weight.clip(0, 1)[..., None] for a, b, weight in zip(colours[::2], colours[1::2], mixtures)]
    down, right = _direction(rng)
    rows, columns = _grid(size)
    border = down * rows + right * columns + 0.08 * smooth[1] + rng.uniform(-0.4, 0.4)
    side = np.clip(border * size / 3 + 0.5, 0, 1)[..., None]
    return sides[0] + (sides[1] - sides[0]) * side


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(size,1)` and columns `(1,size)` from -0.5 to 0.5."""
    places = np.arange(size, dtype=np.float32) / size - 0.5
    return places[:, None], places[None]


class _Window:
    """The part of an image around a thing, and its pixels in the thing's own coordinates u, v (radius 1)."""

    def __init__(self, rng: np.random.Generator, size: int, radius: float, reach: float):
        self.radius = radius
        row, column = rng.uniform(0.05 * size, 0.95 * size, 2)
        top, left = (max(0, int(at - reach * radius)) for at in (row, column))
        bottom, right = (min(size, int(at + reach * radius) + 2) for at in (row, column))
        self.at = np.s_[top:bottom, left:right]
        self.rows = ((np.arange(top, bottom, dtype=np.float32) + 0.5 - row) / radius)[:, None]
        self.columns = ((np.arange(left, right, dtype=np.float32) + 0.5 - column) / radius)[None]
        self.angle = rng.uniform(0, 2 * np.pi)

    def turned(self, shift: tuple[float, float] = (0, 0)) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (u, v) turned by the thing's angle, with its middle shifted by (down, right) radii."""
        down, right = self.rows - shift[0], self.columns - shift[1]
        sine, cosine = float(np.sin(self.angle)), float(np.cos(self.angle))
        return cosine * right + sine * down, cosine * down - sine * right


def _place_thing(rng, image: np.ndarray, label: np.ndarray, rough: np.ndarray, light: tuple[float, float]) -> None:
    """Put one thing of a random class into the image and the label."""
    size = len(label)
    index = int(rng.integers(1, len(CLASSES)))
    window = _Window(rng, size, size * rng.uniform(0.14, 0.27), reach=1.6)
    contour = CONTOURS[CLASSES[index]](rng)
    inside = contour(*window.turned())
    _shade_below(rng, image, window, contour, light)
    field = rough[window.at]
    surface = SURFACES[CLASSES[index]](rng, *window.turned(), field) + 0.35 * field
    dome = 1 - 0.3 * (light[0] * window.rows + light[1] * window.columns) - 0.12 * inside.clip(-1, 0.2)
    dark, bright = palette(rng, 2)
    mixed = dark + (bright - dark) * (0.5 + 0.5 * surface.clip(-1.2, 1.2))[..., None]
    _paint(image, window, mixed * (1 + 0.22 * surface.clip(-1, 1) * dome)[..., None] * dome[..., None], inside)
    label[window.at][inside > 0] = index


def _shade_below(rng, image: np.ndarray, window: _Window, contour, light: tuple[float, float]) -> None:
    """The soft shadow: the outline again, away from the light, with a wide edge."""
    far, soft = rng.uniform(0.12, 0.35), rng.uniform(0.15, 0.4)
    shadow = contour(*window.turned((light[0] * far, light[1] * far)))
    image[window.at] *= 1 - rng.uniform(0.25, 0.5) * np.clip(shadow / soft + 0.5, 0, 1)[..., None]


def _paint(image: np.ndarray, window: _Window, colours: np.ndarray, inside: np.ndarray) -> None:
    cover = coverage(inside * window.radius)[..., None]
    image[window.at] += (colours - image[window.at]) * cover


def _strew(rng, image: np.ndarray, label: np.ndarray, rough: np.ndarray, light, count: int) -> None:
    """Litter without a class: pebbles, twigs and shards in the colours of everything else."""
    size = len(label)
    for _ in range(count):
        window = _Window(rng, size, size * rng.uniform(0.04, 0.12), reach=1.9)
        contour = litter(rng)
        inside = contour(*window.turned())
        _shade_below(rng, image, window, contour, light)
        dark, bright = palette(rng, 2)
        colours = dark + (bright - dark) * (0.5 + 0.3 * rough[window.at])[..., None]
        _paint(image, window, colours, inside)
        label[window.at][inside > 0] = 0


def _photograph(rng, image: np.ndarray, smooth: np.ndarray, light: tuple[float, float]) -> np.ndarray:
    """Light that falls off across the image and through leaves, then a camera; uint8.

    A camera's colours are muted and coarser than its brightness (its sensor and JPEG share them among pixels). Without
    that a scene holds more fine contrast of colours than any photograph, and hides noise that no photograph could.
    """
    from scipy.ndimage import gaussian_filter

    rows, columns = _grid(len(image))
    slope = 1 - rng.uniform(0.2, 0.6) * (light[0] * rows + light[1] * columns) + rng.uniform(0, 0.12) * smooth
    grain = rng.standard_normal(image.shape, np.float32) * rng.uniform(0.005, 0.02)
    seen = np.clip(image * slope[..., None] + grain, 0, 1)
    # brightness through a lens, colour through a wider one
    brightness = seen @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = SATURATION * gaussian_filter(seen - brightness[..., None], (COLOUR_BLUR, COLOUR_BLUR, 0))
    sharp = gaussian_filter(brightness, LENS_BLUR)[..., None]
    return np.round(255 * np.clip(sharp + colour, 0, 1)).astype(np.uint8)


Contour = Callable[[np.ndarray, np.ndarray], np.ndarray]


def natural_fields(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Two fields `(2,size,size)`, mean 0, deviation 1, whose amplitude falls as 1/f^exponent (1: as in photographs)."""
    down, right = np.fft.fftfreq(size)[:, None] * size, np.fft.fftfreq(size)[None] * size
    falling = np.maximum(down**2 + right**2, 1).astype(np.float32) ** (-exponent / 2)
    falling[0, 0] = 0
    waves = rng.standard_normal((2, size, size), np.float32)
    both = np.fft.ifft2((waves[0] + 1j * waves[1]) * falling)  # real and imaginary part are independent
    fields = np.stack([both.real, both.imag])
    return (fields / fields.std(axis=(1, 2), keepdims=True)).astype(np.float32)


# hue from, hue to (degrees), saturation from, to, share: earth, leaves, water and sky, stone, flowers
COLOURS = np.array(
    [
        [10, 45, 0.15, 0.5, 0.3],
        [70, 125, 0.15, 0.45, 0.25],
        [190, 230, 0.15, 0.45, 0.15],
        [0, 360, 0.02, 0.1, 0.2],
        [0, 360, 0.3, 0.6, 0.1],
    ]
)


def palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` colours `(count,3)` in 0..1 as nature has them; the same for things, ground and litter."""
    kinds = COLOURS[np.searchsorted(COLOURS[:, 4].cumsum(), rng.random(count) * COLOURS[:, 4].sum())]
    hue = np.radians(rng.uniform(kinds[:, 0], kinds[:, 1]))[:, None] - np.radians([0, 120, 240])
    saturation, luminance = rng.uniform(kinds[:, 2], kinds[:, 3])[:, None], rng.uniform(0.2, 0.8, (count, 1))
    return np.clip(luminance * (1 + saturation * np.cos(hue)), 0, 1).astype(np.float32)


def coverage(pixels_inside: np.ndarray) -> np.ndarray:
    """How much of a pixel is covered, 0 to 1, from how many pixels it lies inside."""
    return np.clip(pixels_inside + 0.5, 0, 1)


def shell(rng: np.random.Generator) -> Contour:
    """An egg."""
    narrow, pointed = rng.uniform(0.7, 0.85), rng.uniform(0.1, 0.3)
    return lambda u, v: 1 - np.hypot(u, v / (narrow * (1 - pointed * u.clip(-1, 1))))


def leaf(rng: np.random.Generator) -> Contour:
    """Two arcs that meet in points."""
    narrow = rng.uniform(0.32, 0.5)
    return lambda u, v: narrow * (1 - u**2) - np.abs(v)


def star(rng: np.random.Generator) -> Contour:
    """Five rounded arms."""
    depth = rng.uniform(0.28, 0.4)
    return lambda u, v: 1 - depth + depth * np.cos(5 * np.arctan2(v, u)) - np.hypot(u, v)


def crate(rng: np.random.Generator) -> Contour:
    """A rectangle with blunt corners."""
    narrow = rng.uniform(0.55, 0.9)
    return lambda u, v: 0.92 * narrow - (np.abs(u * narrow) ** 8 + np.abs(v) ** 8) ** (1 / 8)


def ring(rng: np.random.Generator) -> Contour:
    """A ring with a wide hole."""
    middle, half = 0.76, rng.uniform(0.2, 0.26)
    return lambda u, v: half - np.abs(np.hypot(u, v) - middle)


def hide(rng: np.random.Generator) -> Contour:
    """An irregular blot."""
    waves = list(zip((2, 3, 4), rng.uniform(0.05, 0.13, 3), rng.uniform(0, 2 * np.pi, 3)))
    return lambda u, v: 0.8 + sum(a * np.cos(k * np.arctan2(v, u) + p) for k, a, p in waves) - np.hypot(u, v)


def litter(rng: np.random.Generator) -> Contour:
    """A pebble, a twig or a shard, as it comes."""
    kind, narrow = rng.integers(3), rng.uniform(0.5, 0.9)
    if kind == 0:
        return lambda u, v: 1 - np.hypot(u, v / narrow)
    if kind == 1:
        bend, thick = rng.uniform(-0.3, 0.3), rng.uniform(0.06, 0.12)
        return lambda u, v: np.minimum(thick - np.abs(v - bend * u**2), 1.6 - np.abs(u))
    return lambda u, v: np.minimum(np.minimum(0.5 + v, narrow - 0.9 * u - 0.5 * v), narrow + 0.9 * u - 0.5 * v)


CONTOURS = {"shell": shell, "leaf": leaf, "star": star, "crate": crate, "ring": ring, "hide": hide}
CLASSES = ("background", *CONTOURS)
# class -> relief of its surface, from (rng, u, v, a natural field)
SURFACES = {
    # ridges around one end, as a shell grows
    "shell": lambda rng, u, v, field: np.sin(rng.uniform(16, 20) * np.hypot(u - 0.8, v) + 0.5 * field),
    # a dark midrib and slanting veins
    "leaf": lambda rng, u, v, field: (
        0.7 * np.sin(rng.uniform(13, 17) * (u - 0.9 * np.abs(v)) + 0.4 * field) - 1.6 * np.exp(-((v / 0.07) ** 2))
    ),
    # round warts on a grid that winds
    "star": lambda rng, u, v, field: (
        1.3 * np.sin((pitch := rng.uniform(15, 18)) * u + field) * np.sin(pitch * v - field)
    ),
    # boards with dark gaps and a grain along them
    "crate": lambda rng, u, v, field: (
        0.5
        + 0.4 * np.sin(3 * field + 4 * u)
        - 1.9 * (np.abs((v * rng.uniform(1.6, 2.2) + 0.04 * field) % 1 - 0.5) < 0.1)
    ),
    # a rope laid in a ring
    "ring": lambda rng, u, v, field: np.sin(
        rng.integers(11, 15) * np.arctan2(v, u) + rng.uniform(7, 9) * np.hypot(u, v) + 0.3 * field
    ),
    # large patches with sharp edges, as on a cow
    "hide": lambda rng, u, v, field: np.tanh(
        4 * (np.sin(5.2 * u + rng.uniform(0, 6) + 0.8 * field) + np.sin(4.6 * v + rng.uniform(0, 6) - 0.8 * field))
    ),
}
