"""What a profile may say: its keys, and one sentence about the first that is misspelt, unknown or of the wrong type."""

from typing import TYPE_CHECKING

from unseg_lib.errors import UnsegError, closest, pick
from unseg_lib.pipeline.stages import NOTEBOOKS, PAGES

if TYPE_CHECKING:
    from unseg_lib.pipeline.profiles import Profile

RESOURCES = {"mem_gb": 4, "minutes": 60, "gpu": 0}
LEAST = {"jobs": 1, "threads": 1, "mem_gb": 1, "minutes": 1, "gpu": 0}
KEYS = {
    "grid": ("datasets", "recipes", "victims", "seeds", "label", "set", "vary"),
    "pixels": ("dataset", "recipe", "split", "limit"),
}


def check_keys(section: dict, known: set[str], where: str) -> None:
    for key in section:
        if key not in known:
            raise UnsegError(f"Unknown key '{key}' in {where}; {closest(str(key), sorted(known))}")


def check_profile(profile: "Profile") -> None:
    """Raise `UnsegError` on the first misspelt key, unknown name or ill-typed value."""
    _check_fields(profile)
    poison = profile._known("poison")
    victim = set().union(*(profile._known("victim", task) for task in profile._tasks() | {""}))
    planned = {"out", "poisoned", "cache", "jobs", "threads", "data_root", "shard", "shards"}
    sections = {
        "generators": profile._known("generator") - {"out", "data_root"},
        "datasets": (poison | victim) - planned - {"seed", "poison", "victim"},
        "recipes": poison - planned - {"dataset", "task", "limit", "split"},
        "victims": victim - planned - {"dataset", "task", "limit", "seed", "poison", "eps", "eps_bg"},
        "resources": set(RESOURCES),
    }
    check_keys(profile.pages, set(PAGES), f"pages of profile {profile.name}")
    sections["pages"] = set().union(*(profile._known(kind) for kind in profile.pages)) - planned - {"results"}
    for section, known in sections.items():
        for name, entry in getattr(profile, section).items():
            check_keys(entry, known, f"{section}.{name} of profile {profile.name}")
    check_keys(profile.resources, set(NOTEBOOKS), f"resources of profile {profile.name}")
    for kind, entry in profile.resources.items():
        for key, value in entry.items():
            _check_number(value, LEAST[key], f"resources.{kind}.{key} of profile {profile.name}")
    for entry in profile.grid:
        _check_entry(profile, entry, KEYS["grid"], ("datasets", "recipes", "victims", "seeds"), "grid")
        for part in ("set", "vary"):
            check_keys(entry.get(part, {}), sections["victims"], f"a grid entry's {part} of profile {profile.name}")
    for entry in profile.pixels:
        _check_entry(profile, entry, KEYS["pixels"], ("dataset", "recipe"), "pixels")
    for stage in profile.stages.values():
        stage.values  # noqa: B018 - computing it checks every parameter


def _check_fields(profile: "Profile") -> None:
    """The types of the profile's own keys, and of what decides which stages there are."""
    for name, default in type(profile).__dataclass_fields__.items():
        value, kind = getattr(profile, name), default.type
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UnsegError(f"Expected {kind.__name__} for '{name}' in profile {profile.name}, found {value!r}.")
        if kind is int:
            _check_number(value, LEAST[name], f"'{name}' in profile {profile.name}")
    for place in profile.data:
        _check_text(place, f"data of profile {profile.name}")
    for section in ("generators", "datasets", "recipes", "victims", "resources", "pages"):
        for name, entry in getattr(profile, section).items():
            _check_text(name, f"a name under {section} of profile {profile.name}")
            if not isinstance(entry, dict):
                raise UnsegError(f"Expected keys under {section}.{name} of profile {profile.name}, found {entry!r}.")
            for key in ("task", "generator"):
                _check_text(entry.get(key, ""), f"{section}.{name}.{key} of profile {profile.name}")


def _check_number(value: object, least: int, what: str) -> None:
    if type(value) is not int or value < least:
        raise UnsegError(f"Expected a whole number from {least} for {what}, found {value!r}; write one.")


def _check_text(value: object, what: str) -> None:
    if not isinstance(value, str):
        raise UnsegError(f"Expected one text for {what}, found {value!r}; write one, a number in quotes.")


def _check_entry(profile: "Profile", entry: dict, known: tuple, required: tuple, where: str) -> None:
    where = f"{where} of profile {profile.name}"
    if not isinstance(entry, dict) or any(key not in entry for key in required):
        raise UnsegError(f"Expected the keys {', '.join(required)} in every entry of {where}, found {entry!r}.")
    check_keys(entry, set(known), where)
    for part in ("set", "vary"):
        if not isinstance(entry.get(part, {}), dict):
            raise UnsegError(f"Expected parameters under {part} in {where}, found {entry[part]!r}.")
    _check_text(entry.get("label", ""), f"label in {where}")
    if ("set" in entry) != ("label" in entry):
        raise UnsegError(f"Expected `set` and `label` together in {where}: the label names what was set.")
    lists = {key: entry.get(key, []) for key in ("datasets", "recipes", "victims", "seeds")} | entry.get("vary", {})
    for key, values in lists.items():
        if not isinstance(values, list):
            raise UnsegError(f"Expected a list for {key} in {where}, found {values!r}; write [{values}].")
    singular = [(f"{key}s", entry[key]) for key in ("dataset", "recipe") if key in entry]
    named = [(key, value) for key in ("datasets", "recipes", "victims") for value in lists[key]]
    for key, value in named + singular:
        _check_text(value, f"a name under {key} in {where}")
        pick(getattr(profile, key), value, f"name under {key} in {where}:")
