"""What a piece of work costs in time, memory and arithmetic, and the made-up images and generators to measure with."""

import gc
import tempfile
import timeit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from unseg_lib.images import write_image
from unseg_lib.method import LAYOUTS, Generator, load_generator, save_generator
from unseg_lib.runtime import forget_peak, has_bf16, peak
from unseg_lib.seeds import numpy_rng, seed_for

SIDES = (1024, 2048, 4096)  # of square matrices; the best of them is the peak
LONG = 0.01  # seconds, beside which what a call costs by itself is nothing: a larger matrix is no faster
FLASH = "_scaled_dot_product_flash_attention_for_cpu"  # what torch calls its attention on a processor


@dataclass(frozen=True)
class Cost:
    """What a piece of work takes."""

    seconds: float  # the fastest of some calls: whatever else the machine does can only make one slower
    megabytes: float | None  # the most in use at any moment: on a GPU by torch, else by the process; None if unknown
    flop: float = 0  # 0 where it was not counted


def cost(work: Callable[[], object], device: torch.device, repeats: int = 2, *, counted: bool = False) -> Cost:
    """Of `repeats` calls after a first one (compiling, first touch of memory), in which FLOP are `counted`."""
    gc.collect()
    forget_peak(device)
    with flop_counter() if counted else nullcontext() as counter:
        work()
    timed = min(seconds(work, device) for _ in range(max(1, repeats)))
    return Cost(timed, peak(device), counter.get_total_flops() if counted else 0)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock time of one call, until the device has done it."""
    wait = torch.get_device_module(device).synchronize
    wait()
    return timeit.timeit(lambda: (work(), wait()), number=1)


@cache
def peaks(device: torch.device) -> dict[str, float]:
    """FLOP/s of the best square matrix product in every precision of the hardware, which no encoder can exceed."""
    found = {}
    for kind, dtype in {"32": torch.float32, "bf16": torch.bfloat16}.items():
        for side in SIDES if kind == "32" or has_bf16(device.type) else ():
            a, b = torch.randn(2, side, side, device=device).to(dtype)
            spent = cost(lambda a=a, b=b: a @ b, device, 6).seconds
            found[kind] = max(found.get(kind, 0.0), 2 * side**3 / spent)
            if spent > LONG:
                break
    return found


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention, forwards and backwards; torch's own that only on GPUs."""
    counts = {  # shapes are of queries, keys and values, after that of the gradient
        getattr(torch.ops.aten, FLASH): lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
        getattr(torch.ops.aten, f"{FLASH}_backward"): lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4]),
    }
    return FlopCounterMode(display=False, custom_mapping=counts)


def image(number: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `(S,S,3)`, blocks of random colours with a little grain, and the mask of a disc, bool `(S,S)`."""
    rng = numpy_rng("speed", number)
    blocks = rng.integers(0, 256, (side // 16 + 1, side // 16 + 1, 3), dtype=np.uint8)
    grain = rng.integers(-4, 5, (side, side, 3))
    pixels = (blocks.repeat(16, 0).repeat(16, 1)[:side, :side] + grain).clip(0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:side, :side] - side / 2
    return pixels, rows**2 + columns**2 < (side / 4) ** 2


def generator_of(name: str, device: torch.device) -> Generator:
    """A layout ("vit_b") with random weights, or a generator by its path or a shipped one's name, also "small"."""
    if name not in LAYOUTS or name == "small":
        return load_generator(name, device)
    with torch.random.fork_rng():
        torch.manual_seed(seed_for("speed", name))
        generator = Generator(LAYOUTS[name], logit_scale=0.1)  # its noise is not all saturated
        for block in generator.image_encoder.blocks:  # born as zeros, which would hide their part
            torch.nn.init.normal_(block.attn.rel_pos_h, std=0.02)
            torch.nn.init.normal_(block.attn.rel_pos_w, std=0.02)
    return generator.to(device).eval()


@contextmanager
def working_folder(name: str, device: torch.device, count: int, side: int) -> Iterator[tuple[Path, list[Path], dict]]:
    """A folder that is gone afterwards, its `count` JPEG files, and options of `protect_files`."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for i in range(count):
            pixels, mask = image(i, side)
            write_image(folder / f"images/{i:05d}.jpg", pixels)
            write_image(folder / f"masks/{i:05d}.png", np.uint8(255) * mask[..., None], gray=True)
        save_generator(generator_of(name, torch.device("cpu")), folder / "generator.safetensors")
        options = {"masks": f"{folder}/masks", "generator": f"{folder}/generator.safetensors", "device": device.type}
        yield folder, sorted((folder / "images").iterdir()), options
