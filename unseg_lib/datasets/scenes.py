"""Generated images with labels: for a machine without data, for tests, and for the smoke profile.

Six classes of things lie on a ground, each known by its outline and its surface, none by its colour, which things,
ground and litter draw from one distribution. A thing has coordinates u, v (float arrays, radius 1). A contour is how
far inside a point is, in radii, negative outside; a surface is a relief of about -1 to 1.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from unseg_lib.datasets.segmentation_set import Instance, SegmentationSet, label_set
from unseg_lib.errors import UnsegError
from unseg_lib.files import read_json, write_json
from unseg_lib.images import write_image
from unseg_lib.masks import read_label
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
    """Read `root/scenes`, generated if it is not there (96 pixels, 240 + 60 images, seed 0); the seed has no effect."""
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
    kind = found.get("version") if isinstance(found, dict) else f"a {type(found).__name__}"
    if kind != VERSION:
        raise UnsegError(f"Expected scenes of version {VERSION} in {index.parent}, found {kind}; delete that folder.")
    for part in COUNTS:
        if not (isinstance(ids := found.get(part), list) and all(isinstance(id, str) for id in ids)):
            raise UnsegError(f"Expected names of images under '{part}' in {index}, found none; delete that folder.")
    return found


def _instances(masks: dict[str, Path], id: str) -> list[Instance]:
    """The connected parts of each class: a thing that another one cuts in two counts twice, specks not at all."""
    from scipy.ndimage import label as parts_of

    label, found = read_label(masks[id]), []
    for index in np.unique(label[label > 0]):
        parts, count = parts_of(label == index)
        found += [Instance(parts == number, int(index)) for number in range(1, count + 1)]
    return [one for one in found if one.mask.sum() >= SPECK]


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
        found = f"found {root} ({error.strerror}); name another data root with --data or UNSEG_DATA."
        raise UnsegError(f"Expected a folder that can be written for the scenes, {found}") from error
    return folder


def draw_scene(size: int, seed: int, id: str) -> tuple[np.ndarray, np.ndarray]:
    """One scene: image uint8 `(size,size,3)` and label uint8 `(size,size)`, the same for the same arguments."""
    rng = numpy_rng(seed, "scene", VERSION, size, id)
    light = _direction(rng)
    rough, smooth = natural_fields(rng, size, rng.uniform(1.0, 1.4)), natural_fields(rng, size, rng.uniform(1.7, 2.2))
    image = _ground(rng, rough[0], smooth)
    label = np.zeros((size, size), np.uint8)
    place = partial(_place, rng, image, label, rough[1], light)
    # litter below the things, and above them
    for _ in range(rng.integers(4, 8)):
        place(0)
    for _ in range(rng.integers(3, 6)):
        place(int(rng.integers(1, len(CLASSES))))
    for _ in range(rng.integers(1, 4)):
        place(0)
    return _photograph(rng, image, smooth[1], light), label


def _direction(rng: np.random.Generator) -> tuple[float, float]:
    """Of the light, of a border or of a thing: (down, right)."""
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
    return sides[0] + (sides[1] - sides[0]) * np.clip(border * size / 3 + 0.5, 0, 1)[..., None]


def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(size,1)` and columns `(1,size)` from -0.5 to 0.5."""
    places = np.arange(size, dtype=np.float32) / size - 0.5
    return places[:, None], places[None]


def _place(rng, image: np.ndarray, label: np.ndarray, rough: np.ndarray, light: tuple, index: int) -> None:
    """Put a thing of class `index` into image and label; 0 is litter, in the colours of everything else."""
    size, name = len(label), CLASSES[index]
    (least, most), reach = ((0.14, 0.27), 1.6) if index else ((0.04, 0.12), 1.9)
    # the part of the image around it, and its pixels from the thing's middle, in radii
    radius, middle = size * rng.uniform(least, most), rng.uniform(0.05 * size, 0.95 * size, 2)
    sides = [(max(0, int(at - reach * radius)), min(size, int(at + reach * radius) + 2)) for at in middle]
    rows, columns = ((np.arange(*side, dtype=np.float32) + 0.5 - at) / radius for side, at in zip(sides, middle))
    place, rows, columns = tuple(slice(*side) for side in sides), rows[:, None], columns[None]
    sine, cosine = _direction(rng)

    def turned(down: float = 0, right: float = 0) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (u, v) turned by the thing's angle, with its middle shifted (in radii)."""
        return cosine * (columns - right) + sine * (rows - down), cosine * (rows - down) - sine * (columns - right)

    contour = outline(rng, name) if index else litter(rng)
    inside, part, field = contour(*turned()), image[place], rough[place]
    # the soft shadow: the outline again, away from the light, with a wide edge
    far, soft = rng.uniform(0.12, 0.35), rng.uniform(0.15, 0.4)
    shadow = contour(*turned(light[0] * far, light[1] * far))
    part *= 1 - rng.uniform(0.25, 0.5) * np.clip(shadow / soft + 0.5, 0, 1)[..., None]
    # a thing has the surface of its class on a dome, litter the relief of the ground
    surface = SURFACES[name](rng, *turned(), field) + 0.35 * field if index else None
    dark, bright = palette(rng, 2)
    weight = 0.5 + 0.5 * surface.clip(-1.2, 1.2) if index else 0.5 + 0.3 * field
    colours = dark + (bright - dark) * weight[..., None]
    if index:
        dome = 1 - 0.3 * (light[0] * rows + light[1] * columns) - 0.12 * inside.clip(-1, 0.2)
        colours = colours * (1 + 0.22 * surface.clip(-1, 1) * dome)[..., None] * dome[..., None]
    # a pixel at the edge is covered in part
    part += (colours - part) * np.clip(inside * radius + 0.5, 0, 1)[..., None]
    label[place][inside > 0] = index


def _photograph(rng, image: np.ndarray, smooth: np.ndarray, light: tuple[float, float]) -> np.ndarray:
    """Light that falls off across the image and through leaves, then a camera; uint8.

    A camera's colours are muted and coarser than its brightness. Without that a scene holds more fine contrast of
    colours than any photograph, and hides noise that no photograph could.
    """
    from scipy.ndimage import gaussian_filter

    rows, columns = _grid(len(image))
    slope = 1 - rng.uniform(0.2, 0.6) * (light[0] * rows + light[1] * columns) + rng.uniform(0, 0.12) * smooth
    grain = rng.standard_normal(image.shape, np.float32) * rng.uniform(0.005, 0.02)
    seen = np.clip(image * slope[..., None] + grain, 0, 1)
    # brightness through a lens, colour through a wider one
    brightness = seen @ np.array([0.299, 0.587, 0.114], np.float32)
    colour = SATURATION * gaussian_filter(seen - brightness[..., None], (COLOUR_BLUR, COLOUR_BLUR, 0))
    return np.round(255 * np.clip(gaussian_filter(brightness, LENS_BLUR)[..., None] + colour, 0, 1)).astype(np.uint8)


def natural_fields(rng: np.random.Generator, size: int, exponent: float) -> np.ndarray:
    """Two fields `(2,size,size)`, mean 0, deviation 1, whose amplitude falls as 1/f^exponent (1: as in photographs)."""
    down, right = np.fft.fftfreq(size)[:, None] * size, np.fft.fftfreq(size)[None] * size
    falling = np.maximum(down**2 + right**2, 1).astype(np.float32) ** (-exponent / 2)
    falling[0, 0] = 0
    waves = rng.standard_normal((2, size, size), np.float32)
    both = np.fft.ifft2((waves[0] + 1j * waves[1]) * falling)  # real and imaginary part are independent
    fields = np.stack([both.real, both.imag])
    return (fields / fields.std(axis=(1, 2), keepdims=True)).astype(np.float32)


# earth, leaves, water and sky, stone, flowers: hues (degrees) and saturations from, to, and how often they come
HUES = np.array([[10, 45], [70, 125], [190, 230], [0, 360], [0, 360]])
SATURATIONS = np.array([[0.15, 0.5], [0.15, 0.45], [0.15, 0.45], [0.02, 0.1], [0.3, 0.6]])
SHARES = np.array([0.3, 0.25, 0.15, 0.2, 0.1])


def palette(rng: np.random.Generator, count: int) -> np.ndarray:
    """`count` colours `(count,3)` in 0..1 as nature has them; the same for things, ground and litter."""
    kinds = np.searchsorted(SHARES.cumsum(), rng.random(count) * SHARES.sum())
    hue = np.radians(rng.uniform(*HUES[kinds].T))[:, None] - np.radians([0, 120, 240])
    saturation, luminance = rng.uniform(*SATURATIONS[kinds].T)[:, None], rng.uniform(0.2, 0.8, (count, 1))
    return np.clip(luminance * (1 + saturation * np.cos(hue)), 0, 1).astype(np.float32)


Contour = Callable[[np.ndarray, np.ndarray], np.ndarray]


def outline(rng: np.random.Generator, name: str) -> Contour:
    """A thing of a class has the parameters of the class's shape drawn anew."""
    shape, *ranges = CONTOURS[name]
    parameters = [rng.uniform(*bounds) for bounds in ranges]
    return lambda u, v: shape(u, v, *parameters)


def litter(rng: np.random.Generator) -> Contour:
    """A pebble, a twig or a shard, as it comes."""
    kind, narrow = rng.integers(3), rng.uniform(0.5, 0.9)
    if kind == 0:
        return lambda u, v: 1 - np.hypot(u, v / narrow)
    if kind == 1:
        bend, thick = rng.uniform(-0.3, 0.3), rng.uniform(0.06, 0.12)
        return lambda u, v: np.minimum(thick - np.abs(v - bend * u**2), 1.6 - np.abs(u))
    return lambda u, v: np.minimum(np.minimum(0.5 + v, narrow - 0.9 * u - 0.5 * v), narrow + 0.9 * u - 0.5 * v)


def _blot(u: np.ndarray, v: np.ndarray, heights: np.ndarray, phases: np.ndarray) -> np.ndarray:
    waves = zip((2, 3, 4), heights, phases)
    return 0.8 + sum(height * np.cos(k * np.arctan2(v, u) + phase) for k, height, phase in waves) - np.hypot(u, v)


# class -> the shape of its outline, and the ranges of the shape's parameters
CONTOURS = {
    # an egg
    "shell": (
        lambda u, v, narrow, pointed: 1 - np.hypot(u, v / (narrow * (1 - pointed * u.clip(-1, 1)))),
        (0.7, 0.85),
        (0.1, 0.3),
    ),
    # two arcs that meet in points
    "leaf": (lambda u, v, narrow: narrow * (1 - u**2) - np.abs(v), (0.32, 0.5)),
    # five rounded arms
    "star": (lambda u, v, depth: 1 - depth + depth * np.cos(5 * np.arctan2(v, u)) - np.hypot(u, v), (0.28, 0.4)),
    # a rectangle with blunt corners
    "crate": (lambda u, v, narrow: 0.92 * narrow - (np.abs(u * narrow) ** 8 + np.abs(v) ** 8) ** (1 / 8), (0.55, 0.9)),
    # a ring with a wide hole
    "ring": (lambda u, v, half: half - np.abs(np.hypot(u, v) - 0.76), (0.2, 0.26)),
    # an irregular blot
    "hide": (_blot, (0.05, 0.13, 3), (0, 2 * np.pi, 3)),
}
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
