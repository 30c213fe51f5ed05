"""The main command: choose the profile, then let Snakemake do what is not done yet."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.files import read_csv
from unseg_lib.pipeline.notebook import at_rest, locked, project_root
from unseg_lib.pipeline.profiles import Profile, load_profile
from unseg_lib.pipeline.results import collect
from unseg_lib.pipeline.stages import NOTEBOOKS, Stage


def reproduce(profile: str = "", data: str = "", jobs: int = 0, dry_run: bool = False, only: str = "") -> Path:
    """Run a profile (default: as `choose` says) up to its report; return the report's path.

    `data`: the data root (default: UNSEG_DATA, else data/); `jobs`: notebooks side by side (default: the profile's);
    `only`: what the runs are for, as "table 4", then nothing else is run and rows.csv is where it ends. A dry run says
    what is missing of data, weights and GPUs. The same command again goes on where a killed one stopped.
    """
    from unseg_lib.datasets import data_root

    if jobs < 0:
        raise UnsegError(f"Expected 1 or more jobs, or 0 for the profile's number, found {jobs}; name one with --jobs.")
    root, folder = project_root(), data_root(data)
    chosen = choose(profile, folder, root)
    # generated scenes are written: into the checkout, never into a folder of real data
    os.environ["UNSEG_DATA"] = str((folder if chosen.data else root / "data").resolve())
    stages = (chosen.only(only) if only else chosen.stages).values()
    places, weights = missing_data(chosen, folder, stages if only else ()), missing_weights(stages, root)
    if dry_run:
        print(*missing(chosen, stages, folder, places, weights), sep="\n", flush=True)
    elif places:
        said = f"get it with {how_to_get(places)}, or name another folder with DATA= (--data)."
        raise UnsegError(f"Expected {', '.join(places)} under {folder} for profile {chosen.name}, found none; {said}")
    elif weights:
        said = f"`unseg weights check --profile {chosen.source}` says how to get each."
        raise UnsegError(f"Expected the weights {', '.join(weights)} for profile {chosen.name}, found none; {said}")
    results = root / chosen.results
    with at_rest(results) if dry_run else locked(results), contextlib.chdir(root):
        status = subprocess.run(snakemake_command(chosen, jobs, dry_run, only), check=False).returncode
        left = [stage.key for stage in stages if not stage.done()] if status else []
        if only and not (dry_run or status):
            gather(chosen, root)
    if status:
        found = f"{len(left)} that are not ({', '.join(left[:3])}{' and more' * (len(left) > 3)})"
        said = f"Expected all of {len(stages)} stages to be done, found {found}."
        raise UnsegError(f"{said} The reason is above; the same command goes on from there.")
    result = chosen.results / ("rows.csv" if only else "report.html")
    if not dry_run:
        print(f"{'Rows' if only else 'Report'}: {result}")
    return result


def gather(profile: Profile, root: Path) -> None:
    """Write rows.csv of what is there; planned rows whose runs are not here, as in a fresh clone, are not given up."""
    with contextlib.chdir(root):
        victims = {one.seen_from(profile.results): one for one in profile.stages.values() if one.kind == "victim"}
        here, rows = {name for name, stage in victims.items() if stage.done()}, profile.results / "rows.csv"
        if here and (not rows.exists() or here >= victims.keys() & {row["stage"] for row in read_csv(rows)}):
            collect(profile.results, profile.stages.values())


def choose(name: str, folder: Path, root: Path) -> Profile:
    """The named profile; without a name `small` where its data is, else say so and take `smoke`."""
    chosen = load_profile(name or "small", root)
    if name or not (missing := missing_data(chosen, folder)):
        return chosen
    print(
        f"The data of profile small is not all under {folder} (missing: {', '.join(missing)}), so this runs "
        "profile smoke on generated scenes; name the data's folder with DATA=... for the real thing."
    )
    return load_profile("smoke", root)


def missing_data(profile: Profile, folder: Path, stages: Collection[Stage] = ()) -> list[str]:
    """The places of a profile that are not below `folder`; with `stages` only those that these need."""
    from unseg_lib.datasets import DATASETS, sources

    lists = [str(stage.values.get("dataset") or stage.values.get("data")).split(",") for stage in stages]
    read = {name.strip().partition("@")[0] for names in lists for name in names}
    read |= {one for name in read & DATASETS.keys() for one in DATASETS[name].of}
    read |= {sources()[name].needs for name in read & sources().keys()} - {""}
    return [name for name in profile.data if not (folder / name).exists() and (not stages or _needed(name, read))]


def _needed(place: str, read: set[str]) -> bool:
    """Whether a place belongs to these data sets: by the longest known beginning; what nobody knows is needed."""
    from unseg_lib.datasets import DATASETS, sources

    known = {one.place: name for name, one in sources().items() if place.startswith(one.place)}
    name = known[max(known, key=len)] if known else ""
    whole = name if name in DATASETS or not known else sources()[name].needs
    return not whole or whole in read


def missing_weights(stages: Collection[Stage], root: Path) -> list[str]:
    """The files of weights that stages name and that no other stage makes, where they are not there."""
    from unseg_lib.pretrained import PATHS, place_of

    made = {stage.folder for stage in stages}
    named = [str(stage.values.get(name, "")) for stage in stages for name in (*PATHS, "generator")]
    files = [name for name in dict.fromkeys(named) if "/" in name and Path(name).parent not in made]
    return [name for name in files if not place_of(root / name).exists()]


def missing(
    profile: Profile, stages: Collection[Stage], folder: Path, places: list[str], weights: list[str]
) -> list[str]:
    """What these stages lack here, a line each for data, weights and GPUs; of the last as many as one job takes."""
    from unseg_lib.runtime import visible_gpus

    found, wanted = len(visible_gpus()), {stage.kind: profile.resources_of(stage.kind)["gpu"] for stage in stages}
    gpus = ", ".join(f"{count} for a {kind}" for kind, count in wanted.items() if count > found)
    data = f"{', '.join(places)} under {folder}; get it with {how_to_get(places)}" if places else "nothing"
    return [
        f"Missing data: {data}",
        f"Missing weights: {', '.join(weights) or 'nothing'}",
        f"Missing GPUs: {f'{gpus}, found {found}' if gpus else 'nothing'}",
    ]


def how_to_get(places: list[str]) -> str:
    """The commands that fetch what belongs at these places, and the list of sets where one has no command."""
    from unseg_lib.datasets import sources

    named = {source.place: name for name, source in sources().items()}
    commands = [f"`unseg data get {named[place]}`" if place in named else "`unseg data list`" for place in places]
    return ", ".join(dict.fromkeys(commands))


def snakemake_command(profile: Profile, jobs: int, dry_run: bool, only: str = "") -> list[str]:
    """The engine's command line. Its own lock, which a kill leaves behind, is replaced by ours, which dies with us."""
    from unseg_lib.runtime import visible_gpus

    cores = (jobs or profile.jobs) * profile.threads
    # without a GPU the count must not hold jobs back
    gpus = max(len(visible_gpus()) or cores, *(profile.resources_of(kind)["gpu"] for kind in NOTEBOOKS))
    return [
        *(sys.executable, "-m", "snakemake", "--cores", str(cores), "--config", f"profile={profile.source}"),
        *([f"only={only}"] if only else []),
        *("--resources", f"gpu={gpus}", "--nolock", "--latency-wait", "10"),
        # a stage that fails holds back those that build on it, not the others of a long night
        *("--rerun-triggers", "mtime", "--rerun-incomplete", "--keep-going"),
        *(["--dry-run"] if dry_run else ["--quiet", "host", "reason"]),
    ]
