"""How a run flows: profile -> Snakefile -> strict notebook runner -> results. Nobody needs it to read the method."""

import lazy_loader

# the face of the package: what others import from it, loaded when it is asked for
__getattr__, __dir__, _names = lazy_loader.attach(
    __name__,
    submod_attrs={
        "execute": ["die_with_parent"],
        "notebook": ["BEGUN", "at_rest", "claim", "fingerprint", "is_done", "locked", "run_notebook"],
        "parameters": ["check_parameters", "check_value", "notebook_parameters", "parse_value"],
        "profiles": ["Profile", "load_profile", "profile_of", "project_root"],
        "provenance": ["cpu_model"],
        "reproduce": ["choose", "missing_data"],
        "results": ["COLUMNS", "collect", "save_result"],
        "scrub": ["clean_notebook"],
        "stages": ["BY_TASK", "Stage"],
    },
)
