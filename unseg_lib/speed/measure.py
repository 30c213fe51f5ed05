"""What a piece of work costs in time, memory and arithmetic, and the made-up images and generators to measure with."""

import gc
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from unseg_lib.method import LAYOUTS, Generator, load_generator
from unseg_lib.runtime import has_bf16
from unseg_lib.seeds import numpy_rng, seed_for

SIDES = (1024, 2048, 4096)  # of square matrices; the best of them is the peak
ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True)
class Cost:
    """seconds: the fastest of some calls. megabytes: the most memory that was in use at any moment, None if unknown:
    on a GPU what torch had allocated, else the whole process as it lay in memory. flop: 0 where it was not counted.
    """

    seconds: float
    megabytes: float | None
    flop: float = 0


def cost(work: Callable[[], object], device: torch.device, repeats: int = 2, *, counted: bool = False) -> Cost:
    """The fastest of `repeats` calls after a first one (compiling, first touch of memory), in which FLOP are `counted`.

    The fastest, because whatever else the machine does can only make a call slower.
    """
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
    start = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - start


def forget_peak(device: torch.device) -> None:
    """From here on `peak` counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: VmHWM starts anew


def peak(device: torch.device) -> float | None:
    """The most memory in use since `forget_peak`, MB, see `Cost`."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else resident("VmHWM")


def resident(name: str = "VmRSS") -> float | None:
    """Memory of this process now, MB (or another line of Linux's /proc/self/status); None where it is not told."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{name}:")), None)


def peaks(device: torch.device) -> dict[str, float]:
    """FLOP/s of the best square matrix multiplication in every precision that the device has in hardware: what no
    encoder can exceed."""
    found = {}
    for kind, dtype in {"32": torch.float32, "bf16": torch.bfloat16}.items():
        if kind == "32" or has_bf16(device.type):
            pairs = [torch.randn(2, side, side, device=device).to(dtype) for side in SIDES]
            found[kind] = max(2 * len(a) ** 3 / cost(lambda a=a, b=b: a @ b, device, 3).seconds for a, b in pairs)
    return found


def flop_counter() -> FlopCounterMode:
    """Counts matrix products, convolutions and attention, forwards and backwards, in what it surrounds.

    torch counts its attention on GPUs alone; the shapes are of queries, keys and values, after that of the gradient.
    """
    forwards = lambda *shapes, **_: sdpa_flop_count(*shapes[:3])  # noqa: E731
    backwards = lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4])  # noqa: E731
    return FlopCounterMode(display=False, custom_mapping={ATTENTION: forwards, ATTENTION_BACKWARD: backwards})


def image(number: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 `(H,W,3)`, blocks of random colours with a little grain, and the mask of a disc, bool `(H,W)`."""
    rng = numpy_rng("speed", number)
    blocks = rng.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    pixels = np.kron(blocks, np.ones((16, 16, 1), np.uint8))[:height, :width]
    pixels = np.clip(pixels + rng.integers(-4, 5, pixels.shape), 0, 255).astype(np.uint8)
    rows, columns = np.mgrid[:height, :width]
    return pixels, (rows - height / 2) ** 2 + (columns - width / 2) ** 2 < (min(height, width) / 4) ** 2


def generator_of(name: str, device: torch.device) -> Generator:
    """A layout by its name ("vit_b") with random weights, of which noise comes that is not all saturated; or any
    generator by a shipped one's name or its path. The shipped "small" is a layout's name too, and wins."""
    if name not in LAYOUTS or name == "small":
        return load_generator(name, device)
    with torch.random.fork_rng():
        torch.manual_seed(seed_for("speed", name))
        generator = Generator(LAYOUTS[name], logit_scale=0.1)
        for block in generator.image_encoder.blocks:  # born as zeros, which would hide their part
            torch.nn.init.normal_(block.attn.rel_pos_h, std=0.02)
            torch.nn.init.normal_(block.attn.rel_pos_w, std=0.02)
    return generator.to(device).eval()
