"""`make cluster-down` keeps data unless asked; with PURGE=1 nothing is left. Runs last: it ends it."""

import os
import signal
import subprocess
from pathlib import Path

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.places import secrets
from tests.lab.conftest import INTERRUPTIBLE, Lab, until

TESTED = {"real": ["place lab"]}


def pids(container: str) -> list[str]:
    """Process ids, as this machine sees them, of everything in a container."""
    return output(["docker", "top", container, "-eo", "pid"]).split()[1:]


def test_down_keeps_data_and_up_finds_it_again(lab: Lab) -> None:
    before = lab.ok("sacct -X -n -P -o jobid --starttime=2020-01-01")
    done = lab.make("cluster-down")
    assert done.returncode == 0, done.stderr
    assert lab.project.containers() == []
    assert lab.project.leftovers("volume")
    done = lab.make("cluster-up", "JOB=")
    assert done.returncode == 0, done.stdout + done.stderr
    assert lab.ok("sacct -X -n -P -o jobid --starttime=2020-01-01") == before


def test_purge_leaves_nothing(lab: Lab) -> None:
    processes = [pid for node in lab.project.containers() for pid in pids(node.container)]
    assert len(processes) > 20, "systemd and Slurm's daemons were running"
    done = lab.make("cluster-down", "PURGE=1")
    assert done.returncode == 0, done.stderr
    assert lab.project.containers() == []
    assert lab.project.leftovers("volume") == []
    assert lab.project.leftovers("network") == []
    assert not secrets.folder(lab.project.cluster).exists()
    assert f"{lab.project.cluster}-" not in output(["docker", "ps", "-a", "--format", "{{.Names}}"])
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []
    again = lab.make("cluster-down", "PURGE=1")
    assert again.returncode == 0, again.stderr


def test_a_proof_that_was_interrupted_is_followed_and_not_repeated(lab: Lab) -> None:
    lab.make("cluster-down", "PURGE=1")
    quick = CHECKOUT / "runs" / "quick.sbatch"
    quick.write_text("#!/bin/bash\n#SBATCH --output=/dev/null\nsleep 8\n")
    up = [*INTERRUPTIBLE, "make", "cluster-up", f"JOB={quick.relative_to(CHECKOUT)}"]
    typed = subprocess.Popen(
        up,
        cwd=CHECKOUT,
        env=lab.env,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    until("the job", lambda: lab.sh("squeue -h -t running").stdout != "", timeout_s=300)
    os.killpg(typed.pid, signal.SIGINT)
    typed.wait(timeout=60)
    done = lab.make(*up[up.index("make") + 1 :])
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(lab.ok("sacct -X -n -P -o jobid --starttime=2020-01-01").split()) == 1
    quick.unlink()
