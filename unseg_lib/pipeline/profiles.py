"""A profile: one YAML file that says what to run; here it becomes a table of stages, each with its parameters.

Keys, all checked: about, shares (a profile whose stages are not done twice), jobs, threads, data (places under the
data root; empty = generated scenes), resources {kind: {mem_gb, minutes, gpu}}, generators {name: parameters of 01b},
segmenters {name: parameters of 10b}, datasets {name: parameters of 02 and 03}, recipes {name: parameters of 02},
victims {name: parameters of 03}, grid [{datasets, recipes, victims, seeds, for, label, set, vary}], pixels [{dataset,
recipe, split, limit}], pages {kind: parameters of its notebook}; extends (a profile that this one changes, see
`_changed`).

A grid entry's `for` says what its runs are for, as "table 4" (without it: their data set, as "data set voc"), by which
they can be asked for alone (`Profile.only`).

A more special value wins: dataset < recipe < victim < grid `set` (then `label` ends the stage's name) < `vary`, which
lists several values of one or more parameters of 03 (each gives a stage, whose name ends in its value).
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path

from unseg_lib.errors import UnsegError, closest, pick
from unseg_lib.pipeline.notebook import project_root
from unseg_lib.pipeline.parameters import check_parameters, notebook_parameters
from unseg_lib.pipeline.stages import BY_TASK, NOTEBOOKS, PAGES, Stage, built_on

PROFILES = "notebooks/profiles"
RESOURCES = {"mem_gb": 4, "minutes": 60, "gpu": 0}
SHRUNK = "shrunk"  # the defence whose victims read images that were poisoned as large as they are
# parameters of notebooks that are planned here, and that no section of a profile sets
PLANNED = {"out", "poisoned", "cache", "jobs", "threads", "data_root", "shard", "shards"}


@dataclass(frozen=True)
class Profile:
    """What the YAML says."""

    name: str
    root: Path  # the checkout; folders of results are relative to it
    source: str  # what it was asked for by: a name, or the whole path, for those who read it in another folder
    about: str = ""
    shares: str = ""  # the profile whose stages are taken where this one plans the same
    jobs: int = 1
    threads: int = 1
    data: list = field(default_factory=list)
    resources: dict = field(default_factory=dict)
    generators: dict = field(default_factory=dict)
    segmenters: dict = field(default_factory=dict)
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
        """The table of runs: every stage by its key, what is needed first coming first."""
        # tables need only what they read: images that were deleted to save space are not made again for them
        here = {"results": self.results.as_posix()}
        tables = self._stage("tables", "", here, [*self._victims(self.grid), *self._pixels()])
        wanted = {kind: given | (here if "results" in self._known(kind) else {}) for kind, given in self.pages.items()}
        pages = [self._stage(kind, "", given, [tables]) for kind, given in wanted.items()]
        return built_on([tables, *pages, *(self._stage("segmenter", *named) for named in self.segmenters.items())])

    def _notebook(self, kind: str, task: str = "") -> Path:
        name = BY_TASK.get(task, NOTEBOOKS[kind]) if kind == "victim" else NOTEBOOKS[kind]
        return self.root / "notebooks" / f"{name}.ipynb"

    def _known(self, kind: str, task: str = "") -> set[str]:
        return set(notebook_parameters(self._notebook(kind, task)))

    def _stage(self, kind: str, name: str, parameters: dict, needs: Iterable = (), task: str = "", **names) -> Stage:
        own = Stage(kind, name, self._notebook(kind, task), self.results, parameters, tuple(needs), names)
        theirs = self._shared.get(own.key, own)
        keys = own.values.keys() - {"out", "cache", "jobs"}  # where the files are, and what changes no pixel
        other = [key for key in sorted(keys) if own.values[key] != theirs.values.get(key)]
        if found := ", ".join(f"{key} {own.values[key]!r}, not {theirs.values.get(key)!r}" for key in other):
            raise UnsegError(f"Expected {own.key} as in the shared profile {self.shares}, found {found}; rename it.")
        return theirs

    @cached_property
    def _shared(self) -> dict[str, Stage]:
        """The stages of the profile that this one shares."""
        if not self.shares:
            return {}
        if _read(self.shares, self.root).shares:  # two that share each other would never end
            raise UnsegError(f"Expected a profile that shares nothing in `shares` of {self.name}, found {self.shares}.")
        return {key: stage for key, stage in load_profile(self.shares, self.root).stages.items() if not stage.gathers}

    def only(self, purpose: str) -> dict[str, Stage]:
        """What the grid's entries for a purpose need, by key: their victims and all that these build on."""
        return built_on(self._victims(pick(self.purposes, purpose, f"purpose of profile {self.name}:")))

    @property
    def purposes(self) -> dict[str, list[dict]]:
        """The grid's entries, each of one data set, by what they are for."""
        found = defaultdict(list)
        for entry in self.grid:
            for setting in entry["datasets"]:
                found[entry.get("for") or f"data set {setting}"].append(entry | {"datasets": [setting]})
        return found

    def _victims(self, grid: list[dict]) -> Iterator[Stage]:
        """The job that trains a victim on a recipe, e.g. victim/lung-unseg-unet-s0, for every run of these entries."""
        runs = {}
        for entry in grid:
            lists = [entry[key] for key in ("datasets", "recipes", "victims", "seeds")]
            for setting, recipe, victim, seed, (label, values) in product(*lists, variants(entry)):
                task, noise = self.datasets[setting].get("task", ""), self._noises[setting, recipe]
                # shrunk by the attacker: the images are published as large as they are, and no working copies
                large = SHRUNK in str(values.get("defense", "")).split("+")
                needs, poisoned = self._poisoned(setting, recipe, large)
                known = self._known("victim", task)
                parameters = {"dataset": setting} | {k: v for k, v in self.datasets[setting].items() if k in known}
                parameters |= {"victim": victim} | self.victims[victim] | values | poisoned
                parameters |= {"working_size": []} if large and "working_size" in known else {}
                parameters |= {"poison": recipe, "eps": noise["eps"], "eps_bg": noise["eps_bg"], "seed": seed}
                # single classes that are protected are scored on their own
                if noise["protect"] not in ("all", "things", "stuff") and "protected" in known:
                    parameters.setdefault("protected", noise["protect"])
                names = {"setting": setting, "recipe": recipe, "victim_key": victim, "label": "-".join(label)}
                name = "-".join([setting, recipe, victim, *label, f"s{seed}"])
                stage = self._stage("victim", name, parameters, needs, task, **names, seed=seed)
                if runs.setdefault(name, stage).values != stage.values:
                    raise UnsegError(f"Expected one meaning of {stage.key}, found two in the grid; give one a label.")
        yield from runs.values()

    def _pixels(self) -> Iterator[Stage]:
        for entry in self.pixels:
            setting, recipe = entry["dataset"], entry["recipe"]
            needs, poisoned = self._poisoned(setting, recipe)
            parameters = {"dataset": setting} | self._images(setting, {"dataset", "task", "limit", "working_size"})
            parameters |= {k: v for k, v in entry.items() if k in ("split", "limit")} | poisoned
            yield self._stage("pixels", f"{setting}-{recipe}", parameters, needs, setting=setting, recipe=recipe)

    def _poisoned(self, setting: str, recipe: str, large: bool = False) -> tuple[list[Stage], dict]:
        """The job that writes the poisoned copy of a data set, and the parameter that names the copy's folder; neither
        where a recipe leaves the images alone. Entries that differ by their victims' task or size alone have one copy,
        named after the first of them. large: of the files as they are, not of working copies.
        """
        chosen, noise = self.recipes[recipe], self._noises[setting, recipe]
        if chosen.get("poison", "clean") == "clean" and not {"gray", "file_format"} & set(chosen):
            return [], {}
        first = next(one for one in self.datasets if self._noises[one, recipe] == noise)
        parameters = {"dataset": first} | self._images(first, self._known("poison")) | chosen
        parameters |= {"working_size": []} if large else {}
        parameters |= {"cache": (self.results / "noise").as_posix(), "jobs": self.threads}
        name, needs = chosen.get("generator"), []
        if name in self.generators:
            needs = [self._stage("generator", name, self.generators[name])]
            parameters["generator"] = (needs[0].folder / "generator.safetensors").as_posix()
        name = f"{first}-{recipe}{'-large' * large}"
        stage = self._stage("poison", name, parameters, needs, setting=first, recipe=recipe)
        return [stage], {"poisoned": (stage.folder / "dataset").as_posix()}

    @cached_property
    def _noises(self) -> dict[tuple[str, str], dict]:
        """The parameters of 02 for every recipe on every data set, defaults included; no noise has budget 0."""
        found, known = {}, self._known("poison")
        for setting, recipe in product(self.datasets, self.recipes):
            given = {"dataset": setting} | self._images(setting, known) | {"poison": "clean"} | self.recipes[recipe]
            values = check_parameters(self._notebook("poison"), given)
            found[setting, recipe] = values | ({"eps": 0.0, "eps_bg": 0.0} if values["poison"] == "clean" else {})
        return found

    def _images(self, setting: str, known: set[str]) -> dict:
        """The parameters of a data set for a notebook that reads its images with label maps, whatever the task."""
        own = {k: v for k, v in self.datasets[setting].items() if k in known}
        if own.get("task") in BY_TASK:
            own["task"] = "object" if own["task"] == "interactive" else "semantic"
        return own


KEYS = Profile.__dataclass_fields__.keys() - {"name", "root", "source"}  # of the YAML


def variants(entry: dict) -> Iterator[tuple[list[str], dict]]:
    """What a grid entry sets, once for every combination of what it varies: end of the stage's name, values.

    >>> next(variants({"vary": {"defense": ["jpeg quality=50"], "clean_fraction": [0.2]}}))
    (['jpeg-quality-50', 'clean_fraction-0.2'], {'defense': 'jpeg quality=50', 'clean_fraction': 0.2})
    """
    varied, label = entry.get("vary", {}), [entry["label"]] if entry.get("label") else []
    for values in product(*varied.values()):
        chosen = dict(zip(varied, values))
        ends = [value if isinstance(value, str) else f"{key}-{value}" for key, value in chosen.items()]
        yield label + [re.sub(r"[^A-Za-z0-9._]+", "-", end) for end in ends], entry.get("set", {}) | chosen


def load_profile(name_or_path: str | Path, root: Path | None = None) -> Profile:
    """Read a profile, a name in notebooks/profiles or the path of a YAML file.

    Raises `UnsegError` on the first misspelt key, unknown name or ill-typed value.
    """
    profile = _read(name_or_path, root or project_root())
    for key, shape in _shape(profile).items():
        _check(getattr(profile, key), shape, key, f"profile {profile.name}")
    if any(("set" in entry) != ("label" in entry) for entry in profile.grid):
        found = f"in grid of profile {profile.name}"
        raise UnsegError(f"Expected `set` and `label` together {found}: the label names what was set.")
    profile.stages  # noqa: B018 - computing them checks every parameter
    return profile


def profile_of(results: str | Path) -> Profile | None:
    """The profile whose results a folder holds: the one of its name; None where there is none."""
    name = Path(results).resolve().name
    return load_profile(name) if (project_root() / PROFILES / f"{name}.yaml").is_file() else None


def _read(name_or_path: str | Path, root: Path, above: tuple[str, ...] = ()) -> Profile:
    """A profile whose keys are known, and nothing else of it yet; above: names of those that extend it."""
    import yaml

    path, source = Path(name_or_path).absolute(), str(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        source = str(path)
    else:
        path = pick({file.stem: file for file in (root / PROFILES).glob("*.yaml")}, source, "profile")
    if not path.is_file():
        raise UnsegError(f"Expected a profile at {path}, found no such file.")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UnsegError(f"Expected YAML in {path}, found {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UnsegError(f"Expected keys such as grid: in {path}, found {type(content).__name__}.")
    if base := content.pop("extends", ""):
        _check(base, str, "extends", path)
        if base in (above := (*above, path.stem)):
            raise UnsegError(f"Expected another profile in `extends` of {path.stem}, found {base}, which extends it.")
        content = _changed(vars(_read(base, root, above)), content, f"{path}, which extends {base}")
    _check(content, dict.fromkeys(KEYS), "", path)
    return Profile(path.stem, root, source, **content)


def _changed(base: dict, changes: dict, where: str) -> dict:
    """A profile's content with changes: of a section the named entries get other values under their keys, "*" first,
    which means every entry; anything else is replaced.
    """
    found = {key: base[key] for key in KEYS}
    for key, change in changes.items():
        if not isinstance(change, dict) or not isinstance(found.get(key), dict | list):
            found[key] = change
            continue
        old = found[key] if isinstance(found[key], dict) else {f"{i + 1}.": one for i, one in enumerate(found[key])}
        for name in change:
            pick({"*": None} | old, name, f"entry of {key} in {where}:")
        new = {name: one | change.get("*", {}) | change.get(name, {}) for name, one in old.items()}
        found[key] = new if isinstance(found[key], dict) else list(new.values())
    return found


def _shape(profile: Profile) -> dict:
    """What a profile may say, in the terms of `_check`."""
    sets = profile.datasets.values() if isinstance(profile.datasets, dict) else ()
    tasks = {"", *(str(entry.get("task")) for entry in sets if isinstance(entry, dict))}
    poison = profile._known("poison") - PLANNED
    victim = set().union(*(profile._known("victim", task) for task in tasks)) - PLANNED
    pages = [profile._known(kind) for kind in profile.pages or () if kind in PAGES]
    settings = dict.fromkeys(victim - {"dataset", "task", "limit", "seed", "poison", "eps", "eps_bg"})
    names = {key: set(map(str, getattr(profile, key) or ())) for key in ("datasets", "recipes", "victims")}
    grid = {f"{key}!": [names[key]] for key in names} | {"seeds!": [None], "for": str, "label": str, "set": settings}
    return {
        **{"about": str, "shares": str, "jobs": 1, "threads": 1, "data": [str]},
        "resources": {kind: {"mem_gb": 1, "minutes": 1, "gpu": 0} for kind in NOTEBOOKS},
        "generators": {"*": dict.fromkeys(profile._known("generator") - {"out", "data_root"})},
        "segmenters": {"*": dict.fromkeys(profile._known("segmenter") - PLANNED) if profile.segmenters else {}},
        "datasets": {"*": dict.fromkeys((poison | victim) - {"seed", "poison", "victim"}) | {"task": str}},
        "recipes": {"*": dict.fromkeys(poison - {"dataset", "task", "limit", "split"}) | {"generator": str}},
        "victims": {"*": settings},
        "grid": [grid | {"vary": {key: [None] for key in settings}}],
        "pixels": [{"dataset!": names["datasets"], "recipe!": names["recipes"], "split": None, "limit": None}],
        "pages": dict.fromkeys(PAGES, dict.fromkeys(set().union(*pages) - PLANNED - {"results"})),
    }


def _check(value: object, shape: object, key: str, where: str | Path) -> None:
    """Raise `UnsegError` unless what stands under `key` has this shape: None (anything), str (a text), a set (one of
    these names), a number (a whole number from there on), [shape] (a list of these) or {key: shape} (keys, of which
    those with a ! are needed; "*" is any name).
    """
    place = f"{key} of {where}" if key else str(where)
    found = f"for {place}, found {value!r}"
    if isinstance(shape, int) and (type(value) is not int or value < shape):
        raise UnsegError(f"Expected a whole number from {shape} {found}; write one.")
    if (shape is str or isinstance(shape, set)) and not isinstance(value, str):
        raise UnsegError(f"Expected one text {found}; write one, a number in quotes.")
    if isinstance(shape, set):
        pick(dict.fromkeys(shape), value, f"name under {place}:")
    if isinstance(shape, list):
        if not isinstance(value, list):
            raise UnsegError(f"Expected a list {found}; write [{value}].")
        for item in value:
            _check(item, shape[0], key, where)
    if isinstance(shape, dict):
        needed = [name[:-1] for name in shape if name.endswith("!")]
        if not isinstance(value, dict) or not set(needed) <= set(value):
            raise UnsegError(f"Expected {'the keys ' + ', '.join(needed) if needed else 'keys'} {found}.")
        known = {name.removesuffix("!"): inner for name, inner in shape.items()}
        for name, item in value.items():
            _check(name, str, f"a name under {key}", where)
            if name not in known and "*" not in known:
                raise UnsegError(f"Unknown key '{name}' in {place}; {closest(name, sorted(known))}")
            _check(item, known.get(name, known.get("*")), f"{key}.{name}", where)
