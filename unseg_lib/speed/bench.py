"""The command `unseg bench`: one measurement as a table; notebook 09_speed makes all of them in one run."""

from typing import Annotated

import typer

from unseg_lib.errors import UnsegError, pick

KINDS = ("protect", "train", "disk", "memory", "needs", "poisons")


def bench(
    what: Annotated[str, typer.Argument(help="protect, train, disk (files), memory, needs or poisons")] = "protect",
    generator: Annotated[
        str, typer.Option(help="small, texture, colour, a path, or vit_b with random weights; train: small, vit_b")
    ] = "small",
    side: Annotated[int, typer.Option(help="of images, in pixels; 0: what suits the generator; poisons: 512")] = 0,
    batch: Annotated[
        int, typer.Option(help="images at once in the last steps of the ladder, 2; needs: at most, else as planned")
    ] = 0,
    images: Annotated[int, typer.Option(help="files, for disk and memory")] = 64,
    compiled: Annotated[bool, typer.Option(help="also with torch.compile")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    profile: Annotated[str, typer.Option(help="with needs: of which profile, by name or path")] = "paper",
    json: Annotated[str, typer.Option(help="with memory and needs: also write what was found to this file")] = "",
) -> None:
    """Measure how fast this machine protects and trains, against the plain reference, in one run.

    needs: hours, memory and disk of a profile's trainings and tables, from some steps of each kind. poisons:
    milliseconds of those that need no training, on one core.
    """
    import torch

    from unseg_lib import speed
    from unseg_lib.files import write_json
    from unseg_lib.method import LAYOUTS
    from unseg_lib.runtime import choose_device

    if what not in KINDS:
        raise UnsegError(f"Expected to measure {', '.join(KINDS[:-1])} or {KINDS[-1]}, found '{what}'.")
    if min(side, images - 1, batch) < 0:
        raise UnsegError("Expected a side and a number of images of at least 1, and a batch of at least 0.")
    on, found = torch.device(choose_device(device)), {}
    large = generator in LAYOUTS and generator != "small"
    side = side or (512 if what == "poisons" else LAYOUTS[generator].image_size if large else 256)
    if what == "protect":
        ladder = speed.protect_ladder(generator, on, side=side, batch=batch or 2, compiled=compiled)
        rows, peaks = ladder["rows"], ", ".join(f"{k}: {1e-9 * x:,.0f} GFLOP/s" for k, x in ladder["peak"].items())
        print(f"{1e-9 * ladder['flop']:,.1f} GFLOP an image; matrix multiplications at best {peaks}")
    elif what == "train":
        rows = speed.step_ladder(on, compiled=compiled, **pick(speed.TRAINING, generator, "training"))
    elif what == "disk":
        rows = speed.throughput(generator, on, count=images, side=side)
    elif what == "poisons":
        rows = speed.poisons(side)
    elif what == "memory":
        found = speed.memory(generator, on, count=images, side=side)
        print(*(f"{name:<18}{value:,.0f}" for name, value in found.items()), sep="\n")
    else:
        found = speed.measured_needs(profile, on.type, batch)
        rows = found["rows"]
        print(found["machine"])
    if what != "memory":
        print(speed.table(rows, what).to_string())
    if what == "needs":
        print(f"\n{speed.table(found['tables'], 'tables').to_string()}")
    if json and found:
        write_json(json, found)
