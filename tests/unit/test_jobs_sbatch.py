"""jobs/ddp.sbatch with Slurm's commands played by scripts: what it starts, and how it fails."""

import os
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
        "SLURM_CPUS_PER_TASK": "1",
        "SLURM_GPUS_ON_NODE": "8",
    }


def run(job: dict[str, str], *options: str, cwd: Path = CHECKOUT) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["bash", SCRIPT, *options], env=job, cwd=cwd, capture_output=True, text=True)


def test_it_starts_one_torchrun_per_node_with_a_worker_per_gpu(job: dict[str, str]) -> None:
    done = run(job, "--train.steps=50")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "--kill-on-bad-exit=0",  # a dead node would get the kill late, at the next start
        "--cpus-per-task=1",
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
