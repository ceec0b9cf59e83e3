"""jobs/ddp.sbatch with Slurm's commands played by scripts: what it starts, and how it fails."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT

SCRIPT = CHECKOUT / "jobs/ddp.sbatch"


def script(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)


@pytest.fixture
def job(tmp_path: Path) -> dict[str, str]:
    """The environment of job 4711 on nodes gpu-3 and gpu-4."""
    script(tmp_path / "bin/scontrol", '[[ $* == "show hostnames gpu-[3-4]" ]] && printf "gpu-3\\ngpu-4\\n"')
    script(tmp_path / "bin/srun", 'printf "%s\\n" "$@"')
    script(tmp_path / "stack/bin/python", f'exec {sys.executable} "$@"')
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "STACK": str(tmp_path / "stack"),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "gpu-[3-4]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
    }


def run(job: dict[str, str], *options: str, cwd: Path = CHECKOUT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", SCRIPT, *options], env=job, cwd=cwd, capture_output=True, text=True)


def test_it_starts_one_torchrun_per_node_with_a_worker_per_gpu(job: dict[str, str]) -> None:
    done = run(job, "--train.steps=50")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "--kill-on-bad-exit=0",  # a dead node would get the kill late, at the next start
        f"{job['STACK']}/bin/python",
        *("-m", "jobs.torchrun"),
        *("--nnodes=2", "--nproc-per-node=8"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=gpu-3:24711", "--rdzv-id=4711-0"),
        "--max-restarts=3",
        *("-m", "jobs.train", "--config", "jobs/ddp.yaml", "--train.steps=50"),
    ]


def test_a_requeued_job_meets_under_another_name(job: dict[str, str]) -> None:
    """A torchrun of the start before that still dies cannot join."""
    assert "--rdzv-id=4711-2" in run({**job, "SLURM_RESTART_COUNT": "2"}).stdout


def test_without_gpus_there_is_one_worker_per_node(job: dict[str, str]) -> None:
    del job["SLURM_GPUS_ON_NODE"]
    assert "--nproc-per-node=1" in run(job).stdout


def test_cpus_that_a_person_asks_for_by_task_reach_the_step(job: dict[str, str]) -> None:
    """Since 22.05 srun does not take them from its job; those for each GPU it does."""
    assert "--cpus-per-task=4\n" in run({**job, "SLURM_CPUS_PER_TASK": "4"}).stdout


def test_more_gpus_get_more_of_everything() -> None:
    asked = [line for line in SCRIPT.read_text().splitlines() if line.startswith("#SBATCH --")]
    assert {"#SBATCH --cpus-per-gpu=1", "#SBATCH --mem-per-gpu=3G"} <= set(asked)
    assert not [line for line in asked if line.startswith(("#SBATCH --mem=", "#SBATCH --cpus-per-task"))]


def test_a_port_that_is_taken_costs_a_line_and_not_the_job(job: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 24711)), socket.create_server(("", 24712)):
        done = run(job)
    assert "--rdzv-endpoint=gpu-3:24713" in done.stdout.splitlines()
    assert [line.partition(" of ")[0] for line in done.stderr.splitlines()] == [
        "jobs/ddp.sbatch: port 24711",
        "jobs/ddp.sbatch: port 24712",
    ]


@pytest.mark.parametrize("number", ["1", "4711", "11999", "12000", "4294967293"])
def test_no_job_meets_where_connections_have_their_ports(job: dict[str, str], number: str) -> None:
    (endpoint,) = re.findall(r"--rdzv-endpoint=gpu-3:(\d+)", run({**job, "SLURM_JOB_ID": number}).stdout)
    assert 20000 <= int(endpoint) < 32768


@pytest.mark.parametrize(("gpus", "here"), [("3", "2"), ("3", "1"), ("h100:4", "3")])
def test_unlike_numbers_of_gpus_are_refused(job: dict[str, str], gpus: str, here: str) -> None:
    done = run({**job, "SLURM_GPUS": gpus, "SLURM_GPUS_ON_NODE": here})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"jobs/ddp.sbatch: --gpus={gpus} gives 2 nodes unlike numbers of GPUs; ask by --gpus-per-node\n"
    )
    assert run({**job, "SLURM_GPUS": "h100:16"}).returncode == 0


def test_a_wrong_option_starts_nothing_on_any_node(job: dict[str, str]) -> None:
    done = run(job, "--train.stesp=50")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "--train.stesp: no such option. Did you mean 'train.steps'?\n"


def test_without_a_working_scontrol_it_says_so(job: dict[str, str]) -> None:
    done = run({**job, "SLURM_JOB_NODELIST": "unknown"})
    assert (done.returncode, done.stdout) == (1, "")
    assert "scontrol does not work" in done.stderr


def test_submitted_from_elsewhere_it_says_from_where(job: dict[str, str], tmp_path: Path) -> None:
    done = run(job, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"jobs/ddp.sbatch: no jobs/train.py in {tmp_path}; submit from the checkout\n"


def test_the_folder_of_its_output_is_in_every_clone() -> None:
    """Slurm does not make the folder of --output: without it a job fails and says nothing."""
    assert "#SBATCH --output=runs/%j.out\n" in SCRIPT.read_text()
    assert (CHECKOUT / "runs/.gitignore").exists()
