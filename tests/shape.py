"""`make shape`: how large the project is and how its parts hang together, beside the limits it keeps to.

    python tests/shape.py [ROOT]      exit code 1 where a limit is exceeded

Imports are read with `ast`, those inside of functions, too; those for type checkers only do not count. A name that a
package's `__init__` passes on, also lazily, is an import of the file that it is from.
"""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# who may import whom: a row only what is in rows below it; packages of one row know each other if no cycle comes of it
LAYERS = (
    {"cli"},
    {"pipeline", "reporting", "speed", "protection", "inspection"},
    {"evaluation", "victims", "poisons", "defenses"},
    {"method", "datasets", "pretrained"},
    {"images", "masks", "outlines", "files", "runtime", "seeds", "errors", "options", "torchvision_cpu", "unseg_lib"},
)
# what it may be; the aims are 12,500 lines of library, 600 of speed and 11,000 of tests: lower these on the way there
LIMITS = {
    "lines of unseg_lib": 16_383,
    "files of unseg_lib": 105,
    "lines of reporting": 1_200,
    "lines of protection": 1_400,
    "lines of speed": 599,
    "import cycles of files": 0,
    "import cycles of packages": 0,
    "imports upwards": 0,
    "lines of tests": 14_196,
    "files in results": 100,
    "MB in results": 25,
    "words of README": 1_000,
}


def lines_of(files: list[Path]) -> int:
    return sum(len(file.read_text().splitlines()) for file in files)


def imports(tree: ast.AST, module: str, package: bool) -> set[tuple[str, str]]:
    """What a file imports, as (module, name), name "" for the module itself."""
    found, waiting = set(), [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            above = module.split(".")[: len(module.split(".")) - node.level + package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found |= {(base, alias.name) for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def passed_on(tree: ast.AST, package: str) -> dict[str, str]:
    """The names that a package's `__init__` gets from its files, by lazy_loader or not: name -> module."""
    found = {name: base for base, name in imports(tree, package, True) if base.startswith(f"{package}.")}
    for call in ast.walk(tree):
        for keyword in call.keywords if isinstance(call, ast.Call) else ():
            if keyword.arg == "submod_attrs":
                for file, names in zip(keyword.value.keys, keyword.value.values):
                    words = " ".join(node.value for node in ast.walk(names) if isinstance(node, ast.Constant)).split()
                    found |= dict.fromkeys(words, f"{package}.{file.value}")
    return found


def graph(root: Path) -> dict[str, set[str]]:
    """Every module of unseg_lib with the modules of unseg_lib that it imports."""
    parts = {file: file.relative_to(root).with_suffix("").parts for file in (root / "unseg_lib").rglob("*.py")}
    files = {".".join(words).removesuffix(".__init__"): file for file, words in parts.items()}
    trees = {module: ast.parse(file.read_text()) for module, file in files.items()}
    packages = {module: passed_on(trees[module], module) for module in files if files[module].name == "__init__.py"}
    found = {}
    for module, tree in trees.items():
        found[module] = set()
        for base, name in imports(tree, module, module in packages):
            # a file of a package is imported as itself; only what the face holds needs the face
            targets = {f"{base}.{name}"} & files.keys() or {base, packages.get(base, {}).get(name)}
            found[module] |= targets & (files.keys() - {module})
    return found


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The nodes of a cycle, where there is one."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return [sorted(set(error.args[1]))]
    return []


def part_of(module: str) -> str:
    """unseg_lib.pipeline.stages -> pipeline, unseg_lib -> unseg_lib"""
    return [*module.split("."), module][1] if module != "unseg_lib" else module


def between_packages(edges: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same for packages; the face of the library, unseg_lib/__init__, is nobody's layer."""
    found: dict[str, set[str]] = {}
    for module, others in edges.items():
        if module != "unseg_lib":
            found.setdefault(part_of(module), set()).update({part_of(other) for other in others} - {part_of(module)})
    return found


def upwards(edges: dict[str, set[str]]) -> list[str]:
    """Packages that import one of a layer above their own; unknown ones are below all others."""
    layer = {part: depth for depth, parts in enumerate(LAYERS) for part in parts}
    pairs = [(part, other) for part, others in edges.items() for other in sorted(others)]
    return [f"{a} -> {b}" for a, b in pairs if layer.get(a, len(LAYERS)) > layer.get(b, len(LAYERS))]


def shape(root: Path) -> dict[str, float | list[str]]:
    """Every measure of `LIMITS`: its value, or what is counted."""
    library, asked = sorted((root / "unseg_lib").rglob("*.py")), ["git", "-C", root, "ls-files", "-z", "results"]
    committed = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.split("\0")
    results = [root / name for name in committed if name and (root / name).is_file()]
    found = {"lines of unseg_lib": lines_of(library), "files of unseg_lib": len(library)}
    for name in ("reporting", "protection", "speed"):
        found[f"lines of {name}"] = lines_of([file for file in library if file.parts[-2] == name])
    edges = graph(root)
    found["import cycles of files"] = [" <-> ".join(group) for group in cycles(edges)]
    found["import cycles of packages"] = [" <-> ".join(group) for group in cycles(between_packages(edges))]
    found["imports upwards"] = upwards(between_packages(edges))
    found["lines of tests"] = lines_of(sorted((root / "tests").rglob("*.py")))
    found["files in results"] = len(results)
    found["MB in results"] = sum(file.stat().st_size for file in results) / 1e6
    found["words of README"] = len((root / "README.md").read_text().split())
    return found


def main(root: Path) -> int:
    beyond = 0
    print(f"{'':28} {'found':>8} {'at most':>8}")
    for name, measured in shape(root).items():
        value, lines = (len(measured), measured) if isinstance(measured, list) else (measured, [])
        beyond += value > LIMITS[name]
        print(f"{name:28} {value:8,.0f} {LIMITS[name]:8,.0f}{'  beyond' if value > LIMITS[name] else ''}")
        print(*(f"    {line}\n" for line in lines), sep="", end="")
    return int(beyond > 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
