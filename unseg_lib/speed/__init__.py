"""How fast protecting and training are: `unseg bench` and the notebook 09_speed."""

import lazy_loader

# the face of the package, loaded when it is asked for: the command line starts at once
LADDER = ["TRAINING", "memory", "poisons", "protect_ladder", "step_ladder", "table", "throughput"]
MEASURE = ["generator_of", "image", "seconds", "working_folder"]
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"ladder": LADDER, "measure": MEASURE, "needs": ["measured_needs"]}
)
