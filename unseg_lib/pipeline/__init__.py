"""How a run flows: profile -> Snakefile -> strict notebook runner -> results. Nobody needs it to read the method."""
# ruff: noqa: F401 - the face of the package: what others import from it

from unseg_lib.pipeline.engine import choose, gather, missing_data, reproduce
from unseg_lib.pipeline.notebook import locked, project_root, relink, run_notebook
from unseg_lib.pipeline.parameters import check_parameters, check_value, notebook_parameters, parse_value
from unseg_lib.pipeline.profiles import Profile, load_profile, profile_of
from unseg_lib.pipeline.results import INSTEAD, collect, copies_in, save_result, strip_images, strip_results
from unseg_lib.pipeline.stages import NOTEBOOKS, Stage
