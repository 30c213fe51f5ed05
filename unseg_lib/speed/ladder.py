"""From the reference to the fast way, one step more at a time: protecting in memory, of files, and a training step."""

import json
import os
import sys
import time
import timeit
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, wait
from functools import partial
from itertools import accumulate, product
from multiprocessing import get_context
from pathlib import Path
from subprocess import PIPE, run

import numpy as np
import pandas as pd
import torch
import yaml

from unseg_lib.errors import UnsegError
from unseg_lib.images import read_image
from unseg_lib.method import LAYOUTS, BilevelConfig, Game, Inference, accelerate, add_raw_noise, train_step
from unseg_lib.poisons import POISONS, PoisonSettings, Sample
from unseg_lib.protection import protect_files
from unseg_lib.runtime import has_bf16, keep_freed_memory, progress, resident
from unseg_lib.seeds import torch_rng
from unseg_lib.speed.measure import cost, generator_of, image, peaks, seconds, working_folder

# a process that protects files by the version that it is told, and says in how many seconds
VERSION = """
import json, sys, time
root, options, out, *files = sys.argv[1:]
sys.path.insert(0, root)
from unseg_lib.protection import protect_files
protect_files(files[:1], out + "-warm", **json.loads(options))
start = time.perf_counter()
protect_files(files, out, **json.loads(options))
print(time.perf_counter() - start)
"""
DATA = yaml.safe_load(Path(__file__).with_name("speed.yaml").read_text())
TRAINING = DATA["trainings"]  # name -> settings of the game, and whether SAM is frozen


def rungs(ladder: str, **there: bool) -> dict[str, dict]:
    """The options of every rung of a ladder of `speed.yaml`; bf16, compiled: whether those are there."""
    without = tuple(f"+ {name}" for name, known in there.items() if not known)
    found = {rung: new for rung, new in DATA["rungs"][ladder].items() if not rung.startswith(without)}
    return dict(zip(found, accumulate(found.values(), lambda before, new: before | new)))


def protect_ladder(
    name: str, device: torch.device, *, side: int, batch: int = 2, compiled: bool = False, repeats: int = 2
) -> dict:
    """Every rung of a generator: "flop" of an image in the reference, "peak" (see `peaks`), "rows" (`differences`)."""
    images, rows, first, flop = [image(i, side) for i in range(batch)], [], None, 0
    ways = rungs("protect", bf16=Inference(generator_of(name, device)).half, compiled=compiled)
    for rung, options in progress(ways.items(), f"ladder of {name}"):
        at_once = batch if options.pop("batch", False) else 1
        way = Inference(generator_of(name, device), **options)
        prepared = [way.prepare(pixels, mask=mask) for pixels, mask in images]
        found = cost(partial(way, prepared[:at_once]), device, repeats, counted=not rows)
        speed, flop = at_once / found.seconds, found.flop or flop
        written = [add_raw_noise(x, way([one])[0], mask, 8, 2) for (x, mask), one in zip(images, prepared)]
        first = first or written
        row = {"rung": rung.format(batch=batch), "images_per_second": speed, "megabytes": found.megabytes, **options}
        row |= {"peak_share": speed * flop / peaks(device)[options["precision"]], **differences(written, first)}
        rows.append(row | {"speedup": speed / (rows or [row])[0]["images_per_second"]})
    return {"flop": flop, "peak": peaks(device), "rows": rows}


def differences(found: list[np.ndarray], expected: list[np.ndarray]) -> dict:
    """The largest difference of written values, in steps over 255, and the share of values that differ."""
    changes = np.abs(np.subtract(found, expected, dtype=np.int16))
    return {"largest_difference": int(changes.max()), "share_different": float((changes > 0).mean())}


def step_ladder(device: torch.device, *, frozen: bool, compiled: bool = False, **settings: object) -> list[dict]:
    """Rows of rung, seconds of a step of each phase and of the mean one, speedup, megabytes; see `TRAINING`."""
    config, rows = BilevelConfig(**settings), []
    # SAM's blocks would be unrolled forwards and backwards: on a processor compiling takes longer than it could save
    compiled = compiled and (config.surrogate != "sam" or device.type == "cuda")
    ways = rungs("train", bf16=has_bf16(device.type), compiled=compiled)
    for rung, options in progress(ways.items(), f"training steps of {config.layout}"):
        if rows:
            keep_freed_memory()  # from here on, for the whole process
        rows.append({"rung": rung} | game_step(config, device, frozen, **options, repeats=1))
    return [row | {"speedup": rows[0]["step"] / row["step"]} for row in rows]


def game_step(
    config: BilevelConfig, device: torch.device, frozen: bool, fast: dict | None, precision: str, **how: object
) -> dict[str, float]:
    """Seconds of a step of each phase; of the mean "step", with turns as in the config, also "megabytes", "flop", 0 if
    uncounted, and "samples_per_second". fast: options of `accelerate`, None: without it; how: options of `cost`."""
    from lightning.fabric import Fabric

    fabric = Fabric(accelerator=device.type, devices=1, precision=precision)
    game = Game(config, fabric)
    if frozen:
        game.bare("generator").train_only_noise_head()
    if fast is not None:
        accelerate(game, **fast)
    side, number = LAYOUTS[config.layout].image_size, config.batch_size
    masks = torch.zeros(number, 1, side, side)
    masks[..., side // 4 : side // 2, side // 4 : 3 * side // 4] = 1
    batch = torch.rand(number, 3, side, side, generator=torch_rng("speed", "batch")).to(device), masks.to(device)
    turns = {"surrogate": config.surrogate_turn, "generator": config.generator_turn}
    found = {phase: cost(partial(train_step, config, fabric, game, batch, phase, 0), device, **how) for phase in turns}
    times = {phase: one.seconds for phase, one in found.items()}
    both = [(one.seconds, one.flop) for one in found.values()]
    step, flop = np.average(both, axis=0, weights=list(turns.values())).tolist()
    megabytes = max((one.megabytes for one in found.values() if one.megabytes), default=None)
    return times | {"step": step, "megabytes": megabytes, "flop": flop, "samples_per_second": number / step}


def throughput(
    name: str, device: torch.device, *, count: int, side: int, jobs: Sequence[int] = (1, 2, 4), beside: str = ""
) -> list[dict]:
    """Images a second, of the model alone, and from files to files by threads or (one a core, if enough) processes;
    "kilobytes": the mean size of a written file. beside: another checkout of this kit, to take turns with this one."""
    if beside and not Path(beside, "unseg_lib").is_dir():
        raise UnsegError(f"Expected another checkout of this kit at {beside}, found no unseg_lib there.")
    way, (pixels, mask) = Inference(generator_of(name, device)), image(0, side)
    alone = count * cost(partial(way, [way.prepare(pixels, mask=mask)]), device, 3).seconds
    with working_folder(name, device, count, side) as (folder, files, options):
        work, cores, spent = partial(protect_files, **options), os.cpu_count() or 1, {"model alone": (alone, "none")}
        work(files[:1], folder / "warm")
        for n in jobs:
            own = seconds(partial(work, files, folder / f"out{n}", jobs=n), device)
            spent[f"overlapped, {n} thread{'s' * (n > 1)}"] = own, f"out{n}"
        if device.type == "cpu" and 1 < cores <= count // 4:
            work, parts = partial(work, jobs=1), [files[i::cores] for i in range(cores)]
            outs = [folder / f"process/{i}" for i in range(cores)]
            with ProcessPoolExecutor(cores, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
                # not the time in which the processes start
                list(pool.map(work, [files[:1]] * cores, [folder / f"warm{i}" for i in range(cores)]))
                spent[f"{cores} processes"] = seconds(lambda: list(pool.map(work, parts, outs)), device), "process"
        if beside:
            shipped = {"generator": name} if name == "small" or name not in LAYOUTS else {}  # older ones read their own
            spent |= in_turns(Path(beside), files, folder, options | shipped)
        rows = []
        for way, (x, out) in spent.items():
            size = sum(path.stat().st_size for path in (folder / out).rglob("*.png")) / count / 1e3 or None
            rows.append({"way": way, "images_per_second": count / x, "share": alone / x, "kilobytes": size})
    return rows


def in_turns(other: Path, files: Sequence[Path], folder: Path, options: dict, turns: int = 3) -> dict[str, tuple]:
    """Seconds in which this version and that of another checkout protect the files, and where to: the fastest turn of
    each, in a process of its own that has done one image before."""
    spent = [[], []]
    for turn, (i, root) in product(range(turns), enumerate((Path(__file__).parents[2], other.absolute()))):
        how = [sys.executable, "-c", VERSION, root, json.dumps(options), folder / f"version{i}-{turn}", *files]
        if (done := run(how, stdout=PIPE, text=True, check=False)).returncode:
            raise UnsegError(f"Expected {root} to protect the files, found that it cannot (see above).")
        spent[i].append(float(done.stdout))
    first, second = (sorted((folder / f"version{i}-0").glob("*.png")) for i in range(2))
    same = all(np.array_equal(read_image(a), read_image(b)) for a, b in zip(first, second, strict=True))
    ways = "this version", f"{other}, {'same' if same else 'other'} pixels"
    return {way: (min(times), f"version{i}-0") for i, (way, times) in enumerate(zip(ways, spent))}


def memory(name: str, device: torch.device, *, count: int, side: int) -> dict:
    """Memory of this process while it protects `count` images: MB at a tenth of the time, at half, at the end."""
    with working_folder(name, device, count, side) as (folder, files, options), ThreadPoolExecutor(1) as pool:
        sizes, start = [], time.perf_counter()
        work = pool.submit(protect_files, files, folder / "out", **options)
        while not sizes or not work.done():
            wait([work], 2.0 if sizes else 0)  # seconds between two looks
            sizes.append(resident() or float("nan"))
        spent, rows = time.perf_counter() - start, work.result()
    found = {"images": len(rows), "problems": sum(bool(row["problem"]) for row in rows), "seconds": spent}
    at = {"tenth": len(sizes) // 10, "half": len(sizes) // 2, "end": -1}
    return found | {f"megabytes_{when}": sizes[i] for when, i in at.items()} | {"height": side, "width": side}


def poisons(side: int = 512, repeats: int = 15) -> list[dict]:
    """The time of poisons that need no training: the median of this thread alone for one image, after a first call."""
    # a disc of two classes on a background with an ignored rim
    pixels, disc = image(0, side)
    label = disc.astype(np.uint8)
    label[:, side // 2 :] *= 2
    label[:2] = 255
    sample, found = Sample("speed", pixels, disc, label, background=0), []
    for name, poison in sorted(POISONS.items()):
        if name != "clean" and not poison.needs_generator and not poison.fit:
            work = partial(poison.make(PoisonSettings()), sample)
            spent = float(np.median(timeit.repeat(work, timer=time.thread_time, number=1, repeat=repeats + 1)[1:]))
            found.append({"poison": name, "milliseconds": 1e3 * spent, "images_per_second": 1 / spent})
    return found


def table(rows: list[dict], what: str) -> pd.DataFrame:
    """Measurements as a table of texts, with the columns of `speed.yaml`; what is unknown is a dash."""
    columns = DATA["columns"][what]
    found = pd.DataFrame(rows, columns=list(columns))
    for name, (_, form) in columns.items():
        found[name] = found[name].map(form.format, na_action="ignore").fillna("–").str.removesuffix("%")
    found.columns = [heading for heading, _ in columns.values()]
    return found.set_index(first := found.columns[0]).rename_axis(index=None, columns=first)
