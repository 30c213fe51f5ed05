"""A profile: one YAML file that says what to run; here it becomes stages, each with its notebook parameters.

Keys, all checked: about, shares (a profile whose stages are not done twice), jobs, threads, data (places under the
data root; empty = generated scenes), resources {kind: {mem_gb, minutes, gpu}}, generators {name: parameters of 01},
datasets {name: parameters of 02 and 03}, recipes {name: parameters of 02}, victims {name: parameters of 03}, grid
[{datasets, recipes, victims, seeds, label, set, vary}], pixels [{dataset, recipe, split, limit}], pages {defenses:
parameters of 05, poisons: of 07, mixture: of 08, ablations: of 11}.

A more special value wins: dataset < recipe < victim < grid `set` (then `label` ends the stage's name) < `vary`, which
lists several values of one or more parameters of 03 (each gives a stage, whose name ends in its value).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from unseg_lib.errors import UnsegError, pick
from unseg_lib.pipeline.checks import KEYS, RESOURCES, check_keys, check_profile
from unseg_lib.pipeline.parameters import check_parameters, notebook_parameters
from unseg_lib.pipeline.stages import BY_TASK, NOTEBOOKS, Stage

# made once for two profiles
SHARED = ("generator", "poison", "victim", "pixels")


@dataclass(frozen=True)
class Profile:
    """What the YAML says. `root` is the checkout; folders of results are relative to it."""

    name: str
    root: Path
    source: str  # what it was asked for by: a name, or the whole path, for those who read it in another folder
    about: str = ""
    shares: str = ""  # the profile whose stages are taken where this one plans the same
    jobs: int = 1
    threads: int = 1
    data: list = field(default_factory=list)
    resources: dict = field(default_factory=dict)
    generators: dict = field(default_factory=dict)
    datasets: dict = field(default_factory=dict)
    recipes: dict = field(default_factory=dict)
    victims: dict = field(default_factory=dict)
    grid: list = field(default_factory=list)
    pixels: list = field(default_factory=list)
    pages: dict = field(default_factory=dict)

    @property
    def results(self) -> Path:
        return Path("results") / self.name

    def resources_of(self, kind: str) -> dict:
        """Memory in GB, minutes and GPUs that one job of this kind asks for."""
        return RESOURCES | self.resources.get(kind, {})

    @cached_property
    def stages(self) -> dict[str, Stage]:
        """Every stage by its key, what is needed first coming first."""
        found: dict[str, Stage] = {}
        for stage in [*self._victims(), *self._pixels()]:
            for part in (*(deep for need in stage.needs for deep in need.needs), *stage.needs, stage):
                found.setdefault(part.key, part)
        # only what the tables read: images that were deleted to save space are not made again for them
        read = tuple(stage for stage in found.values() if stage.kind in ("victim", "pixels"))
        tables = self._stage("tables", "", {"results": self.results.as_posix()}, read)
        return found | {"tables": tables} | {kind: self._page(kind, tables) for kind in self.pages}

    def _notebook(self, kind: str, task: str = "") -> Path:
        name = BY_TASK.get(task, NOTEBOOKS[kind]) if kind == "victim" else NOTEBOOKS[kind]
        return self.root / "notebooks" / name

    def _stage(self, kind: str, name: str, parameters: dict, needs: tuple[Stage, ...] = (), task: str = "") -> Stage:
        own = Stage(kind, name, self._notebook(kind, task), self.results, parameters, needs)
        theirs = self._shared.get(own.key)
        if theirs is None:
            return own
        keys = own.values.keys() - {"out", "cache", "jobs"}  # where the files are, and what changes no pixel
        other = [key for key in sorted(keys) if own.values[key] != theirs.values.get(key)]
        if other:
            found = ", ".join(f"{key} {own.values[key]!r}, not {theirs.values.get(key)!r}" for key in other)
            raise UnsegError(
                f"Expected {own.key} as in profile {self.shares}, which is shared, found {found}; rename it."
            )
        return theirs

    @cached_property
    def _shared(self) -> dict[str, Stage]:
        """The stages of the profile that this one shares."""
        if not self.shares:
            return {}
        other = _read(self.shares, self.root)
        if other.shares:  # before its stages are asked for: two that share each other would never end
            raise UnsegError(
                f"Expected a profile that shares nothing under `shares` of {self.name}, found {self.shares}."
            )
        check_profile(other)
        return {key: stage for key, stage in other.stages.items() if stage.kind in SHARED}

    def _known(self, kind: str, task: str = "") -> set[str]:
        return set(notebook_parameters(self._notebook(kind, task)))

    def _tasks(self) -> set[str]:
        """The tasks of the data sets, "" for those that name none."""
        return {entry.get("task", "") for entry in self.datasets.values() if isinstance(entry, dict)}

    def _victims(self) -> list[Stage]:
        runs = {}
        for entry in self.grid:
            for (dataset, recipe, victim, seed), (label, values) in product(
                product(*(entry[key] for key in KEYS["grid"][:4])), variants(entry)
            ):
                stage = self._victim(dataset, recipe, victim, seed, label, values)
                if stage.key in runs and runs[stage.key].values != stage.values:
                    raise UnsegError(f"Expected one meaning of {stage.key}, found two in the grid; give one a label.")
                runs[stage.key] = stage
        return list(runs.values())

    def _victim(self, dataset: str, recipe: str, victim: str, seed: int, label: list[str], values: dict) -> Stage:
        """The job that trains `victim` on `recipe`, e.g. victim/lung-unseg-unet-s0."""
        noise, poisoned = self._noises[dataset, recipe], self._poisoned(dataset, recipe)
        task = self.datasets[dataset].get("task", "")
        known = self._known("victim", task)
        own = {"dataset": dataset} | {k: v for k, v in self.datasets[dataset].items() if k in known}
        parameters = own | {"victim": victim} | self.victims[victim] | values
        parameters |= {"poison": recipe, "eps": noise["eps"], "eps_bg": noise["eps_bg"], "seed": seed}
        named = noise["protect"] not in ("all", "things", "stuff")  # whose names are the data set's to know
        if named and "protected" in known:
            parameters.setdefault("protected", noise["protect"])
        if poisoned:
            parameters["poisoned"] = (poisoned.folder / "dataset").as_posix()
        name = "-".join([dataset, recipe, victim, *label, f"s{seed}"])
        return self._stage("victim", name, parameters, (poisoned,) if poisoned else (), task)

    @cached_property
    def _noises(self) -> dict[tuple[str, str], dict]:
        """`_noise` of every recipe on every data set: hundreds of victims ask for it."""
        return {each: self._noise(*each) for each in product(self.datasets, self.recipes)}

    def _noise(self, dataset: str, recipe: str) -> dict:
        """The parameters of 02 for one recipe on one data set, its defaults included; no noise has budget 0."""
        given = {"dataset": dataset} | self._poison_parameters(dataset, recipe)
        values = check_parameters(self._notebook("poison"), given)
        return values | ({"eps": 0.0, "eps_bg": 0.0} if values["poison"] == "clean" else {})

    def _poison_parameters(self, dataset: str, recipe: str) -> dict:
        return self._images(dataset, self._known("poison")) | {"poison": "clean"} | self.recipes[recipe]

    def _images(self, dataset: str, known: set[str]) -> dict:
        """The parameters of a data set for a notebook that reads its images with label maps, whatever the task."""
        own = {k: v for k, v in self.datasets[dataset].items() if k in known}
        if own.get("task") in BY_TASK:
            own["task"] = "object" if own["task"] == "interactive" else "semantic"
        return own

    def _poisoned(self, dataset: str, recipe: str) -> Stage | None:
        """The job that writes the poisoned copy of `dataset`; None where a recipe leaves the images alone.

        Entries that differ by their victims' task or size alone have one copy, named after the first of them.
        """
        chosen = self.recipes[recipe]
        if chosen.get("poison", "clean") == "clean" and not {"gray", "file_format"} & set(chosen):
            return None
        parameters = {"dataset": dataset} | self._poison_parameters(dataset, recipe)
        parameters |= {"cache": (self.results / "noise").as_posix(), "jobs": self.threads}
        name, needs = chosen.get("generator"), ()
        if name in self.generators:
            trained = self._stage("generator", name, self.generators[name])
            parameters["generator"] = (trained.folder / "generator.safetensors").as_posix()
            needs = (trained,)
        noise = self._noises[dataset, recipe]
        first = next(one for one in self.datasets if self._noises[one, recipe] == noise)
        return self._stage("poison", f"{first}-{recipe}", parameters, needs)

    def _page(self, kind: str, tables: Stage) -> Stage:
        results = {"results": self.results.as_posix()} if "results" in self._known(kind) else {}
        return self._stage(kind, "", self.pages[kind] | results, (tables,))

    def _pixels(self) -> list[Stage]:
        found = []
        for entry in self.pixels:
            dataset, recipe = entry["dataset"], entry["recipe"]
            poisoned = self._poisoned(dataset, recipe)
            own = self._images(dataset, {"dataset", "task", "limit"})
            parameters = {"dataset": dataset} | own | {k: v for k, v in entry.items() if k in ("split", "limit")}
            if poisoned:
                parameters["poisoned"] = (poisoned.folder / "dataset").as_posix()
            found.append(self._stage("pixels", f"{dataset}-{recipe}", parameters, (poisoned,) if poisoned else ()))
        return found


def variants(entry: dict) -> Iterator[tuple[list[str], dict]]:
    """What a grid entry sets, once for every combination of what it varies: end of the stage's name, values.

    >>> next(variants({"vary": {"defense": ["jpeg quality=50"], "clean_fraction": [0.2]}}))
    (['jpeg-quality-50', 'clean_fraction-0.2'], {'defense': 'jpeg quality=50', 'clean_fraction': 0.2})
    """
    varied = entry.get("vary", {})
    for values in product(*varied.values()):
        chosen = dict(zip(varied, values))
        ends = [value if isinstance(value, str) else f"{key}-{value}" for key, value in chosen.items()]
        label = [entry["label"]] if entry.get("label") else []
        yield label + [re.sub(r"[^A-Za-z0-9._]+", "-", end) for end in ends], entry.get("set", {}) | chosen


def project_root() -> Path:
    """The checkout: the current folder, or where the package was installed from."""
    for folder in (Path.cwd(), Path(__file__).resolve().parent.parent.parent):
        if (folder / "notebooks").is_dir():
            return folder
    raise UnsegError("Expected a checkout of the project here, found no folder notebooks/; change to it first.")


def profile_of(results: str | Path) -> Profile | None:
    """The profile whose results a folder holds: the one of its name; None where there is none."""
    name = Path(results).resolve().name
    known = (project_root() / "notebooks" / "profiles" / f"{name}.yaml").is_file()
    return load_profile(name) if known else None


def load_profile(name_or_path: str | Path, root: Path | None = None) -> Profile:
    """Read and check a profile: a name in notebooks/profiles, or the path of a YAML file."""
    profile = _read(name_or_path, root or project_root())
    check_profile(profile)
    return profile


def _read(name_or_path: str | Path, root: Path) -> Profile:
    """A profile whose keys are known, and nothing else of it yet."""
    import yaml

    path, source = Path(name_or_path).absolute(), str(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        source = str(path)
    else:
        known = sorted(file.stem for file in (root / "notebooks" / "profiles").glob("*.yaml"))
        pick(dict.fromkeys(known), str(name_or_path), "profile")
        path = root / "notebooks" / "profiles" / f"{name_or_path}.yaml"
    if not path.is_file():
        raise UnsegError(f"Expected a profile at {path}, found no such file.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UnsegError(f"Expected YAML in {path}, found {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UnsegError(f"Expected keys such as grid: in {path}, found {type(content).__name__}.")
    check_keys(content, set(Profile.__dataclass_fields__) - {"name", "root", "source"}, str(path))
    return Profile(path.stem, root, source, **content)
