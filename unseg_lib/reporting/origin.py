"""Where numbers come from: machines, code and minutes, and what the stages before the victims left behind."""

import os
from collections import Counter
from dataclasses import fields
from pathlib import Path

from unseg_lib.files import read_json
from unseg_lib.method import BilevelConfig
from unseg_lib.reporting.html import Cell, Link, Table
from unseg_lib.reporting.published import deviations


def stages_of(results: Path, kind: str) -> list[tuple[Path, dict]]:
    """The finished stages of a kind, by name: their folder and metrics. Those of a shared profile come first."""
    from unseg_lib.pipeline import profile_of

    profile = profile_of(results)
    stages = profile.stages.values() if profile and profile.shares else ()
    shared = [
        results / one.seen_from(profile.results)
        for one in stages
        if one.kind == kind and one.results != profile.results
    ]
    there = [folder / "metrics.json" for folder in shared if (folder / "metrics.json").exists()]
    return [(path.parent, read_json(path)) for path in there + sorted((results / kind).glob("*/metrics.json"))]


def notebook_link(text: str, folder: Path, results: Path) -> Link:
    """To the executed notebook of a stage, from the report in `results`."""
    return Link(text, f"{os.path.relpath(folder, results)}/run.ipynb")


def generator_tables(results: Path) -> list[tuple[Link, Table]]:
    """Of each trained generator: a link to its notebook, and where it deviates from the published settings."""
    found = []
    for folder, metrics in stages_of(results, "generator"):
        text = f"{folder.name}: {metrics.get('steps', '?')} steps on {metrics.get('images', '?')} images"
        found.append((notebook_link(text, folder, results), deviations_of(read_json(folder / "provenance.json"))))
    return found


def deviations_of(origin: dict) -> Table:
    """Where the training of this provenance deviates from the published settings, with what is known of it today."""
    ran = {"mean_of": "logits"} | origin["parameters"]  # runs from before the choice took that way
    chosen = {field.name: ran[field.name] for field in fields(BilevelConfig)}
    config = BilevelConfig(**(chosen | {"scales": tuple(ran["scales"])}))
    return deviations(config, ran["data"], ran["precision"])


def origin_table(results: Path, rows: list[dict]) -> Table:
    """Hardware, versions, commits and minutes of every stage that the rows stand on, each fact once."""
    origins = [read_json(path) for path in sorted(results.glob("*/*/provenance.json"))]
    origins += [read_json(path) for path in sorted(results.glob("tables/provenance.json"))]
    facts: list[tuple[Cell, ...]] = [("commits", _each([row["commit"][:12] or "none" for row in rows]))]
    dirty = sum(bool(origin.get("dirty")) for origin in origins)
    if origins:
        facts += [
            ("uncommitted changes", f"in {dirty} of {len(origins)} stages" if dirty else "none"),
            ("processors", _each([f"{origin['cpu']}, {origin['cores']} cores" for origin in origins])),
            ("GPUs", _each([", ".join(origin["gpus"]) or "none" for origin in origins])),
            ("devices of the victims", _each([row["device"] for row in rows])),
            ("computed in", _precisions(rows)),
            ("versions", _each([_versions(origin["versions"]) for origin in origins])),
        ]
    facts += [(f"minutes, {kind}", f"{total:.0f}") for kind, total in minutes_of(results).items()]
    return Table(("", "found"), tuple(facts), "ll")


def _precisions(rows: list[dict]) -> str:
    """How many victims were trained in which precision; bf16 is taken only where a device has it."""
    found = Counter({row["notebook"]: row.get("precision") or "" for row in rows}.values())
    names = {"": "precision not recorded", "32": "fp32"}
    return ", ".join(f"{names.get(name, name)}: {count}" for name, count in sorted(found.items(), reverse=True))


def _versions(versions: dict) -> str:
    return ", ".join(
        f"{name} {versions[name]}" for name in ("python", "torch", "torchvision", "numpy") if name in versions
    )


def _each(values: list[str]) -> str:
    """Every value once, in order, separated by semicolons."""
    return "; ".join(dict.fromkeys(values))


def minutes_of(results: Path) -> dict[str, float]:
    """Minutes of all finished stages by kind."""
    kinds = ("generator", "poison", "victim", "pixels")
    totals = {kind: [read_json(p)["minutes"] for p in (results / kind).glob("*/provenance.json")] for kind in kinds}
    return {kind: sum(minutes) for kind, minutes in totals.items() if minutes}
