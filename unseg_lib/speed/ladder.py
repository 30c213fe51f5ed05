"""The ladder from the reference to the fast way of protecting: one step more at a time, all in one run."""

from dataclasses import dataclass

import numpy as np
import torch

from unseg_lib.method import Inference, Prepared, add_noise, place_noise
from unseg_lib.runtime import has_bf16, progress
from unseg_lib.speed.arithmetic import generator_flop
from unseg_lib.speed.machine import cost, matmul_peak
from unseg_lib.speed.samples import generator_of, image

EPS, EPS_BG = 8, 2


@dataclass(frozen=True)
class Rung:
    """One way to run the generator, see `Inference`; batch: images at once."""

    name: str
    reference: bool = False
    precision: str = "32"
    batch: int = 1
    compiled: bool = False


def rungs(half: bool, batch: int, compiled: bool) -> list[Rung]:
    """The ladder; half: with bf16, and from there on. That is where `Inference` takes it by itself."""
    fast = "bf16" if half else "32"
    found = [Rung("eager fp32 (reference)", reference=True), Rung("+ fused attention")]
    if half:
        found.append(Rung("+ bf16", precision=fast))
    found.append(Rung(f"+ batch of {batch}", precision=fast, batch=batch))
    if compiled:
        found.append(Rung("+ compiled", precision=fast, batch=batch, compiled=True))
    return found


def ladder(
    name: str,
    device: torch.device,
    *,
    side: int,
    batch: int = 2,
    compiled: bool = False,
    repeats: int = 2,
    known: dict | None = None,
) -> dict:
    """Measure every rung of generator `name` (see `generator_of`) on square images of `side` pixels.

    known: peaks that were found earlier; the higher one counts.

    Returns {"flop": of one image, "peak": FLOP/s of a matrix multiplication by precision, "rows": one per rung with
    images_per_second, speedup, megabytes, share of the peak, and, against the first rung's written pixels, the largest
    difference in steps and the share of pixels that differ}. `flop` is the reference's: what a rung leaves out counts.
    """
    images, rows, expected = [image(i, side, side) for i in range(batch)], [], None
    (flop, half), peak = _before(name, device), peaks(device)
    for rung in progress(rungs(half, batch, compiled), f"ladder of {name}"):
        row, written = _climb(rung, name, device, images, repeats)
        expected = expected or written
        row |= {"precision": rung.precision, **differences(written, expected)}
        rows.append(row | {"speedup": row["images_per_second"] / (rows or [row])[0]["images_per_second"]})
    for kind, again in peaks(device).items():  # before and after: something else may have been running
        peak[kind] = max(peak[kind], again, (known or {}).get(kind, 0.0))
    for row in rows:
        row["peak_share"] = row["images_per_second"] * flop / peak[row["precision"]]
    return {"flop": flop, "peak": peak, "rows": rows}


def _before(name: str, device: torch.device) -> tuple[int, bool]:
    """FLOP of one image, and whether protecting takes bf16; the model is gone again before memory is measured."""
    generator = generator_of(name, device)
    return generator_flop(generator.layout), Inference(generator).half


def peaks(device: torch.device) -> dict[str, float]:
    """FLOP/s of a matrix multiplication in every precision that the device has in hardware."""
    kinds = {"32": torch.float32} | ({"bf16": torch.bfloat16} if has_bf16(device.type) else {})
    return {kind: matmul_peak(device, dtype) for kind, dtype in kinds.items()}


def _climb(rung: Rung, name: str, device: torch.device, images: list, repeats: int) -> tuple[dict, list[np.ndarray]]:
    """A row of the ladder, and the images as they would be written."""
    way = Inference(
        generator_of(name, device), reference=rung.reference, precision=rung.precision, compiled=rung.compiled
    )
    prepared = [way.prepare(pixels, mask=mask) for pixels, mask in images]
    some = prepared[: rung.batch]
    found = cost(lambda: way(some), device, repeats)
    row = {"rung": rung.name, "images_per_second": len(some) / found.seconds, "megabytes": found.megabytes}
    return row, [written(way, one, *original) for one, original in zip(prepared, images)]


def written(way: Inference, prepared: Prepared, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The protected image, uint8 `(H,W,3)`."""
    return add_noise(pixels, place_noise(way([prepared])[0], *mask.shape), mask, EPS, EPS_BG)


def differences(found: list[np.ndarray], expected: list[np.ndarray]) -> dict:
    """The largest difference of written values, in steps over 255, and the share of values that differ."""
    changes = [np.abs(a.astype(np.int16) - b) for a, b in zip(found, expected)]
    return {
        "largest_difference": int(max(change.max() for change in changes)),
        "share_different": float(np.mean([(change > 0).mean() for change in changes])),
    }


def profile(name: str, device: torch.device, side: int) -> list[dict]:
    """Where the fast way spends its time: rows {"part", "share"} of encoder, decoder with heads, and the rest.

    And within the encoder, of linear layers and of attention, by torch's profiler.
    """
    way = Inference(generator_of(name, device))
    prepared = [way.prepare(*image(0, side, side)[:1], mask=image(0, side, side)[1])]
    way(prepared)
    with torch.profiler.profile() as record:
        way(prepared)
    times = {}
    for event in record.key_averages():
        times[_part(event.key)] = times.get(_part(event.key), 0.0) + event.self_cpu_time_total
    total = sum(times.values())
    return [{"part": part, "share": spent / total} for part, spent in sorted(times.items(), key=lambda p: -p[1])]


PARTS = {
    "linear layers": ("addmm", "aten::mm", "linear"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax", "bmm", "baddbmm"),
    "convolutions": ("convolution", "conv2d", "conv_transpose"),
}


def _part(operator: str) -> str:
    return next((part for part, words in PARTS.items() if any(word in operator for word in words)), "everything else")
