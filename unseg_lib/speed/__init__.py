"""How fast protecting and training are: `unseg bench` and the notebook 09_speed."""

import lazy_loader

# the face of the package, loaded when it is asked for: the command line starts at once
LADDER = ["TRAINING", "memory", "parts", "poisons", "profile", "protect_ladder", "step_ladder", "throughput"]
__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__, submod_attrs={"bench": ["COLLECTIONS", "SAMPLES", "costs", "table"], "ladder": LADDER}
)
