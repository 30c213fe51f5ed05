"""The command `unseg bench`: one measurement as a table; notebook 09_speed makes all of them in one run."""

from typing import Annotated

from typer import Argument, Option

from unseg_lib.errors import UnsegError, pick


def bench(
    what: Annotated[str, Argument(help="protect, train, disk (files), memory, needs or poisons")] = "protect",
    generator: Annotated[str, Option(help="small, colour, a path, or vit_b; train: small, vit_b")] = "small",
    side: Annotated[int, Option(help="of images, in pixels; 0: what suits the generator; poisons: 512")] = 0,
    batch: Annotated[int, Option(help="images at once in the last steps, 2; needs: at most, 0: as planned")] = 0,
    images: Annotated[int, Option(help="files, for disk and memory")] = 64,
    compiled: Annotated[bool, Option(help="also with torch.compile")] = False,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps")] = "auto",
    profile: Annotated[str, Option(help="with needs: of which profile, by name or path")] = "paper",
    beside: Annotated[str, Option(help="with disk: another checkout of this kit, to take turns with")] = "",
    json: Annotated[str, Option(help="with memory and needs: also write what was found to this file")] = "",
) -> None:
    """Measure how fast this machine protects and trains, against the plain reference, in one run.

    vit_b has random weights here. needs: hours, memory and disk of a profile's trainings and tables, from some steps of
    each kind. poisons: milliseconds of those that need no training, on one core.
    """
    import torch

    from unseg_lib import speed
    from unseg_lib.files import write_json
    from unseg_lib.method import LAYOUTS
    from unseg_lib.runtime import choose_device

    if min(side, images - 1, batch) < 0:
        raise UnsegError("Expected a side and a number of images of at least 1, and a batch of at least 0.")
    on = torch.device(choose_device(device))
    large = generator in LAYOUTS and generator != "small"
    side = side or (512 if what == "poisons" else LAYOUTS[generator].image_size if large else 256)
    measurements = {
        "protect": lambda: speed.protect_ladder(generator, on, side=side, batch=batch or 2, compiled=compiled),
        "train": lambda: speed.step_ladder(on, compiled=compiled, **pick(speed.TRAINING, generator, "training")),
        "disk": lambda: speed.throughput(generator, on, count=images, side=side, beside=beside),
        "poisons": lambda: speed.poisons(side),
        "memory": lambda: speed.memory(generator, on, count=images, side=side),
        "needs": lambda: speed.measured_needs(profile, on, batch),
    }
    found = pick(measurements, what, "measurement")()
    if what == "protect":
        peaks = ", ".join(f"{k}: {1e-9 * x:,.0f} GFLOP/s" for k, x in found["peak"].items())
        print(f"{1e-9 * found['flop']:,.1f} GFLOP an image; matrix multiplications at best {peaks}")
    if what == "needs":
        print(found["machine"])
    if what == "memory":
        print(*(f"{name:<18}{value:,.0f}" for name, value in found.items()), sep="\n")
    else:
        print(speed.table(found["rows"] if isinstance(found, dict) else found, what).to_string())
    if what == "needs":
        print(f"\n{speed.table(found['tables'], 'tables').to_string()}")
    if json and what in ("memory", "needs"):
        write_json(json, found)
