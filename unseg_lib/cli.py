"""The command line: `unseg doctor | data | weights | run | reproduce | protect | inspect | bench | report | ...`."""

import io
import os
import re
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from unseg_lib import pipeline, reporting
from unseg_lib.errors import UnsegError, closest, no_access, pick
from unseg_lib.reporting import commands as reports
from unseg_lib.speed.bench import bench

app = typer.Typer(
    help="Reproduce UnSeg: unlearnable examples against image segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets: what there is, downloading, checking.", no_args_is_help=True)
app.add_typer(data_app, name="data")
weights_app = typer.Typer(help="Weights by others: which there are, downloading, checking.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

Root = Annotated[str, Option("--data", help="data root (default: UNSEG_DATA, else data/)")]
PROFILES = "smoke, small, random-start, systems, transfer, ablations, paper, paper-tiny, or a YAML (default: small)"


def main() -> None:
    """Run a command; an `UnsegError` or a path that cannot be used is one sentence on stderr and exit code 2."""
    warnings.filterwarnings("ignore", module=r"PIL\.")  # what is wrong with an image is told in our own words
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show must not end a run
    try:
        app()
    except (UnsegError, OSError) as error:
        of_the_system = isinstance(error, OSError)
        if of_the_system and error.filename is None:
            raise  # not about a path of the user's
        print(no_access(error) if of_the_system else error, file=sys.stderr)
        sys.exit(2)


@app.command()
def doctor(data: Root = "") -> None:
    """Say what this machine has: versions, processor, GPUs, data sets."""
    from unseg_lib.datasets import data_root
    from unseg_lib.runtime import provenance

    found, root = provenance(), data_root(data)
    missing = ", ".join(pipeline.missing_data(pipeline.load_profile("small"), root))
    told = found["versions"] | {"processor": f"{found['cpu']}, {found['cores']} cores"}
    told |= {"GPUs": ", ".join(found["gpus"]) or "none", "data root": root}
    told |= {"data of profile small": f"missing: {missing}" if missing else "complete"}
    print(*(f"{name:30} {text}" for name, text in told.items()), sep="\n")


@data_app.command("list")
def data_list() -> None:
    """List the data sets: size, licence, how to get each."""
    from unseg_lib.datasets import list_sets

    list_sets()


@data_app.command("get")
def data_get(name: str, data: Root = "") -> None:
    """Download a data set, checked and resumable, or say how to get it by hand."""
    from unseg_lib.datasets import data_root, get

    get(name, data_root(data))


@data_app.command("check")
def data_check(name: str, data: Root = "") -> None:
    """Check that a data set is complete and readable."""
    from unseg_lib.datasets import check, data_root

    check(name, data_root(data))


@weights_app.command("list")
def weights_list(data: Root = "") -> None:
    """List the files: what needs each, address, size, checksum, licence, where to put it."""
    _weights(data).list_weights()


@weights_app.command("get")
def weights_get(name: str, data: Root = "") -> None:
    """Download a file to its place, checked and resumable, or say how to get it by hand."""
    _weights(data).get(name)


@weights_app.command("check")
def weights_check(
    profile: Annotated[str, Option(help="say what this profile, by name or path, lacks: exit code 2 if anything")] = "",
    data: Root = "",
) -> None:
    """Say of each file whether it is there and right."""
    pretrained = _weights(data)
    if not profile:
        return pretrained.check()
    if lacking := pretrained.lacking(one.values for one in pipeline.load_profile(profile).stages.values()):
        print(*(f"{name}: {what}" for name, what in lacking.items()), sep="\n")
        raise UnsegError(f"Expected all weights of profile {profile}, found {len(lacking)} lacking, listed above.")
    print(f"All weights of profile {profile} are here.")


def _weights(data: str):
    from unseg_lib import pretrained

    if data:  # where the errors of all who miss a file look, too
        os.environ["UNSEG_DATA"] = data
    return pretrained


@app.command()
def run(
    notebook: Path,
    parameter: Annotated[list[str], Option("--parameter", "-p", help="name=value, as often as needed")] = [],  # noqa: B006
    out: Annotated[str, Option(help="folder of the result (default: the notebook's)")] = "",
    threads: Annotated[int, Option(help="CPU threads; 0: the machine's default")] = 0,
) -> None:
    """Run one notebook, strictly: a misspelt or ill-typed parameter is refused before anything runs."""
    given, known = read_parameters(notebook, parameter), pipeline.notebook_parameters(notebook)
    if "out" not in known:
        raise UnsegError(f'Expected a parameter `out: str = "results/..."` in {notebook}, found none; add it.')
    default = os.path.relpath(pipeline.project_root(notebook) / known["out"].default)
    folder = pipeline.run_notebook(notebook, out or given.pop("out", default), given, threads=threads)
    print(f"Result: {folder}")


def read_parameters(notebook: Path, given: list[str]) -> dict:
    """Turn ["eps=4", ...] into values of the types the notebook declares.

    A notebook runs in the project's root, but paths are meant from where the user stands: what looks like one by its
    form or the parameter's help, and is there, is passed on as seen from the root.
    """
    known, values, root = pipeline.notebook_parameters(notebook), {}, pipeline.project_root(notebook)
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UnsegError(f"Expected -p name=value, found '{text}'.")
        if name not in known:
            raise UnsegError(f"Unknown parameter '{name}' of {notebook.name}; {closest(name, sorted(known))}")
        values[name] = pipeline.parse_value(name, known[name].type, value)
        a_path = "/" in value or "." in value or re.search(r"\b(file|folder)\b(?!:)", known[name].help)
        if a_path and known[name].type == "str" and name != "out" and value and Path(value).exists():
            here = Path(os.path.abspath(value))
            values[name] = (here.relative_to(root) if here.is_relative_to(root) else here).as_posix()
    return values


@app.command()
def stage(
    profile: str, key: Annotated[str, Argument(help="e.g. victim/lung-unseg-unet-s0")], threads: int = 0, gpus: int = 0
) -> None:
    """Run one stage of a profile (what the Snakefile calls)."""
    pick(pipeline.load_profile(profile).stages, key, f"stage of profile {profile}:").run(threads, gpus)


@app.command()
def reproduce(
    profile: Annotated[str, Option(help=PROFILES)] = "",
    data: Root = "",
    jobs: Annotated[int, Option(help="notebooks side by side; 0: the profile's")] = 0,
    dry_run: Annotated[
        bool, Option("--dry-run", "-n", help="only list what would be done, and what is missing")
    ] = False,
    only: Annotated[str, Option(help="what runs are for, as the profile says: 'table 4' of profile paper")] = "",
) -> None:
    """Run a whole profile up to its report; the same command again goes on where it stopped."""
    rows = pipeline.reproduce(profile, data, jobs, dry_run, only)
    if only in reporting.PURPOSES and not dry_run:
        print(reporting.table(reporting.beside(only.removeprefix("table "), reporting.load(rows.parent))).markdown())


@app.command()
def protect(
    inputs: Annotated[list[str], Argument(help="images, folders (with sub-folders) or quoted patterns")],
    out: Annotated[str, Option(help="folder for the protected copies")],
    masks: Annotated[str | None, Option(help="folder of masks with the images' names, or COCO's json")] = None,
    classes: Annotated[str | None, Option(help="with --masks: only these (numbers of a map, names of a json)")] = None,
    boxes: Annotated[str | None, Option(help="x0,y0,x1,y1 for every image, or a CSV file: image,x0,y0,x1,y1")] = None,
    points: Annotated[str | None, Option(help="x,y;x,y for every image, or a CSV file: image,x,y")] = None,
    segmenter: Annotated[str, Option(help="finds the object without a mask: small, or sam:FILE of SAM")] = "small",
    preview: Annotated[bool, Option("--preview", help="also write the region's outline, below OUT/preview")] = False,
    eps: Annotated[float, Option(help="largest change inside the region, in steps of 255")] = 8,
    eps_bg: Annotated[float, Option(help="largest change outside")] = 2,
    generator: Annotated[str, Option(help="small, colour, grating, vit_b (to get), or a path")] = "small",
    quarters: Annotated[bool, Option("--quarters", help="noise twice as fine, for small objects")] = False,
    format: Annotated[str, Option(help="png, keep (as the original), or jpeg (breaks the budget)")] = "png",
    quality: Annotated[int, Option(help="of JPEG, 1 to 100")] = 95,
    keep_metadata: Annotated[bool, Option(help="keep EXIF, which may hold places and names")] = False,
    rgb: Annotated[bool, Option(help="store gray images as RGB, which keeps all of the noise")] = False,
    overwrite: Annotated[bool, Option(help="replace foreign files and copies of other images in the folder")] = False,
    jobs: Annotated[int, Option(help="threads that read and write; 0: what suits the machine")] = 0,
    shard: Annotated[str | None, Option(help="k/n, k from 0 to n - 1: one of n machines that share the images")] = None,
    device: Annotated[str, Option(help="auto, cpu, cuda or mps")] = "auto",
    batch: Annotated[int, Option(help="images that the generator is given at once; more is for GPUs")] = 1,
    reference: Annotated[bool, Option(help="the slow way of the paper's numbers; pixels differ by a step")] = False,
    compiled: Annotated[bool, Option(help="by torch.compile: minutes first, then faster")] = False,
    dry_run: Annotated[bool, Option("--dry-run", "-n", help="only list what would be written")] = False,
) -> None:
    """Protect images; the originals stay as they are, and lossless copies keep the budget at every pixel.

    Without masks, boxes or points it protects the objects that stand out, at last the whole image.
    """
    from unseg_lib.protection import Batch, Protector, shown, summary

    asked = {"masks": masks, "classes": classes, "boxes": boxes, "points": points, "shard": shard}
    texts = [*(("protect", text) for text in inputs), ("--out", out), *((f"--{name}", asked[name]) for name in asked)]
    if empty := next((name for name, text in texts if text == ""), ""):
        raise UnsegError(f"Expected something behind {empty}, found an empty text; is a variable of the shell not set?")
    files = {"format": format, "quality": quality, "metadata": keep_metadata, "rgb": rgb, "overwrite": overwrite}
    work = Batch(inputs, out, **asked, **files, jobs=jobs, batch=batch, segmenter=segmenter, preview=preview)
    noise = {"eps": eps, "eps_bg": eps_bg, "quarters": quarters}
    protector = Protector(generator, **noise, device=device, reference=reference, compiled=compiled)
    if dry_run:  # which refuses what the run would refuse
        images = [file for file in work.files if file.target]
        planned = [shown(f"{file.path} -> {work.out / file.target}") for file in images]
        print(*planned, f"{len(images)} images", sep="\n")
        return
    rows = work.run(protector)
    print(*map(shown, summary(rows, work.out).splitlines()), sep="\n")
    if left_out := [row for row in rows if row["problem"]]:
        copies = sum(bool(row["written"]) for row in rows)  # the rest are files that are no images
        raise UnsegError(
            f"Protected {copies} of {copies + len(left_out)} images; {len(left_out)} left out, all listed in "
            f"{shown(str(work.out / 'protected.csv'))}, the first one because: {left_out[0]['problem']}"
        )


@app.command()
def inspect(
    original: Path,
    protected: Path,
    image: Annotated[Path | None, Option("--image", "--picture", help="also write the change, tenfold, here")] = None,
    lpips: Annotated[Path | None, Option(help="also LPIPS, with this file of AlexNet's weights")] = None,
) -> None:
    """Compare an original with its protected copy: how much was changed, and how often."""
    from unseg_lib import inspection

    print(inspection.described(inspection.inspect(original, protected, lpips)))
    if image:
        inspection.write_difference(original, protected, image)


for command in (bench, reports.report, reports.compare, reports.pdf, reports.publish, reports.gallery):
    app.command()(command)


if __name__ == "__main__":
    main()
