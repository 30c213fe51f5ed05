"""`unseg bench`: one measurement as a table in the terminal; the notebook 09_speed makes all of them in one run."""

import torch

from unseg_lib.errors import UnsegError, pick
from unseg_lib.files import write_json
from unseg_lib.method import LAYOUTS, BilevelConfig
from unseg_lib.pipeline import load_profile
from unseg_lib.runtime import choose_device, provenance
from unseg_lib.speed import tables
from unseg_lib.speed.disk import memory, throughput
from unseg_lib.speed.ladder import ladder
from unseg_lib.speed.needs import needs
from unseg_lib.speed.step import step_ladder

# as published, but one image at a time; and the small game of notebook 01
TRAINING = {
    "vit_b": (BilevelConfig(batch_size=1), True),
    "small": (
        BilevelConfig(
            layout="small", surrogate="unet", surrogate_size=96, batch_size=12, loss_points=4096, optimiser="adamw"
        ),
        False,
    ),
    "tiny": (BilevelConfig(layout="tiny", batch_size=2, loss_points=64), True),
}


def bench(
    what: str,
    generator: str,
    *,
    side: int,
    batch: int = 0,
    images: int,
    compiled: bool,
    device: str,
    profile: str = "paper",
    json: str = "",
) -> str:
    """Measure "protect", "train", "disk", "memory" or "needs" and return the table; the last two also as `json`.

    batch: images at once, of needs at most; 0: two, of needs as many as are planned.
    """
    if min(side, images) < 1 or batch < 0:
        raise UnsegError("Expected a side and a number of images of at least 1, and a batch of at least 0.")
    chosen = torch.device(choose_device(device))
    if what == "protect":
        found = ladder(generator, chosen, side=side, batch=batch or 2, compiled=compiled)
        peaks = ", ".join(f"{name}: {1e-9 * value:,.0f} GFLOP/s" for name, value in found["peak"].items())
        about = f"{1e-9 * found['flop']:,.1f} GFLOP an image; matrix multiplications at best {peaks}"
        return f"{tables.text(found['rows'], tables.LADDER)}\n{about}"
    if what == "train":
        config, frozen = pick(TRAINING, generator, "training")
        return tables.text(step_ladder(config, chosen, frozen=frozen, compiled=compiled), tables.STEP)
    if what == "disk":
        rows = throughput(generator, chosen, count=images, height=side, width=side)
        return tables.text(rows, tables.DISK)
    if what == "memory":
        found = memory(generator, chosen, count=images, height=side, width=side)
        if json:
            write_json(json, found)
        return "\n".join(f"{name:<18}{value:,.0f}" for name, value in found.items())
    if what == "needs":
        found = measured_needs(profile, chosen.type, batch)
        if json:
            write_json(json, found)
        return f"{found['machine']}\n{tables.text(found['rows'], tables.NEEDS)}"
    raise UnsegError(f"Expected to measure protect, train, disk, memory or needs, found '{what}'.")


def measured_needs(profile: str, device: str, batch: int) -> dict:
    """What `needs.needs` finds, with the machine it was found on and the code that did it."""
    plan = load_profile(profile)
    rows = needs(plan, device, batch=batch)
    origin = provenance(plan.root)
    machine = origin["gpus"][0] if device == "cuda" else f"{origin['cpu']}, {torch.get_num_threads()} threads"
    return {"profile": plan.name, "machine": machine, "rows": rows, "provenance": origin}


def side_of(generator: str) -> int:
    """The side of images that a generator sees as they are; of one that is shipped, twice that."""
    return LAYOUTS[generator].image_size if generator in LAYOUTS and generator != "small" else 256
