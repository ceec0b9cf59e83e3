"""Nothing is lost when something dies: a node, a daemon, a container; and sick nodes get no jobs."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from infra.base.errors import Failure
from infra.proof import run as job
from tests.lab.conftest import Lab, restarts, until
from tests.training import TRAIN, at_step, history

TESTED = {"real": ["place lab", "training on two nodes"]}


def docker(*words: str) -> None:
    subprocess.run(["docker", *words], check=True, capture_output=True)


def test_a_killed_node_costs_no_step(lab: Lab, undisturbed: job.Run) -> None:
    run = lab.submit("jobs/ddp.sbatch", *TRAIN)
    until("step 20", at_step(run, 20))
    docker("kill", lab.project.container("c2"))
    until("Slurm to notice", lambda: "c2" in lab.ok("sinfo -h -N -t down,no_respond -o %N"))
    until("the requeue", lambda: restarts(lab, run) == 1)
    docker("start", lab.project.container("c2"))
    lab.finish(run)
    assert history(run) == history(undisturbed)
    assert run.summary["restarts"] == 1
    assert run.summary["resumed_from"] >= 10  # checkpoints of every 10th step; step 20 was reached


def test_a_warned_job_saves_and_loses_no_step(undisturbed: job.Run, warned: job.Run) -> None:
    assert history(warned) == history(undisturbed)
    told = re.search(r"SIGUSR2: all 2 ranks agreed to stop after step (\d+)", Path(warned.output).read_text())
    assert told
    assert warned.summary["resumed_from"] == int(told[1])  # not one step was computed twice


def test_daemons_restart_in_the_middle_and_nothing_is_lost(lab: Lab, undisturbed: job.Run) -> None:
    run = lab.submit("jobs/ddp.sbatch", *TRAIN)
    until("step 10", at_step(run, 10))
    docker("restart", lab.project.container("slurmdbd"))
    docker("restart", lab.project.container("slurmctld"))
    queued = until("slurmctld to answer", lambda: lab.sh("squeue -h").returncode == 0)
    assert queued >= 0
    during = lab.submit("--output=/dev/null", "--wrap", "true")  # accepted, though slurmdbd may not be back
    lab.finish(run)
    lab.finish(during)
    assert history(run) == history(undisturbed)
    assert restarts(lab, run) == 0
    for one in (run, during):
        until("its record", lambda one=one: lab.ok(f"sacct -X -n -P -j {one.id} -o state") == "COMPLETED")  # type: ignore[misc]


def test_a_sick_node_is_drained_with_a_reason_and_comes_back_when_well(lab: Lab) -> None:
    lab.on("c1", "rm", "/dev/nvidia3")
    with pytest.raises(Failure, match="/dev/nvidia3 missing"):
        lab.on("c1", "/usr/libexec/slipway/health-check")
    row = lab.ok("sinfo -h -N -n c1 -o '%T|%E'")
    state, reason = row.split("|")
    assert state.startswith("drain")
    assert "/dev/nvidia3" in reason
    assert reason.startswith("health:")
    assert lab.sh("srun -w c1 --immediate=2 true").returncode != 0
    with pytest.raises(Failure, match="/dev/nvidia3 missing"):
        lab.on("c1", "/usr/libexec/slipway/health-check", "--under-load")
    lab.on("c1", "systemd-tmpfiles", "--create", "/etc/tmpfiles.d/slipway-node.conf")
    lab.on("c1", "/usr/libexec/slipway/health-check", "--under-load")
    until("the node to be idle", lambda: lab.ok("sinfo -h -N -n c1 -o %T") == "idle", timeout_s=60)


def test_a_node_drained_by_a_person_stays_drained(lab: Lab) -> None:
    lab.on("slurmctld", "scontrol", "update", "nodename=c1", "state=drain", "reason=memory test by hand")
    lab.on("c1", "/usr/libexec/slipway/health-check")
    lab.on("c1", "/usr/libexec/slipway/health-check", "--under-load")
    assert lab.ok("sinfo -h -N -n c1 -o '%T|%E'") == "drained|memory test by hand"
    lab.on("slurmctld", "scontrol", "update", "nodename=c1", "state=resume")


def test_the_run_folder_tells_what_happened(undisturbed: job.Run) -> None:
    names = {file.name for file in undisturbed.folder.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.jsonl",
        "summary.json",
        "report.html",
    } <= names
    facts = json.loads((undisturbed.folder / "environment.json").read_text())
    assert facts["stack"].startswith("cuda13-")
    assert len(facts["git"]["commit"]) == 40
