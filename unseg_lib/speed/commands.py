"""The command `unseg bench`."""

from typing import Annotated

import typer


def bench(
    what: Annotated[str, typer.Argument(help="protect, train, disk (files to files), memory or needs")] = "protect",
    generator: Annotated[
        str, typer.Option(help="small, texture, colour, a path, or vit_b with random weights; train: small, vit_b")
    ] = "small",
    side: Annotated[int, typer.Option(help="of the images, in pixels; 0: what suits the generator")] = 0,
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

    needs: hours and memory of every kind of training in a profile, from some steps of each.
    """
    from unseg_lib.speed import bench as room

    how = {"batch": batch, "images": images, "compiled": compiled, "device": device}
    how |= {"profile": profile, "json": json}
    print(room.bench(what, generator, side=side or room.side_of(generator), **how))
