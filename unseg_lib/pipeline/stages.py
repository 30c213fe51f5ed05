"""One stage = one notebook with its parameters = one folder of results: a line of a profile's table of runs."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from unseg_lib.errors import UnsegError
from unseg_lib.pipeline.notebook import fingerprint, is_done, marker_of, run_notebook
from unseg_lib.pipeline.parameters import check_parameters
from unseg_lib.pipeline.results import collect

# one of each at most; they read rows.csv, so the tables come before them
PAGES = {"defenses": "05_defenses", "poisons": "07_poisons", "mixture": "08_mixed_data", "ablations": "11_ablations"}
NOTEBOOKS = {"generator": "01b_train_generator", "poison": "02_poison_dataset", "victim": "03_train_victim"}
NOTEBOOKS |= {"segmenter": "10b_train_segmenter", "pixels": "06_pixel_distributions", "tables": "04_results"} | PAGES
# of the victims' tasks that do not learn label maps; the others run in NOTEBOOKS["victim"]
BY_TASK = dict.fromkeys(("instance", "panoptic", "detection"), "03b_instances") | {"interactive": "03c_interactive"}
# what later stages read and is not committed: without it a stage is not done
PRODUCT = {"generator": "generator.safetensors", "segmenter": "segmenter.safetensors", "poison": "dataset/manifest.csv"}


@dataclass(frozen=True)
class Stage:
    """names: which run it is, as the profile calls it: those of setting (the data set), recipe, victim_key, label (what
    else a grid entry sets) and seed that apply. Nobody reads that from the name.
    """

    kind: str
    name: str
    notebook: Path
    results: Path  # results/<profile>
    parameters: dict
    needs: tuple["Stage", ...] = ()  # the stages it builds on
    names: dict = field(default_factory=dict)

    @property
    def key(self) -> str:
        """ "kind/name", e.g. "victim/lung-unseg-unet-s0"."""
        return f"{self.kind}/{self.name}" if self.name else self.kind

    @property
    def folder(self) -> Path:
        return self.results / self.key

    def seen_from(self, results: Path) -> str:
        """Its folder as read from a profile's results: "victim/x", or "../small/victim/x" where it is shared."""
        return Path(os.path.relpath(self.folder, results)).as_posix()

    @cached_property
    def values(self) -> dict:
        """All parameters, the notebook's defaults included; raises `UnsegError` on an unknown or ill-typed one."""
        try:
            return check_parameters(self.notebook, self.parameters | {"out": self.folder.as_posix()})
        except UnsegError as error:
            raise UnsegError(f"{self.key}: {error}") from error

    @property
    def product(self) -> Path:
        return self.folder / PRODUCT.get(self.kind, "")

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(stage.fingerprint for stage in self.needs)

    @cached_property
    def fingerprint(self) -> str:
        """Changes with the notebook, the parameters, or anything the stage builds on."""
        return fingerprint(self.notebook, self.values, self.inputs)

    @property
    def marker(self) -> str:
        """The file that is there when the stage is done, and that Snakemake waits for."""
        return marker_of(self.folder, self.fingerprint).as_posix()

    @property
    def gathers(self) -> bool:
        """Whether it shows what others found; then it is outdated as soon as one of those is."""
        return self.kind == "tables" or self.kind in PAGES

    def done(self) -> bool:
        complete = self.product.exists() and not (self.gathers and self._waiting())
        return complete and is_done(self.folder, self.fingerprint)

    def _waiting(self) -> list[str]:
        return [stage.key for stage in self.needs if not stage.done()]

    def settle(self) -> bool:
        """Whether it is done; else the marker is removed, as something that it stands for was deleted."""
        if (marker := Path(self.marker)).exists() and not self.done():  # one that comes meanwhile stays
            marker.unlink(missing_ok=True)
        return marker.exists()

    def run(self, threads: int = 0, gpus: int = 0) -> None:
        """Do the stage unless it is done; what gathers results is done anew. `gpus` = 1: on a GPU of its own."""
        from unseg_lib.runtime import own_gpu

        if self.gathers:
            Path(self.marker).unlink(missing_ok=True)
        if (waiting := self._waiting()) and not self.done():
            raise UnsegError(f"Expected {', '.join(waiting)} to be done before {self.key}; run `unseg reproduce`.")
        if self.kind == "tables":
            collect(self.results, built_on(self.needs).values())
        self.settle()
        with own_gpu(self.results, gpus) as environment:
            os.environ.update(environment)
            run_notebook(self.notebook, self.folder, self.parameters, inputs=self.inputs, threads=threads)
        if not self.product.exists():
            raise UnsegError(f"Expected {self.notebook.name} to write {self.product}, found no such file.")


def built_on(stages: Iterable[Stage]) -> dict[str, Stage]:
    """These stages and all that they build on, by key, what is needed first coming first."""
    found: dict[str, Stage] = {}
    for stage in stages:
        found |= built_on(stage.needs) | {stage.key: stage}
    return found
