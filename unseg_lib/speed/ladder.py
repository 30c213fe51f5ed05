"""From the reference to the fast way, one step more at a time, all in one run: protecting in memory, from files to
files, and a training step."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from unseg_lib.images import read_mask
from unseg_lib.method import (
    LAYOUTS,
    BilevelConfig,
    Game,
    Inference,
    accelerate,
    add_noise,
    add_raw_noise,
    measure,
    place_noise,
    save_generator,
    train_step,
)
from unseg_lib.poisons import POISONS, PoisonSettings, Sample
from unseg_lib.protection import Protector, protect_files, read_photo
from unseg_lib.runtime import has_bf16, keep_freed_memory, progress
from unseg_lib.seeds import numpy_rng, torch_rng
from unseg_lib.speed.measure import Cost, cost, generator_of, image, peaks, resident, seconds

EPS, EPS_BG = 8, 2
EVERY = 2.0  # seconds between two looks at the memory
# parts of a profile -> what is in the names of their operators
PARTS = {
    "linear layers": ("addmm", "aten::mm", "linear"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax", "bmm", "baddbmm"),
    "convolutions": ("convolution", "conv2d", "conv_transpose"),
}
SMALL = BilevelConfig(layout="small", surrogate="unet", surrogate_size=96, batch_size=12, loss_points=4096)
# name -> a training, and whether SAM is frozen: as published, but one image at a time; the small game of notebook 01
TRAINING = {
    "vit_b": (BilevelConfig(batch_size=1), True),
    "small": (replace(SMALL, optimiser="adamw"), False),
    "tiny": (BilevelConfig(layout="tiny", batch_size=2, loss_points=64), True),
}


def rungs(half: bool, batch: int, compiled: bool) -> dict[str, dict]:
    """The ways to run the generator, options of `Inference` and `batch`, images at once; half: with bf16, and from
    there on. That is where `Inference` takes it by itself."""
    found = {"eager fp32 (reference)": {"reference": True, "precision": "32"}, "+ fused attention": {"precision": "32"}}
    fast = {"precision": "bf16" if half else "32"}
    if half:
        found["+ bf16"] = fast
    found[f"+ batch of {batch}"] = fast | {"batch": batch}
    if compiled:
        found["+ compiled"] = fast | {"batch": batch, "compiled": True}
    return found


def protect_ladder(
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
    images, rows, first, flop = [image(i, side, side) for i in range(batch)], [], None, 0
    peak, half = peaks(device), Inference(generator_of(name, device)).half
    for rung, options in progress(rungs(half, batch, compiled).items(), f"ladder of {name}"):
        at_once = options.pop("batch", 1)
        way = Inference(generator_of(name, device), **options)
        prepared = [way.prepare(pixels, mask=mask) for pixels, mask in images]
        found = cost(partial(way, prepared[:at_once]), device, repeats, counted=not rows)
        flop = found.flop or flop
        noises = [place_noise(way([one])[0], side, side) for one in prepared]
        written = [add_noise(x, noise, mask, EPS, EPS_BG) for (x, mask), noise in zip(images, noises)]
        first = first or written
        row = {"rung": rung, "images_per_second": at_once / found.seconds, "megabytes": found.megabytes}
        row |= {"precision": options["precision"], **differences(written, first)}
        rows.append(row | {"speedup": row["images_per_second"] / (rows or [row])[0]["images_per_second"]})
    for kind, again in peaks(device).items():  # before and after: something else may have been running
        peak[kind] = max(peak[kind], again, (known or {}).get(kind, 0.0))
    for row in rows:
        row["peak_share"] = row["images_per_second"] * flop / peak[row["precision"]]
    return {"flop": flop, "peak": peak, "rows": rows}


def differences(found: list[np.ndarray], expected: list[np.ndarray]) -> dict:
    """The largest difference of written values, in steps over 255, and the share of values that differ."""
    changes = [np.abs(a.astype(np.int16) - b) for a, b in zip(found, expected)]
    return {
        "largest_difference": int(max(change.max() for change in changes)),
        "share_different": float(np.mean([(change > 0).mean() for change in changes])),
    }


def profile(name: str, device: torch.device, side: int) -> list[dict]:
    """Where the fast way spends its time, by torch's profiler: rows {"part", "share"} of `PARTS` and the rest."""
    way, (pixels, mask), times = Inference(generator_of(name, device)), image(0, side, side), {}
    prepared = [way.prepare(pixels, mask=mask)]
    way(prepared)
    with torch.profiler.profile() as record:
        way(prepared)
    for event in record.key_averages():
        fitting = (part for part, words in PARTS.items() if any(word in event.key for word in words))
        part = next(fitting, "everything else")
        times[part] = times.get(part, 0.0) + event.self_cpu_time_total
    ordered = sorted(times.items(), key=lambda one: -one[1])
    return [{"part": part, "share": spent / sum(times.values())} for part, spent in ordered]


def step_ladder(
    config: BilevelConfig, device: torch.device, *, frozen: bool, compiled: bool = False, repeats: int = 1
) -> list[dict]:
    """Rows of rung, seconds of a step of each phase, of the mean step (turns as in the config), speedup, megabytes.

    frozen: only the noise head of the generator is trained, as published with SAM's weights; here they are random,
    which costs as much.
    """
    found = {"plain fp32": {"keeps": False}, "+ freed memory kept": {}}
    found["+ fused attention and optimiser"] = {"fast": True}
    fast = {"fast": True, "precision": "bf16-mixed" if has_bf16(device.type) else "32-true"}
    if has_bf16(device.type):
        found["+ bf16"] = fast
    # SAM's blocks would be unrolled forwards and backwards: on a processor compiling takes longer than it could save
    if compiled and (config.surrogate != "sam" or device.type == "cuda"):
        found["+ compiled surrogate"] = fast | {"compiled": True}
    rows = []
    for rung, options in progress(found.items(), f"training steps of {config.layout}"):
        step = step_of(config, device, frozen, **options)
        phases, mean = mean_step(step, config, device, repeats)
        row = {"rung": rung, "step": mean.seconds, **phases, "megabytes": mean.megabytes}
        row |= {"samples_per_second": config.batch_size / mean.seconds}
        rows.append(row | {"speedup": (rows or [row])[0]["step"] / mean.seconds})
    return rows


def mean_step(
    step: Callable[[str], object], config: BilevelConfig, device: torch.device, repeats: int, *, counted: bool = False
) -> tuple[dict[str, float], Cost]:
    """Seconds of a step of each phase, and what the mean step costs, with turns as in the config."""
    turns = {"surrogate": config.surrogate_turn, "generator": config.generator_turn}
    found = {phase: cost(partial(step, phase), device, repeats, counted=counted) for phase in turns}
    spent, flop = (
        sum(turns[phase] * getattr(one, name) for phase, one in found.items()) / sum(turns.values())
        for name in ("seconds", "flop")
    )
    megabytes = max((one.megabytes for one in found.values() if one.megabytes), default=None)
    return {phase: one.seconds for phase, one in found.items()}, Cost(spent, megabytes, flop)


def step_of(
    config: BilevelConfig,
    device: torch.device,
    frozen: bool,
    *,
    keeps: bool = True,
    fast: bool = False,
    precision: str = "32-true",
    compiled: bool = False,
) -> Callable[[str], object]:
    """A game, set up that way, that takes one step of the phase it is told, on random colours and square masks.

    keeps: freed memory; once kept, it is so for the whole process. fast: with `accelerate`.
    """
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
    fabric.launch()
    game = Game(config, fabric)
    if frozen:
        game.bare("generator").train_only_noise_head()
    if keeps:
        keep_freed_memory()
    if fast:
        accelerate(game, compiled=compiled)
    side, number = LAYOUTS[config.layout].image_size, config.batch_size
    masks = torch.zeros(number, 1, side, side)
    masks[..., side // 4 : side // 2, side // 4 : 3 * side // 4] = 1
    batch = torch.rand(number, 3, side, side, generator=torch_rng("speed", "batch")).to(device), masks.to(device)
    return lambda phase: train_step(config, fabric, game, batch, phase, 0)


def throughput(
    name: str, device: torch.device, *, count: int, height: int, width: int, jobs: tuple[int, ...] = (1, 2, 4)
) -> list[dict]:
    """Images a second from files to files, by number of threads that read and write, and by processes.

    Rows of {"way", "images_per_second", "share"}, the first one of the model alone, of whose speed the others are a
    share. "processes": as many as the processor has cores, a part of the images each, the model in one thread; only
    where there are enough images.
    """
    way, (pixels, mask) = Inference(generator_of(name, device)), image(0, height, width)
    spent = {"model alone": count * cost(partial(way, [way.prepare(pixels, mask=mask)]), device, 3).seconds}
    with working_folder(name, count, height, width) as (folder, files, options):
        options |= {"device": device.type}
        protect_files(files[:1], folder / "warm", **options)
        for n in jobs:
            work = partial(protect_files, files, folder / f"out{n}", jobs=n, **options)
            spent[f"overlapped, {n} thread{'s' * (n > 1)}"] = seconds(work, device)
        cores = os.cpu_count() or 1
        if device.type == "cpu" and 1 < cores <= count // 4:
            work = partial(protect_files, jobs=1, **options)
            with ProcessPoolExecutor(cores, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
                # not the time in which the processes start
                list(pool.map(work, [files[:1]] * cores, [folder / f"warm{i}" for i in range(cores)]))
                parts, outs = [files[i::cores] for i in range(cores)], [folder / f"process{i}" for i in range(cores)]
                spent[f"{cores} processes"] = seconds(lambda: list(pool.map(work, parts, outs)), device)
    first = spent["model alone"]
    return [{"way": way, "images_per_second": count / x, "share": first / x} for way, x in spent.items()]


def parts(name: str, device: torch.device, *, height: int, width: int, repeats: int = 5) -> list[dict]:
    """Where the time of one file goes: rows {"part", "seconds", "share"} in the order of the work, none overlapped."""
    with working_folder(name, 1, height, width) as (folder, (file,), options):
        own, mask_file = Protector(options["generator"], device=device.type), next((folder / "masks").iterdir())
        photo, mask = read_photo(file), read_mask(mask_file)
        prepared = own.prepare(photo.pixels, mask)
        raw = own.raw_noises([prepared])[0]
        done = add_raw_noise(photo.pixels, raw, mask, own.eps, own.eps_bg)
        works = {
            "reading JPEG and mask": lambda: (read_photo(file), read_mask(mask_file)),
            "preparing": lambda: own.prepare(photo.pixels, mask),
            "the model": lambda: own.raw_noises([prepared]),
            "adding the noise": lambda: add_raw_noise(photo.pixels, raw, mask, own.eps, own.eps_bg),
            "measuring, SSIM above all": lambda: measure(photo.pixels, done, mask),
            "compressing PNG": lambda: photo.encode(done, "png"),
        }
        spent = {part: min(seconds(work, device) for _ in range(repeats)) for part, work in works.items()}
    total = sum(spent.values())
    return [{"part": p, "seconds": x, "milliseconds": 1e3 * x, "share": x / total} for p, x in spent.items()]


def memory(name: str, device: torch.device, *, count: int, height: int, width: int, jobs: int = 2) -> dict:
    """Memory of this process while it protects `count` images: MB at a tenth of the time, at half, at the end."""
    with working_folder(name, count, height, width) as (folder, files, options), ThreadPoolExecutor(1) as pool:
        sizes, start = [], time.perf_counter()
        work = pool.submit(protect_files, files, folder / "out", device=device.type, jobs=jobs, **options)
        while not wait([work], EVERY if sizes else 0).done:
            sizes.append(resident() or float("nan"))
        sizes.append(resident() or float("nan"))
        spent, rows = time.perf_counter() - start, work.result()
    found = {"images": len(rows), "problems": sum(bool(row["problem"]) for row in rows), "seconds": spent}
    at = {"tenth": len(sizes) // 10, "half": len(sizes) // 2, "end": -1}
    return found | {f"megabytes_{when}": sizes[i] for when, i in at.items()} | {"height": height, "width": width}


def poisons(side: int = 512, repeats: int = 15) -> list[dict]:
    """The poisons that need no training: rows {"poison", "milliseconds", "images_per_second"} for one image.

    The median after a first call, of this thread alone; the image is noise with two discs of different classes on a
    background and an ignored rim.
    """
    rows, columns = np.mgrid[:side, :side] / side
    label = np.zeros((side, side), np.uint8)
    label[(rows - 0.35) ** 2 + (columns - 0.35) ** 2 < 0.04] = 1
    label[(rows - 0.7) ** 2 + (columns - 0.65) ** 2 < 0.03] = 2
    label[:2] = 255
    pixels = numpy_rng("speed").integers(0, 256, (side, side, 3), dtype=np.uint8)
    sample, found = Sample("speed", pixels, np.isin(label, (1, 2)), label, background=0), []
    for name, poison in sorted(POISONS.items()):
        if name != "clean" and not poison.needs_generator and not poison.fit:
            apply, moments = poison.make(PoisonSettings()), []
            for _ in range(repeats + 2):
                moments.append(time.thread_time())
                apply(sample)
            spent = float(np.median(np.diff(moments)[1:]))
            found.append({"poison": name, "milliseconds": 1e3 * spent, "images_per_second": 1 / spent})
    return found


@contextmanager
def working_folder(name: str, count: int, height: int, width: int) -> Iterator[tuple[Path, list[Path], dict]]:
    """A folder that is gone afterwards, its `count` JPEG files, and the masks and the generator as `protect_files`
    takes them."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for part in ("images", "masks"):
            (folder / part).mkdir()
        for i in range(count):
            pixels, mask = image(i, height, width)
            Image.fromarray(pixels).save(folder / "images" / f"{i:05d}.jpg", quality=90)
            Image.fromarray(mask).save(folder / "masks" / f"{i:05d}.png")
        save_generator(generator_of(name, torch.device("cpu")), folder / "generator.safetensors")
        options = {"masks": str(folder / "masks"), "generator": str(folder / "generator.safetensors")}
        yield folder, sorted((folder / "images").iterdir()), options
