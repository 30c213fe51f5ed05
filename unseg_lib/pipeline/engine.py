"""The main command: choose the profile, then let Snakemake do what is not done yet."""

import os
import subprocess
import sys
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.pipeline.notebook import at_rest, locked, project_root
from unseg_lib.pipeline.profiles import Profile, load_profile
from unseg_lib.pipeline.stages import NOTEBOOKS


def reproduce(profile: str = "", data: str = "", jobs: int = 0, dry_run: bool = False) -> Path:
    """Run a profile (default: as `choose` says) up to its report; return the report's path.

    `data`: the data root (default: UNSEG_DATA, else data/); `jobs`: notebooks side by side (default: the profile's).
    The same command again goes on where a killed one stopped.
    """
    from unseg_lib.datasets import data_root

    if jobs < 0:
        raise UnsegError(f"Expected 1 or more jobs, or 0 for the profile's number, found {jobs}; name one with --jobs.")
    root, folder = project_root(), data_root(data)
    chosen = choose(profile, folder, root)
    # generated scenes are written: into the checkout, never into a folder of real data
    os.environ["UNSEG_DATA"] = str((folder if chosen.data else root / "data").resolve())
    if (missing := missing_data(chosen, folder)) and not dry_run:
        said = f"get it with {how_to_get(missing)}, or name another folder with DATA= (--data)."
        raise UnsegError(f"Expected {', '.join(missing)} under {folder} for profile {chosen.name}, found none; {said}")
    with at_rest(root / chosen.results) if dry_run else locked(root / chosen.results):
        status = subprocess.run(snakemake_command(chosen, jobs, dry_run), cwd=root, check=False).returncode
    if status:
        raise UnsegError("The run stopped before its end (the reason is above); the same command goes on from there.")
    if not dry_run:
        print(f"Report: {chosen.results / 'report.html'}")
    return chosen.results / "report.html"


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


def missing_data(profile: Profile, folder: Path) -> list[str]:
    return [name for name in profile.data if not (folder / name).exists()]


def how_to_get(places: list[str]) -> str:
    """The commands that fetch what belongs at these places, and the list of sets where one has no command."""
    from unseg_lib.datasets import sources

    named = {source.place: name for name, source in sources().items()}
    commands = [f"`unseg data get {named[place]}`" if place in named else "`unseg data list`" for place in places]
    return ", ".join(dict.fromkeys(commands))


def snakemake_command(profile: Profile, jobs: int, dry_run: bool) -> list[str]:
    """The engine's command line. Its own lock, which a kill leaves behind, is replaced by ours, which dies with us."""
    from unseg_lib.runtime import visible_gpus

    cores = (jobs or profile.jobs) * profile.threads
    # without a GPU the count must not hold jobs back
    gpus = max(len(visible_gpus()) or cores, *(profile.resources_of(kind)["gpu"] for kind in NOTEBOOKS))
    return [
        *(sys.executable, "-m", "snakemake", "--cores", str(cores), "--config", f"profile={profile.source}"),
        *("--resources", f"gpu={gpus}", "--nolock", "--latency-wait", "10"),
        *("--rerun-triggers", "mtime", "--rerun-incomplete"),
        *(["--dry-run"] if dry_run else ["--quiet", "host", "reason"]),
    ]
