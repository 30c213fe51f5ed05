"""The command `unseg bench`: one measurement as a table; the notebook 09_speed makes all of them in one run."""

from typing import TYPE_CHECKING, Annotated

import typer

from unseg_lib.errors import UnsegError, pick

if TYPE_CHECKING:
    import pandas

KINDS = ("protect", "train", "disk", "memory", "needs", "poisons")
# images of what is to be protected, and samples of the published training (44,320 images, 27 epochs)
COLLECTIONS = {"VOC 2012 aug, train": 10_582, "COCO 2017, train": 118_287, "100 million images": 100_000_000}
SAMPLES = 44_320 * 27
# heading and form of every column, the same in the terminal and in the notebook
TABLES = {
    "protect": "way {rung} | images/s {images_per_second:,.3f} | times as fast {speedup:,.2f} | "
    "% of the peak {peak_share:,.0%} | memory, MB {megabytes:,.0f} | largest difference {largest_difference:,.0f} | "
    "values that differ, % {share_different:,.4%}",
    "train": "way {rung} | surrogate's step, s {surrogate:,.2f} | generator's step, s {generator:,.2f} | "
    "samples/s {samples_per_second:,.3f} | times as fast {speedup:,.2f} | memory, MB {megabytes:,.0f}",
    "disk": "way {way} | images/s {images_per_second:,.2f} | % of the model's {share:,.0%}",
    "scaling": "task {task} | machine {machine} | hours {hours:,.1f} | cost {cost:,.2f}",
    "parts": "part {part} | ms {milliseconds:,.1f} | % of the time {share:,.0%}",
    "profile": "part {part} | % of the time {share:,.0%}",
    "needs": "training {training} | stages {stages:,.0f} | images in a step {batch:,.0f} | "
    "planned {planned_batch:,.0f} | TFLOP a sample {tflop:,.3f} | samples/s {samples_per_second:,.3f} | "
    "hours a stage {hours_a_stage:,.1f} | hours {hours:,.1f} | memory, MB {megabytes:,.0f} |  {problem}",
    "poisons": "poison {poison} | ms/image {milliseconds:,.1f} | images/s {images_per_second:,.0f}",
}


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

    needs: hours and memory of every kind of training in a profile, from some steps of each. poisons: milliseconds of
    those that need no training, on one core.
    """
    import torch

    from unseg_lib.files import write_json
    from unseg_lib.method import LAYOUTS
    from unseg_lib.runtime import choose_device
    from unseg_lib.speed import ladder

    if what not in KINDS:
        raise UnsegError(f"Expected to measure {', '.join(KINDS[:-1])} or {KINDS[-1]}, found '{what}'.")
    if min(side, images - 1, batch) < 0:
        raise UnsegError("Expected a side and a number of images of at least 1, and a batch of at least 0.")
    on, found, given = torch.device(choose_device(device)), {}, side
    side = side or (LAYOUTS[generator].image_size if generator in LAYOUTS and generator != "small" else 256)
    if what == "protect":
        found = ladder.protect_ladder(generator, on, side=side, batch=batch or 2, compiled=compiled)
        peaks = ", ".join(f"{name}: {1e-9 * value:,.0f} GFLOP/s" for name, value in found["peak"].items())
        print(table(found["rows"], "protect").to_string())
        print(f"{1e-9 * found['flop']:,.1f} GFLOP an image; matrix multiplications at best {peaks}")
    elif what == "train":
        config, frozen = pick(ladder.TRAINING, generator, "training")
        print(table(ladder.step_ladder(config, on, frozen=frozen, compiled=compiled), "train").to_string())
    elif what == "disk":
        print(table(ladder.throughput(generator, on, count=images, height=side, width=side), "disk").to_string())
    elif what == "poisons":
        print(table(ladder.poisons(given or 512), "poisons").to_string())
    elif what == "memory":
        found = ladder.memory(generator, on, count=images, height=side, width=side)
        print(*(f"{name:<18}{value:,.0f}" for name, value in found.items()), sep="\n")
    elif what == "needs":
        from unseg_lib.speed.needs import measured_needs

        found = measured_needs(profile, on.type, batch)
        print(found["machine"], table(found["rows"], "needs").to_string(), sep="\n")
    if json and what in ("memory", "needs"):
        write_json(json, found)


def table(rows: list[dict], what: str) -> "pandas.DataFrame":
    """Measurements as a table of texts with the columns of `TABLES`; a number that is unknown is a dash."""
    import pandas

    columns = dict(column.strip().split("{") for column in TABLES[what].split("|"))
    cells = [[_cell("{" + form, row) for form in columns.values()] for row in rows]
    first, *others = (heading.strip() for heading in columns)
    found = pandas.DataFrame([line[1:] for line in cells], [line[0] for line in cells], others)
    return found.rename_axis(columns=first)


def _cell(form: str, row: dict) -> str:
    try:
        return form.format(**row).removesuffix("%")
    except TypeError:  # None has no decimals
        return "–"


def costs(per_second: dict[str, float], prices: dict[str, float], machines: int = 1) -> list[dict]:
    """Rows {"task", "machine", "hours", "cost"} for protecting each of `COLLECTIONS`.

    per_second: images a second of one machine, by its name; prices: of one machine's hour. A cluster of n machines
    takes n times less long for the same money, since images do not depend on each other.
    """
    rows = []
    for task, images in COLLECTIONS.items():
        for name, speed in per_second.items():
            hours = images / speed / 3600
            rows.append({"task": task, "machine": name, "hours": hours / machines, "cost": hours * prices[name]})
    return rows
