"""Images and generators to measure with: made up, since only their sizes matter for the time."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unseg_lib.method import LAYOUTS, Generator, load_generator, save_generator
from unseg_lib.seeds import numpy_rng, seed_for

RANDOM = tuple(LAYOUTS)  # names of layouts that are measured with random weights


def image(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `(H,W,3)`, blocks of random colours with a little grain, and the mask of a disc, bool `(H,W)`."""
    rng = numpy_rng("speed", number)
    blocks = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((16, 16, 1), np.uint8))[:height, :width]
    pixels = np.clip(pixels + rng.integers(-4, 5, pixels.shape), 0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width]
    return pixels, (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 4) ** 2


def write_images(folder: Path, count: int, height: int, width: int) -> None:
    """`count` JPEG files in folder/images and their masks in folder/masks."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels, mask = image(i, height, width)
        Image.fromarray(pixels).save(folder / "images" / f"{i:05d}.jpg", quality=90)
        Image.fromarray(mask).save(folder / "masks" / f"{i:05d}.png")


def generator_of(name: str, device: torch.device) -> Generator:
    """A layout by its name ("vit_b") with random weights, of which noise comes that is not all saturated; or any
    generator by a shipped one's name or its path. The shipped "small" is a layout's name too, and wins."""
    if name in RANDOM and name != "small":
        with torch.random.fork_rng():
            torch.manual_seed(seed_for("speed", name))
            generator = Generator(LAYOUTS[name], logit_scale=0.1)
            for block in generator.image_encoder.blocks:  # born as zeros, which would hide their part
                torch.nn.init.normal_(block.attn.rel_pos_h, std=0.02)
                torch.nn.init.normal_(block.attn.rel_pos_w, std=0.02)
        return generator.to(device).eval()
    return load_generator(name, device)


def write_generator(name: str, path: Path) -> None:
    save_generator(generator_of(name, torch.device("cpu")), path)
