"""Outlines, surfaces, colours and natural fields of the generated scenes.

A thing has coordinates u, v (float arrays, radius 1). A contour is how far inside a point is, in radii,
negative outside; a surface is a relief of about -1 to 1.
"""

from collections.abc import Callable

import numpy as np

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


def _polar(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.hypot(u, v), np.arctan2(v, u)


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

    def contour(u, v):
        radius, angle = _polar(u, v)
        return 1 - depth + depth * np.cos(5 * angle) - radius

    return contour


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
    waves, phases = rng.uniform(0.05, 0.13, 3), rng.uniform(0, 2 * np.pi, 3)

    def contour(u, v):
        radius, angle = _polar(u, v)
        edge = sum(a * np.cos(k * angle + p) for k, a, p in zip((2, 3, 4), waves, phases))
        return 0.8 + edge - radius

    return contour


def _ribs(rng, u, v, field):
    """Ridges around one end, as a shell grows."""
    return np.sin(rng.uniform(16, 20) * np.hypot(u - 0.8, v) + 0.5 * field)


def _veins(rng, u, v, field):
    """A dark midrib and slanting veins."""
    slanting = np.sin(rng.uniform(13, 17) * (u - 0.9 * np.abs(v)) + 0.4 * field)
    return 0.7 * slanting - 1.6 * np.exp(-((v / 0.07) ** 2))


def _grains(rng, u, v, field):
    """Round warts on a grid that winds."""
    pitch = rng.uniform(15, 18)
    return 1.3 * np.sin(pitch * u + field) * np.sin(pitch * v - field)


def _planks(rng, u, v, field):
    """Boards with dark gaps and a grain along them."""
    across = np.abs((v * rng.uniform(1.6, 2.2) + 0.04 * field) % 1 - 0.5)
    return 0.5 + 0.4 * np.sin(3 * field + 4 * u) - 1.9 * (across < 0.1)


def _strands(rng, u, v, field):
    """A rope laid in a ring."""
    radius, angle = _polar(u, v)
    return np.sin(rng.integers(11, 15) * angle + rng.uniform(7, 9) * radius + 0.3 * field)


def _spots(rng, u, v, field):
    """Large patches with sharp edges, as on a cow."""
    patches = np.sin(5.2 * u + rng.uniform(0, 6) + 0.8 * field) + np.sin(4.6 * v + rng.uniform(0, 6) - 0.8 * field)
    return np.tanh(4 * patches)


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
SURFACES = {"shell": _ribs, "leaf": _veins, "star": _grains, "crate": _planks, "ring": _strands, "hide": _spots}
