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

from unseg_lib.files import read_csv
from unseg_lib.pipeline import gather, load_profile

DAEMONS = ("munged", "slurmctld", "slurmd")
MISSING = [name for name in DAEMONS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
MISSING += [] if find_spec("snakemake_executor_plugin_slurm") else ["snakemake-executor-plugin-slurm"]
MISSING += [] if os.geteuid() == 0 else ["root"]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}"),
]
# no control groups, no accounting (jobs are asked for with squeue), and as much memory as a job asks for
CONFIGURATION = """
ClusterName=unseg
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
MinJobAge=600
NodeName=unseg NodeAddr=127.0.0.1 NodeHostname={host} CPUs=2 RealMemory=64000
PartitionName=all Nodes=ALL Default=YES State=UP MaxTime=INFINITE
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """The environment in which Slurm's commands find a cluster of two cores, which ends with the test."""
    folder = tmp_path_factory.mktemp("slurm")
    for part in ("state", "spool"):
        (folder / part).mkdir()
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in free:
            one.bind(("127.0.0.1", 0))
        ports, host = [one.getsockname()[1] for one in free], socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONFIGURATION.format(folder=folder, ports=ports, host=host))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    files = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    files.append(f"--socket={folder}/munge.socket")
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    commands = [["munged", "--foreground", "--force", *files], ["slurmctld", "-D"], ["slurmd", "-D", "-N", "unseg"]]
    with ExitStack() as stack:
        log = stack.enter_context(open(folder / "daemons.log", "w"))
        for command in commands:
            daemon = stack.enter_context(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            stack.callback(daemon.terminate)
            time.sleep(1)
        idle = lambda: "idle" in ask(environment, "sinfo", "-h", "-o", "%T")  # noqa: E731
        assert wait(idle, 30), (folder / "daemons.log").read_text()
        yield environment


def ask(environment: dict, *command: str) -> list[str]:
    """The words that one of Slurm's commands answers."""
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30).stdout.split()


def wait(until, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not (found := until()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return bool(found)


def rows_of(root: Path) -> list[dict]:
    gather(load_profile("part", root), root)
    return [{k: v for k, v in row.items() if k != "minutes"} for row in read_csv(root / "results/part/rows.csv")]


def test_a_grid_on_slurm_goes_on_after_a_killed_job(slurm, tmp_path, project):
    root = checkout(tmp_path / "cluster", project)
    environment = slurm | {"UNSEG_DATA": str(root / "data/tiny"), "PYTHONPATH": str(project)}
    # as the head of the Snakefile has it
    command = [sys.executable, "-m", "snakemake", "--executor", "slurm", "--jobs", "2", "--rerun-triggers", "mtime"]
    command += ["--config", "profile=part", "only=table 9", "--rerun-incomplete", "--latency-wait", "20"]
    command += ["--slurm-no-account", "--slurm-status-command", "squeue", "--default-resources", "slurm_partition=all"]
    command += ["--slurm-init-seconds-before-status-checks", "5"]
    running = lambda: ask(slurm, "squeue", "-h", "-t", "R", "-o", "%A")  # noqa: E731
    with open(tmp_path / "first.log", "w") as log:
        run = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=log)
        assert wait(lambda: len(running()) == 2 or run.poll() is not None, 120)
        jobs = running()
        assert len(jobs) == 2, (tmp_path / "first.log").read_text()
        # their notebooks are at work
        assert wait(lambda: len(list(root.glob("results/part/*/*"))) >= 2, 120)
        ask(slurm, "scancel", jobs[0])
        assert run.wait(timeout=400) != 0
    again = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=600)
    assert again.returncode == 0, again.stderr[-3000:]
    victims = [stage for stage in load_profile("part", root).only("table 9").values() if stage.kind == "victim"]
    on_slurm = rows_of(root)
    assert {row["stage"] for row in on_slurm} == {stage.key for stage in victims}
    ended = ask(slurm, "squeue", "-h", "-t", "all", "-o", "%T")
    assert ended.count("CANCELLED") == 1 and ended.count("COMPLETED") == len(victims) + 2

    # on this machine alone, without a kill
    root = checkout(tmp_path / "alone", project)
    words = ["reproduce", "--profile", "part", "--data", "data/tiny", "--only", "table 9"]
    alone = subprocess.run([sys.executable, "-m", "unseg_lib.cli", *words], cwd=root, capture_output=True, text=True)
    assert alone.returncode == 0, alone.stderr[-3000:]
    assert rows_of(root) == on_slurm
