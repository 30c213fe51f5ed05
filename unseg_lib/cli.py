"""The command line: `unseg doctor | data | run | reproduce | protect | report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from unseg_lib.errors import UnsegError

app = typer.Typer(
    help="Reproduce UnSeg: unlearnable examples against image segmentation.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Data sets: what there is, downloading, checking.", no_args_is_help=True)
app.add_typer(data_app, name="data")

Root = Annotated[str, typer.Option("--data", help="data root (default: UNSEG_DATA, else data/)")]


def main() -> None:
    """Run a command; an `UnsegError` is one sentence on stderr and exit code 2."""
    try:
        app()
    except UnsegError as error:
        print(error, file=sys.stderr)
        sys.exit(2)


@app.command()
def doctor(data: Root = "") -> None:
    """Say what this machine has: versions, processor, GPUs, data sets."""
    from unseg_lib.datasets import data_root
    from unseg_lib.pipeline.profiles import load_profile
    from unseg_lib.pipeline.provenance import provenance
    from unseg_lib.pipeline.reproduce import missing_data

    found = provenance()
    for name, version in found["versions"].items():
        print(f"{name:30} {version}")
    print(f"{'processor':30} {found['cpu']}, {found['cores']} cores")
    print(f"{'GPUs':30} {', '.join(found['gpus']) or 'none'}")
    root = data_root(data or None)
    missing = missing_data(load_profile("small"), root)
    print(f"{'data root':30} {root}")
    print(f"{'data of profile small':30} {'missing: ' + ', '.join(missing) if missing else 'complete'}")


@data_app.command("list")
def data_list() -> None:
    """List the data sets: size, licence, how to get each."""
    from unseg_lib.datasets.download import list_sets

    list_sets()


@data_app.command("get")
def data_get(name: str, data: Root = "") -> None:
    """Download a data set, checked and resumable, or say how to get it by hand."""
    from unseg_lib.datasets import data_root
    from unseg_lib.datasets.download import get

    get(name, data_root(data or None))


@data_app.command("check")
def data_check(name: str, data: Root = "") -> None:
    """Check that a data set is complete and readable."""
    from unseg_lib.datasets import data_root
    from unseg_lib.datasets.download import check

    check(name, data_root(data or None))


@app.command()
def run(
    notebook: Path,
    parameter: Annotated[list[str], typer.Option("--parameter", "-p", help="name=value, as often as needed")] = [],  # noqa: B006
    out: Annotated[str, typer.Option(help="folder of the result (default: the notebook's)")] = "",
    threads: Annotated[int, typer.Option(help="CPU threads; 0: the machine's default")] = 0,
) -> None:
    """Run one notebook, strictly: a misspelt or ill-typed parameter is refused before anything runs."""
    from unseg_lib.pipeline.notebook import run_notebook

    given = read_parameters(notebook, parameter)
    folder = run_notebook(notebook, _out(notebook, out, given), given, threads=threads)
    print(f"Result: {folder}")


def _out(notebook: Path, out: str, given: dict) -> str:
    """Where the result goes: --out, else -p out=..., else what the notebook says."""
    from unseg_lib.pipeline.parameters import notebook_parameters

    named = given.pop("out", None)
    known = notebook_parameters(notebook)
    if "out" not in known:
        raise UnsegError(f'Expected a parameter `out: str = "results/..."` in {notebook}, found none; add it.')
    return out or named or known["out"].default


def read_parameters(notebook: Path, given: list[str]) -> dict:
    """Turn ["eps=4", ...] into values of the types the notebook declares."""
    from unseg_lib.errors import closest
    from unseg_lib.pipeline.parameters import notebook_parameters, parse_value

    known, values = notebook_parameters(notebook), {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UnsegError(f"Expected -p name=value, found '{text}'.")
        if name not in known:
            raise UnsegError(f"Unknown parameter '{name}' of {notebook.name}; {closest(name, sorted(known))}")
        values[name] = parse_value(name, known[name].type, value)
    return values


@app.command()
def stage(
    profile: str,
    key: Annotated[str, typer.Argument(help="kind/name, e.g. victim/lung-unseg-unet-s0")],
    threads: int = 0,
    gpus: int = 0,
) -> None:
    """Run one stage of a profile (what the Snakefile calls)."""
    from unseg_lib.errors import pick
    from unseg_lib.pipeline.profiles import load_profile

    pick(load_profile(profile).stages, key, f"stage of profile {profile}:").run(threads, gpus)


@app.command()
def reproduce(
    profile: Annotated[str, typer.Option(help="smoke, small or paper (default: small where its data is)")] = "",
    data: Root = "",
    jobs: Annotated[int, typer.Option(help="notebooks side by side; 0: the profile's")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", "-n", help="only list what would be done")] = False,
) -> None:
    """Run a whole profile up to its report; the same command again goes on where it stopped."""
    from unseg_lib.pipeline.reproduce import reproduce as run_all

    run_all(profile, data, jobs, dry_run)


@app.command()
def protect(
    images: Path,
    masks: Annotated[Path, typer.Option(help="masks with the pictures' names; non-zero = protect")],
    out: Annotated[Path, typer.Option(help="folder for the protected pictures (PNG)")],
    eps: Annotated[float, typer.Option(help="budget inside the mask, in 1/255")] = 8,
    eps_bg: Annotated[float, typer.Option(help="budget outside the mask, in 1/255")] = 2,
    generator: Annotated[str, typer.Option(help="small, conv, or a .safetensors file")] = "small",
) -> None:
    """Protect pictures with the shipped generator; the written files keep the budget at every pixel."""
    from unseg_lib.protect import protect_folder

    rows = protect_folder(images, masks, out, eps=eps, eps_bg=eps_bg, generator=generator)
    print(f"Protected pictures: {len(rows)} in {out}, with the noise of each measured in {out / 'protected.csv'}")


@app.command()
def report(
    results: Path,
    readme: Annotated[Path | None, typer.Option(help="also put the results table into this file")] = None,
) -> None:
    """Write RESULTS/report.html: one file with tables, curves, pictures and provenance."""
    from unseg_lib.reporting.readme import write_results
    from unseg_lib.reporting.report import write_report

    print(f"Report: {write_report(results)}")
    if readme:
        write_results(readme, results)


@app.command()
def publish(results: Path) -> None:
    """Take the data sets' pictures out of executed notebooks and report, so that RESULTS may be passed on."""
    from unseg_lib.reporting.publish import publish as take_out

    print(f"Without pictures: {take_out(results)}")


if __name__ == "__main__":
    main()
