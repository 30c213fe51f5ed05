"""The grid on a real Slurm: one node on the loopback, daemons and a configuration of its own in a temporary folder.

It takes Debian's slurm-wlm and munge, root (slurmd starts jobs as their users), and `pip install -e .[slurm]`.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest
from test_rehearsal import checkout
from toy_project import wait

from unseg_lib.files import read_csv
from unseg_lib.pipeline import gather, load_profile

PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd") if not shutil.which(name, path=PATH)]
MISSING += [] if find_spec("snakemake_executor_plugin_slurm") else ["snakemake-executor-plugin-slurm"]
MISSING += [] if os.geteuid() == 0 else ["root"]
needed = pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1200), needed]
# no control groups, no accounting (jobs are asked for with squeue), and as much memory as a job asks for
SETTINGS = """
ClusterName=unseg SlurmctldHost=localhost(127.0.0.1) SlurmctldPort={ports[0]} SlurmdPort={ports[1]} SlurmUser=root
AuthInfo=socket={folder}/socket StateSaveLocation={folder} SlurmdSpoolDir={folder}/spool MinJobAge=600
SlurmctldPidFile={folder}/slurmctld.pid SlurmdPidFile={folder}/slurmd.pid MpiDefault=none
ProctrackType=proctrack/linuxproc TaskPlugin=task/none SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres SelectTypeParameters=CR_Core
"""
NODE = """
NodeName=unseg NodeAddr=127.0.0.1 NodeHostname={host} CPUs=2 RealMemory=64000
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's commands find a cluster of two cores, which ends with the test."""
    folder = tmp_path_factory.mktemp("slurm")
    with socket.socket() as one, socket.socket() as other:
        for free in (one, other):
            free.bind(("127.0.0.1", 0))
        ports, host = [free.getsockname()[1] for free in (one, other)], socket.gethostname().partition(".")[0]
    settings = (SETTINGS.replace(" ", "\n") + NODE).format(folder=folder, ports=ports, host=host)
    (folder / "slurm.conf").write_text(settings)
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o600)
    munge = ["--foreground", "--force", f"--socket={folder}/socket"]
    munge += [f"--{name}-file={folder}/{name}" for name in ("key", "pid", "log", "seed")]
    # the plugin's jobs call srun without SLURM_CONF, for which a cluster has its one configuration in /etc
    (folder / "srun").write_text(f'#!/bin/sh\nSLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"\n')
    (folder / "srun").chmod(0o755)
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{folder}:{PATH}"}
    with ExitStack() as stack:
        log = stack.enter_context(open(folder / "daemons.log", "w"))
        for command in (["munged", *munge], ["slurmctld", "-D"], ["slurmd", "-D", "-N", "unseg"]):
            daemon = stack.enter_context(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            stack.callback(daemon.terminate)
            time.sleep(1)
        assert wait(lambda: "idle" in ask(environment, "sinfo", "-h", "-o", "%T"), 30), Path(log.name).read_text()
        yield environment


def ask(environment: dict, *command: str) -> list[str]:
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout.split()


def rows_of(root: Path) -> list[dict]:
    gather(load_profile("part", root), root)
    return [row | {"minutes": ""} for row in read_csv(root / "results/part/rows.csv")]


def test_a_grid_on_slurm_goes_on_after_a_killed_job(slurm, tmp_path, project):
    root, log = checkout(tmp_path / "cluster", project), tmp_path / "first.log"
    how = {"cwd": root, "env": slurm | {"UNSEG_DATA": str(root / "data/tiny"), "PYTHONPATH": str(project)}}
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", "2", "--rerun-triggers", "mtime"]
    command += ["--config", "profile=part", "only=table 9", "--rerun-incomplete", "--latency-wait", "20"]
    command += ["--slurm-status-command=squeue", "--slurm-init-seconds-before-status-checks=5"]
    running = lambda: ask(slurm, "squeue", "-h", "-t", "R", "-o", "%A")  # noqa: E731
    with subprocess.Popen(command, **how, stdout=log.open("w"), stderr=subprocess.STDOUT) as run:
        assert wait(lambda: len(running()) == 2 or run.poll() is not None, 120) and run.poll() is None, log.read_text()
        assert wait(lambda: len(list(root.glob("results/part/*/*"))) == 2, 120)  # both are at work
        ask(slurm, "scancel", running()[0])
    assert run.returncode, log.read_text()
    again = subprocess.run(command, **how, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr[-3000:]
    victims = [key for key in load_profile("part", root).only("table 9") if key.startswith("victim/")]
    on_slurm, ended = rows_of(root), ask(slurm, "squeue", "-h", "-t", "all", "-o", "%T")
    assert {row["stage"] for row in on_slurm} == set(victims)
    assert ended.count("CANCELLED") == 1 and ended.count("COMPLETED") == len(victims) + 2

    # on this machine alone, without a kill
    root = checkout(tmp_path / "alone", project)
    words = ["reproduce", "--profile", "part", "--data", "data/tiny", "--only", "table 9"]
    alone = subprocess.run([sys.executable, "-m", "unseg_lib.cli", *words], cwd=root, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert rows_of(root) == on_slurm
