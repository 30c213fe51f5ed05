"""The grid: train the generator, poison data sets, train victims, look at pixels, make tables and the report.

    make reproduce [PROFILE=small] [DATA=/data]      the usual way (it calls `unseg reproduce`)
    snakemake -n --config profile=paper              what would be done, and why
    snakemake --cores 8 --config profile=small --rerun-triggers mtime --ignore-incomplete

One job runs one notebook (`unseg stage PROFILE KIND/NAME`); what it runs with comes from
notebooks/profiles/PROFILE.yaml through `unseg_lib.pipeline.profiles`. A job's output is an empty marker whose
name holds the fingerprint of its notebook, parameters and inputs: a changed profile asks for exactly the
jobs it changes, and the notebooks' own checkpoints survive a kill. A marker is made last, so one that is there
is never incomplete (`--ignore-incomplete`; after a kill, `snakemake --unlock` if you call snakemake yourself).

On a Slurm cluster, with the project on a shared disk:

    pip install snakemake-executor-plugin-slurm
    export UNSEG_DATA=/nfs/data
    snakemake --executor slurm --jobs 64 --config profile=paper --rerun-triggers mtime --ignore-incomplete \
        --latency-wait 60 --default-resources slurm_account=ME slurm_partition=gpu

Memory, minutes and GPUs of a job are under `resources` of the profile. Kubernetes and others: see Snakemake's
executor plugins.
"""

import shlex
import sys

from unseg_lib.pipeline.profiles import load_profile
from unseg_lib.pipeline.stages import PAGES

PROFILE = load_profile(config.get("profile", "smoke"))
RESULTS = PROFILE.results.as_posix()
UNSEG = f"{shlex.quote(sys.executable)} -m unseg_lib.cli"
DONE = {key for key, stage in PROFILE.stages.items() if stage.settle()}


def needs(key):
    """What `key` waits for. What is done needs nothing, so a poisoned copy deleted to save space stays away."""
    missing = [] if key in DONE else [stage for stage in PROFILE.stages[key].needs]
    return [ancient(stage.marker) for stage in missing]


def resource(kind, name):
    return PROFILE.resources_of(kind)[name]


wildcard_constraints:
    # its own results, and those of the profile that it shares
    place="|".join({stage.results.name for stage in PROFILE.stages.values()}),
    name="[^/]+",
    page="|".join(PAGES),
    mark="[0-9a-f]{12}",


rule all:
    input:
        f"{RESULTS}/report.html",
        # named here, because a report of fewer stages would hide that others are missing
        [PROFILE.stages[key].marker for key in ("tables", *PROFILE.pages) if key not in DONE],


rule generator:
    output:
        "results/{place}/generator/{name}/.done-{mark}",
    threads: PROFILE.threads
    resources:
        mem_mb=resource("generator", "mem_gb") * 1000,
        runtime=resource("generator", "minutes"),
        gpu=resource("generator", "gpu"),
    shell:
        "{UNSEG} stage {PROFILE.source:q} generator/{wildcards.name} --threads {threads} --gpus {resources.gpu}"


rule poison:
    input:
        lambda wildcards: needs(f"poison/{wildcards.name}"),
    output:
        "results/{place}/poison/{name}/.done-{mark}",
    threads: PROFILE.threads
    resources:
        mem_mb=resource("poison", "mem_gb") * 1000,
        runtime=resource("poison", "minutes"),
        gpu=resource("poison", "gpu"),
    shell:
        "{UNSEG} stage {PROFILE.source:q} poison/{wildcards.name} --threads {threads} --gpus {resources.gpu}"


rule victim:
    input:
        lambda wildcards: needs(f"victim/{wildcards.name}"),
    output:
        "results/{place}/victim/{name}/.done-{mark}",
    threads: PROFILE.threads
    resources:
        mem_mb=resource("victim", "mem_gb") * 1000,
        runtime=resource("victim", "minutes"),
        gpu=resource("victim", "gpu"),
    shell:
        "{UNSEG} stage {PROFILE.source:q} victim/{wildcards.name} --threads {threads} --gpus {resources.gpu}"


rule pixels:
    input:
        lambda wildcards: needs(f"pixels/{wildcards.name}"),
    output:
        "results/{place}/pixels/{name}/.done-{mark}",
    threads: PROFILE.threads
    resources:
        mem_mb=resource("pixels", "mem_gb") * 1000,
        runtime=resource("pixels", "minutes"),
    shell:
        "{UNSEG} stage {PROFILE.source:q} pixels/{wildcards.name} --threads {threads}"


rule tables:
    input:
        needs("tables"),
    output:
        PROFILE.stages["tables"].marker,
    resources:
        mem_mb=resource("tables", "mem_gb") * 1000,
        runtime=resource("tables", "minutes"),
    shell:
        "{UNSEG} stage {PROFILE.source:q} tables"


rule page:
    input:
        lambda wildcards: needs(wildcards.page),
    output:
        RESULTS + "/{page}/.done-{mark}",
    threads: PROFILE.threads
    resources:
        mem_mb=lambda wildcards: resource(wildcards.page, "mem_gb") * 1000,
        runtime=lambda wildcards: resource(wildcards.page, "minutes"),
    shell:
        "{UNSEG} stage {PROFILE.source:q} {wildcards.page} --threads {threads}"


rule report:
    input:
        [PROFILE.stages[key].marker for key in ("tables", *PROFILE.pages)],
    output:
        f"{RESULTS}/report.html",
    shell:
        "{UNSEG} report {RESULTS:q}"
