"""One stage = one notebook with its parameters = one folder of results."""

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.pipeline.gpus import own_gpu
from unseg_lib.pipeline.notebook import fingerprint, is_done, run_notebook
from unseg_lib.pipeline.parameters import check_parameters
from unseg_lib.pipeline.results import collect

NOTEBOOKS = {
    "generator": "01_train_generator.ipynb",
    "poison": "02_poison_dataset.ipynb",
    "victim": "03_train_victim.ipynb",
    "tables": "04_results.ipynb",
    "pixels": "06_pixel_distributions.ipynb",
    "defenses": "05_defenses.ipynb",
    "poisons": "07_poisons.ipynb",
    "mixture": "08_mixed_data.ipynb",
    "ablations": "11_ablations.ipynb",
}
# of the victims' tasks that do not learn label maps; the others run in NOTEBOOKS["victim"]
BY_TASK = {
    "instance": "03b_instances.ipynb",
    "panoptic": "03b_instances.ipynb",
    "detection": "03b_instances.ipynb",
    "interactive": "03c_interactive.ipynb",
}
# one of each at most; they read rows.csv, so the tables come before them
PAGES = ("defenses", "poisons", "mixture", "ablations")
# they show what others found, so they are outdated as soon as one of those is gone
GATHERERS = ("tables", *PAGES)
# files that later stages read and that are not committed: without them a stage is not done
PRODUCTS = {"generator": ("generator.safetensors",), "poison": ("dataset/manifest.csv",)}


@dataclass(frozen=True)
class Stage:
    """`key` is "kind/name" ("victim/lung-unseg-unet-s0"); `needs` are the stages it builds on."""

    kind: str
    name: str
    notebook: Path
    results: Path  # results/<profile>
    parameters: dict
    needs: tuple["Stage", ...] = ()

    @property
    def key(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind

    @property
    def folder(self) -> Path:
        return self.results / self.key

    def seen_from(self, results: Path) -> str:
        """Its folder as read from a profile's results: "victim/x", or "../small/victim/x" where it is shared."""
        return Path(os.path.relpath(self.folder, results)).as_posix()

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the notebook, the parameters, or anything the stage builds on."""
        return fingerprint(self.notebook, self.values, self._inputs)

    @cached_property
    def values(self) -> dict:
        """All parameters, the notebook's defaults included; raises `UnsegError` on an unknown or ill-typed one."""
        try:
            return check_parameters(self.notebook, self.parameters | {"out": self.folder.as_posix()})
        except UnsegError as error:
            raise UnsegError(f"{self.key}: {error}") from error

    @property
    def _inputs(self) -> tuple[str, ...]:
        return tuple(stage.fingerprint for stage in self.needs)

    @property
    def products(self) -> tuple[str, ...]:
        return PRODUCTS.get(self.kind, ())

    @property
    def marker(self) -> str:
        """The file Snakemake waits for: its name holds the fingerprint, so an outdated one does not count."""
        return (self.folder / f".done-{self.fingerprint}").as_posix()

    def done(self) -> bool:
        if self.kind in GATHERERS and not all(stage.done() for stage in self.needs):
            return False
        return is_done(self.folder, self.fingerprint, self.products)

    def settle(self) -> bool:
        """Make the marker say whether the stage is done; return that."""
        done = self.done()
        if not done and self.kind in GATHERERS:
            (self.folder / ".done").unlink(missing_ok=True)  # it would count again once the others are back
        for marker in self.folder.glob(".done-*"):
            if not done or marker != Path(self.marker):
                marker.unlink(missing_ok=True)
        if done:
            Path(self.marker).touch()
        return done

    def run(self, threads: int = 0, gpus: int = 0) -> None:
        """Do the stage unless it is done. `gpus` = 1 asks for a GPU of its own where there are several."""
        waiting = [stage.key for stage in self.needs if not stage.done()]
        if waiting and not self.done():
            raise UnsegError(f"Expected {', '.join(waiting)} to be done before {self.key}; run `unseg reproduce`.")
        if self.kind == "tables":
            collect(self.results, [one.seen_from(self.results) for one in self.needs if one.kind == "victim"])
        with own_gpu(self.results, gpus) as environment:
            os.environ.update(environment)
            run_notebook(
                *(self.notebook, self.folder, self.parameters),
                inputs=self._inputs,
                products=self.products,
                threads=threads,
            )
        self.settle()
