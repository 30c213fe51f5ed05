"""How fast protecting and training are: `unseg bench` and the notebook 09_speed."""

import lazy_loader

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "arithmetic": ["flop_counter", "generator_flop"],
        "disk": ["parts", "throughput"],
        "ladder": ["differences", "profile", "rungs"],
        "needs": ["OFFICIAL", "trials"],
        "samples": ["image"],
        "scaling": ["COLLECTIONS", "estimate", "hours", "table"],
        "step": ["step_ladder"],
        "trial": ["VictimTrial", "alone"],
        "watched": ["cost_of_steps"],
    },
)
