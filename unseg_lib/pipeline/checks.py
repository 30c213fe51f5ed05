"""What a profile may say: its keys, and one sentence about the first that is misspelt, unknown or of the wrong type."""

from typing import TYPE_CHECKING

from unseg_lib.errors import UnsegError, closest, pick
from unseg_lib.pipeline.stages import NOTEBOOKS, PAGES

if TYPE_CHECKING:
    from unseg_lib.pipeline.profiles import Profile

RESOURCES = {"mem_gb": 4, "minutes": 60, "gpu": 0}
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
    for name, default in type(profile).__dataclass_fields__.items():
        value, kind = getattr(profile, name), default.type
        if not isinstance(value, kind) or isinstance(value, bool):
            raise UnsegError(f"Expected {kind.__name__} for '{name}' in profile {profile.name}, found {value!r}.")
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
            if not isinstance(entry, dict):
                raise UnsegError(f"Expected keys under {section}.{name} of profile {profile.name}, found {entry!r}.")
            check_keys(entry, known, f"{section}.{name} of profile {profile.name}")
    check_keys(profile.resources, set(NOTEBOOKS), f"resources of profile {profile.name}")
    for entry in profile.grid:
        _check_entry(profile, entry, KEYS["grid"], ("datasets", "recipes", "victims", "seeds"), "grid")
        for part in ("set", "vary"):
            check_keys(entry.get(part, {}), sections["victims"], f"a grid entry's {part} of profile {profile.name}")
    for entry in profile.pixels:
        _check_entry(profile, entry, KEYS["pixels"], ("dataset", "recipe"), "pixels")
    for stage in profile.stages.values():
        stage.values  # noqa: B018 - computing it checks every parameter


def _check_entry(profile: "Profile", entry: dict, known: tuple, required: tuple, where: str) -> None:
    where = f"{where} of profile {profile.name}"
    if not isinstance(entry, dict) or any(key not in entry for key in required):
        raise UnsegError(f"Expected the keys {', '.join(required)} in every entry of {where}, found {entry!r}.")
    check_keys(entry, set(known), where)
    for part in ("set", "vary"):
        if not isinstance(entry.get(part, {}), dict):
            raise UnsegError(f"Expected parameters under {part} in {where}, found {entry[part]!r}.")
    if ("set" in entry) != ("label" in entry):
        raise UnsegError(f"Expected `set` and `label` together in {where}: the label names what was set.")
    lists = {key: entry.get(key, []) for key in ("datasets", "recipes", "victims", "seeds")} | entry.get("vary", {})
    for key, values in lists.items():
        if not isinstance(values, list):
            raise UnsegError(f"Expected a list for {key} in {where}, found {values!r}; write [{values}].")
    singular = [("datasets", entry.get("dataset")), ("recipes", entry.get("recipe"))]
    named = [(key, value) for key in ("datasets", "recipes", "victims") for value in lists[key]]
    for key, value in named + [pair for pair in singular if pair[1] is not None]:
        pick(getattr(profile, key), value, f"name under {key} in {where}:")
