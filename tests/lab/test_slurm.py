"""Slurm as a production site runs it: accounting, limits, GPUs, preemption, refusals."""

import re

import pytest

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from tests.lab.conftest import Lab, until

TESTED = {"real": ["place lab", "Slurm with accounting"], "stand-in": ["NVIDIA GPU"]}

HOLD = "'sleep 600'"  # what a job does that only has to be there


def test_accounting_has_the_job_with_account_user_and_gpus(lab: Lab) -> None:
    run = lab.finish(lab.submit("--nodes=2", "--gres=gpu:h100:2", "--output=/dev/null", "--wrap", "true"))
    until(
        "the accounting record", lambda: lab.ok(f"sacct -X -n -P -j {run.id} -o end") not in ("", "Unknown")
    )
    account, user, state, tres = lab.ok(f"sacct -X -n -P -j {run.id} -o account,user,state,alloctres").split(
        "|"
    )
    assert (account, user, state) == ("research", "ml", "COMPLETED")
    counted = dict(item.split("=") for item in tres.split(","))
    assert counted["gres/gpu"] == counted["gres/gpu:h100"] == "4"  # two on each of two nodes
    assert counted["node"] == "2"


def test_two_jobs_on_one_node_never_share_a_gpu(lab: Lab) -> None:
    ask = "--oversubscribe -w c1 -n1 --mem=100 --gres=gpu:4 --output=runs/gpu-%j.out"
    show = "'echo $CUDA_VISIBLE_DEVICES; sleep 600'"
    runs = [lab.submit(*ask.split(), "--wrap", show) for _ in range(3)]
    files = [CHECKOUT / "runs" / f"gpu-{run.id}.out" for run in runs]
    until("two jobs", lambda: all(file.exists() and file.read_text() for file in files[:2]))
    first, second = ({int(word) for word in file.read_text().split(",")} for file in files[:2])
    assert len(first) == len(second) == 4
    assert first | second == set(range(8))
    # The third finds no GPU left, though it may share the core.
    until("the third job's reason", lambda: lab.ok(f"squeue -h -j {runs[2].id} -o %r") == "Resources")
    for file in files[:2]:
        file.unlink()


def test_a_job_without_gpus_sees_none(lab: Lab) -> None:
    assert lab.ok("srun sh -c 'echo [$CUDA_VISIBLE_DEVICES]'") in ("[]", "[NoDevFiles]")


def test_what_does_not_exist_is_refused_with_slurms_reason(lab: Lab) -> None:
    for ask, reason in {
        # whichever of its cores, its memory and its GPUs Slurm looks at first
        "--gres=gpu:h100:9": "More processors requested than permitted|configuration is not available",
        "--gres=gpu:b200:1": "Requested node configuration is not available|Invalid generic resource",
        "--partition=none": "invalid partition specified",
        "--account=none": "Invalid account or account/partition combination specified",
        "--qos=none": "Invalid qos specification",
        "--nodes=99": "More processors requested than permitted|configuration is not available",
    }.items():
        done = lab.sh(f"sbatch {ask} jobs/ddp.sbatch")
        assert done.returncode == 1
        assert re.search(reason, done.stderr, re.IGNORECASE), done.stderr


def test_simulated_gpus_are_labelled(lab: Lab) -> None:
    assert "simulated" in lab.ok("sinfo -h -o %f").split(",")


def test_rest_api_answers_with_a_token_and_not_without(lab: Lab) -> None:
    url = "http://slurmctld:6820/slurm/v0.0.42/ping/"
    token = lab.on("slurmctld", "scontrol", "token", "username=ml", "lifespan=60").split("=", 1)[1]
    ask = f"""import json, sys, urllib.request
request = urllib.request.Request({url!r}, headers=dict(zip(sys.argv[1::2], sys.argv[2::2])))
print(json.load(urllib.request.urlopen(request))["pings"][0]["pinged"])"""
    python = ["python3", "-c", ask]
    assert lab.on("login", *python, "X-SLURM-USER-NAME", "ml", "X-SLURM-USER-TOKEN", token) == "UP"
    with pytest.raises(Failure, match="HTTP Error 401"):
        lab.on("login", *python)


def test_a_higher_qos_preempts_and_the_job_comes_back(lab: Lab) -> None:
    warned = CHECKOUT / "runs" / "warned.txt"
    warned.unlink(missing_ok=True)
    script = f"'trap \"date >>{warned}; exit 0\" USR2; while :; do sleep 0.2; done'"
    low = lab.submit(
        "--qos=scavenger",
        "--nodes=2",
        "--requeue",
        "--signal=B:USR2@30",
        "--output=/dev/null",
        "--wrap",
        script,
    )
    until("the low job", lambda: lab.state(low) == "RUNNING")
    high = lab.finish(lab.submit("--qos=high", "--nodes=2", "--output=/dev/null", "--wrap", "true"))
    assert high.state == "COMPLETED"
    until("the low job to come back", lambda: lab.state(low) == "RUNNING")
    assert lab.ok(f"scontrol -o show job {low.id}").count("Restarts=1") == 1
    assert warned.exists(), "the preempted job was not sent its signal"
    warned.unlink()
    # It ended by itself, with success, and Slurm queued it again: jobs/cluster/slurm.py counts on that.
    until("its record", lambda: "PREEMPTED" in lab.ok(f"sacct -D -X -n -P -j {low.id} -o state").split())


def test_limits_of_an_account_are_enforced(lab: Lab) -> None:
    """`trial` (clusters/lab.yaml) may have two jobs in the queue, one running, with four GPUs on one node."""
    trial = "--account=trial --qos=scavenger --output=/dev/null"
    refused = lab.sh(f"sbatch {trial} --gres=gpu:5 --wrap true")
    assert refused.returncode == 1
    assert "Job violates accounting/QOS policy" in refused.stderr
    first = lab.submit(trial, "--wrap", HOLD)
    second = lab.submit(trial, "--wrap", HOLD)
    third = lab.sh(f"sbatch {trial} --wrap true")
    assert third.returncode == 1
    assert "AssocMaxSubmitJobLimit" in third.stderr or "Job violates accounting/QOS policy" in third.stderr
    until("the first job", lambda: lab.state(first) == "RUNNING")
    until(
        "the reason of the second", lambda: lab.ok(f"squeue -h -j {second.id} -o %r") == "AssocGrpJobsLimit"
    )
