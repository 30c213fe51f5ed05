"""From disk to disk: how close `unseg protect` comes to what the model alone could do, and its memory."""

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import torch

from unseg_lib.images import read_mask
from unseg_lib.method import Inference, add_raw_noise, measure
from unseg_lib.protection import Protector, protect_files, read_photo
from unseg_lib.speed.machine import cost, resident, seconds
from unseg_lib.speed.samples import generator_of, image, write_generator, write_images

EVERY = 2.0  # seconds between two looks at the memory


def throughput(
    name: str, device: torch.device, *, count: int, height: int, width: int, jobs: tuple[int, ...] = (1, 2, 4)
) -> list[dict]:
    """Images a second from files to files, by number of threads that read and write, and by processes.

    Rows of {"way", "images_per_second", "share"}, the first one of the model alone, of whose speed the others are a
    share. "processes": as many as the processor has cores, a part of the images each, the model in one thread; only
    where there are enough images.
    """
    with working_folder(name, count, height, width) as (folder, generator):
        options = {"masks": str(folder / "masks"), "generator": generator, "device": device.type}
        files = sorted((folder / "images").iterdir())
        speeds = {"model alone": model_alone(name, device, height, width)}
        protect_files(files[:1], folder / "warm", **options)
        for n in jobs:
            start = time.perf_counter()
            protect_files(files, folder / f"out{n}", jobs=n, **options)
            speeds[f"overlapped, {n} thread{'s' * (n > 1)}"] = count / (time.perf_counter() - start)
        if device.type == "cpu" and 1 < (cores := os.cpu_count() or 1) <= count // 4:
            speeds[f"{cores} processes"] = count / _in_processes(files, folder, options, cores)
    return [{"way": way, "images_per_second": x, "share": x / speeds["model alone"]} for way, x in speeds.items()]


def _in_processes(files: list[Path], folder: Path, options: dict, count: int) -> float:
    """Seconds for all images, without the time in which the processes start."""
    parts = [(files[i::count], folder / f"process{i}", options) for i in range(count)]
    with ProcessPoolExecutor(count, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        list(pool.map(_protect, [(files[:1], folder / f"warm{i}", options) for i in range(count)]))
        start = time.perf_counter()
        list(pool.map(_protect, parts))
        return time.perf_counter() - start


def _protect(part: tuple[list[Path], Path, dict]) -> None:
    files, out, options = part
    protect_files(files, out, jobs=1, **options)


def model_alone(name: str, device: torch.device, height: int, width: int) -> float:
    """Images a second of the generator when everything is ready in memory."""
    way = Inference(generator_of(name, device))
    pixels, mask = image(0, height, width)
    prepared = [way.prepare(pixels, mask=mask)]
    return 1 / cost(lambda: way(prepared), device, repeats=3).seconds


def parts(name: str, device: torch.device, *, height: int, width: int, repeats: int = 5) -> list[dict]:
    """Where the time of one file goes: rows {"part", "seconds", "share"} in the order of the work, none overlapped."""
    with working_folder(name, 1, height, width) as (folder, generator):
        own = Protector(generator, device=device.type)
        file, mask_file = (next((folder / part).iterdir()) for part in ("images", "masks"))
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
    return [{"part": part, "seconds": x, "share": x / sum(spent.values())} for part, x in spent.items()]


def memory(name: str, device: torch.device, *, count: int, height: int, width: int, jobs: int = 2) -> dict:
    """Memory of this process while it protects `count` images: MB at a tenth of the time, at half, at the end."""
    with working_folder(name, count, height, width) as (folder, generator):
        sizes, done = [], threading.Event()
        watcher = threading.Thread(target=_watch, args=(sizes, done))
        watcher.start()
        start = time.perf_counter()
        options = {"masks": str(folder / "masks"), "generator": generator, "device": device.type, "jobs": jobs}
        try:
            rows = protect_files([folder / "images"], folder / "out", **options)
        finally:
            done.set()
            watcher.join()
    spent = time.perf_counter() - start
    found = {"images": len(rows), "problems": sum(bool(row["problem"]) for row in rows), "seconds": spent}
    at = {"tenth": len(sizes) // 10, "half": len(sizes) // 2, "end": -1}
    return found | {f"megabytes_{when}": sizes[i] for when, i in at.items()} | {"height": height, "width": width}


def _watch(sizes: list[float], done: threading.Event) -> None:
    sizes.append(resident())
    while not done.wait(EVERY):
        sizes.append(resident())
    sizes.append(resident())


@contextmanager
def working_folder(name: str, count: int, height: int, width: int) -> Iterator[tuple[Path, str]]:
    """A folder that is gone afterwards, with images, masks, and the generator as a file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_images(folder, count, height, width)
        write_generator(name, folder / "generator.safetensors")
        yield folder, str(folder / "generator.safetensors")
