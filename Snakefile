"""The grid: train the generator, poison data sets, train victims, look at pixels, make tables and the report.

    make reproduce [PROFILE=small] [DATA=/data]      the usual way (it calls `unseg reproduce`)
    snakemake -n --config profile=paper              what would be done, and why (of one table: only="table 4")
    snakemake --cores 8 --config profile=small --rerun-triggers mtime --rerun-incomplete

One job runs one notebook (`unseg stage PROFILE KIND/NAME`). Which there are, and with which parameters, is the table of
stages that `unseg_lib.pipeline.load_profile` makes from notebooks/profiles/PROFILE.yaml.

What is done, and what to do again, is Snakemake's to know: it does what is missing, goes on after a kill, and makes a
deleted result again, with the tables that gather it. Its own tracking is not enough in four places:

- its record of parameters and inputs lies in .snakemake and knows nothing of a notebook that was run by hand, nor of
  folders that were copied or cloned. So a job's output is an empty marker, made last, whose name holds a fingerprint of
  the notebook's code, its parameters and its inputs: a change asks for exactly the jobs it touches, and only times need
  be compared (`--rerun-triggers mtime`; without it nothing is wrong, but many jobs start to say "already done");
- it removes the output of a job before it starts it again. A marker says "done" to other runners, too, so it is kept
  (`update`), and the job itself looks whether there is anything to do;
- of an input that is there it asks whether it is newer. A poisoned copy deleted to save space, and made again for one
  victim, is no news to the others: a job has only those inputs that it waits for, and one that is done has none;
- its lock is left behind by a kill (`snakemake --unlock`): `unseg reproduce` holds one that ends with its process.

On a Slurm cluster: docs/cluster.md. Memory, minutes and GPUs of a job are under `resources` of the profile.
"""

import shlex
import sys

from pathlib import Path

from unseg_lib.pipeline import gather, load_profile

PROFILE = load_profile(config.get("profile", "smoke"))
RESULTS = PROFILE.results.as_posix()
UNSEG = f"{shlex.quote(sys.executable)} -m unseg_lib.cli"
# by marker: some are in the folder of another profile, whose results are shared
STAGES = {stage.marker: stage for stage in PROFILE.stages.values()}
DONE = {marker for marker, stage in STAGES.items() if stage.settle()}
ONLY = [stage for stage in PROFILE.only(config["only"]).values() if stage.kind == "victim"] if "only" in config else []


def stage_of(wildcards):
    return STAGES["results/{place}/{key}/.done-{mark}".format(**wildcards)]


def needs(wildcards):
    """What the job waits for. Tables and pages, which gather results, are done again when these are newer."""
    stage = stage_of(wildcards)
    markers = [need.marker for need in stage.needs]
    if stage.gathers:
        return markers
    return [] if stage.marker in DONE else [marker for marker in markers if marker not in DONE]


def resource(name, unit=1):
    return lambda wildcards: unit * PROFILE.resources_of(stage_of(wildcards).kind)[name]


rule all:
    input:
        # tables are named here, because a report of fewer stages would hide that others are missing
        [stage.marker for stage in ONLY]
        or [f"{RESULTS}/report.html", *(marker for marker, stage in STAGES.items() if stage.gathers or stage.kind == "segmenter")],


rule stage:
    input:
        needs,
    output:
        update("results/{place}/{key}/.done-{mark}"),
    wildcard_constraints:
        place="[^/]+",
        key="[^/]+(/[^/]+)?",
        mark="[0-9a-f]{12}",
    threads: PROFILE.threads
    resources:
        mem_mb=resource("mem_gb", unit=1000),
        runtime=resource("minutes"),
        gpu=resource("gpu"),
    shell:
        "{UNSEG} stage {PROFILE.source:q} {wildcards.key:q} --threads {threads} --gpus {resources.gpu}"


rule report:
    input:
        [marker for marker, stage in STAGES.items() if stage.gathers],
    output:
        f"{RESULTS}/report.html",
    shell:
        "{UNSEG} report {RESULTS:q}"


onerror:
    # a report of what is there names what failed and what was not run
    gather(PROFILE, Path())
