"""One job by every launcher on a real Slurm: the same losses as by sbatch, requeued by each, listed, cancelled."""

import re

import pytest

from infra.base.paths import CHECKOUT
from infra.proof import run as job
from tests.lab.conftest import Lab, until
from tests.training import STEPS, TRAIN, at_step, history

TESTED = {"real": ["place lab", "training on two nodes", "Slurm with accounting"]}

PYTHON = "/opt/stack/current/bin/python"
# By which module a person starts it on the login node, and what stands before the program's options.
TORCHX = ("jobs.torchx", "run", "-s", "slurm", "jobs.job", "--name", "ddp", "--")
SUBMITIT = ("jobs.launch.ddp_submitit",)
LAUNCHERS = pytest.mark.parametrize("module", [TORCHX, SUBMITIT], ids=["torchx", "submitit"])


def login(lab: Lab, *words: str) -> str:
    """What a module prints that is run on the login node, in the checkout, as the user."""
    return lab.project.run("login", PYTHON, "-m", *words, user=lab.user, cwd=CHECKOUT)


def submit(lab: Lab, module: tuple[str, ...], *options: str) -> job.Run:
    """The job that a launcher has submitted: TorchX prints slurm://torchx/17, submitit `17: <its log>`."""
    printed = login(lab, *module, *options)
    found = re.search(r"^(?:slurm://torchx/(\d+)|(\d+): )", printed, re.MULTILINE)
    assert found, printed
    return job.Run(found[1] or found[2])


@LAUNCHERS
def test_the_losses_and_the_ranks_are_those_of_sbatch(
    lab: Lab, undisturbed: job.Run, module: tuple[str, ...]
) -> None:
    run = lab.finish(submit(lab, module, *TRAIN))
    assert len(history(run)) == STEPS
    assert history(run) == history(undisturbed)
    assert run.summary["world_size"] == undisturbed.summary["world_size"] == 2
    assert len(run.summary["hosts"]) == 2
    assert run.summary["gpus_simulated"]  # it asked for GPUs, and was given them
    shown = lab.ok(f"sacct -X -n -P -j {run.id} -o account,state,allocnodes").split("|")
    assert shown == ["research", "COMPLETED", "2"]


@pytest.mark.more
@LAUNCHERS
def test_a_warned_job_saves_is_requeued_and_ends_bit_by_bit_the_same(
    lab: Lab, undisturbed: job.Run, module: tuple[str, ...]
) -> None:
    """What Slurm does a minute before the time is over: USR2 to the tasks of the job."""
    run = submit(lab, module, *TRAIN, "--checkpoint.every=0")
    until("step 10", at_step(run, 10))
    lab.ok(f"scancel --signal=USR2 {run.id}")
    lab.finish(run)
    assert history(run) == history(undisturbed)
    assert run.summary["restarts"] == 1
    assert run.summary["resumed_from"] >= 10  # no checkpoint but the one that the warning caused


def test_torchx_shows_logs_lists_and_cancels_jobs(lab: Lab) -> None:
    run = submit(lab, TORCHX, "--train.steps=100000")
    handle = f"slurm://torchx/{run.id}"
    until("its first step", run.metrics)
    assert "RUNNING" in login(lab, "jobs.torchx", "status", handle)
    until("its log", lambda: "first step" in login(lab, "jobs.torchx", "log", f"{handle}/node"))
    assert handle in login(lab, "jobs.torchx", "list", "-s", "slurm")
    login(lab, "jobs.torchx", "cancel", handle)
    until("its end", lambda: "CANCELLED" in login(lab, "jobs.torchx", "status", handle))


def test_a_wrong_option_and_a_refused_job_are_told_of(lab: Lab) -> None:
    def said(*words: str) -> str:
        command = ["docker", "exec", "--user", lab.user, "--workdir", str(CHECKOUT)]
        done = lab.sh(" ".join([*command, lab.project.container("login"), PYTHON, "-m", *words]))
        assert done.returncode in (1, 2) and "Traceback" not in done.stderr, done.stderr
        return done.stderr

    for module in (TORCHX, SUBMITIT):
        assert "no such option" in said(*module, "--train.stesp=1")
    refused = said("jobs.torchx", "run", "-s", "slurm", "-cfg", "account=none", "jobs.job", "--name", "ddp")
    assert "Invalid account" in refused


def test_a_sweep_of_submitit_is_an_array_whose_jobs_differ(lab: Lab) -> None:
    printed = login(lab, *SUBMITIT, "--wait", "--sweep=train.seed=1,2", "--train.steps=5")
    number = printed.split("_")[0]
    assert printed.count("completed, ") == 2
    raw = lab.ok(f"sacct -X -n -P -j {number} -o jobid").split()
    losses = {history(job.Run(each))[-1] for each in raw}
    assert len(raw) == len(losses) == 2
