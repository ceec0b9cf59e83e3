"""jobs/ddp.sh with Python played by a script: all workers on one machine, or a part on each of two."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT

PROGRAM = ["-m", "jobs.train", "--config", "jobs/ddp.yaml"]


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A stack whose Python prints what it is given, and where."""
    python = tmp_path / "bin/python"
    python.parent.mkdir()
    python.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    return tmp_path


def run(stack: Path, *options: str, cwd: Path = CHECKOUT, **env: str) -> list[str]:
    return subprocess.run(
        [CHECKOUT / "jobs/ddp.sh", *options],
        env={"PATH": os.environ["PATH"], "STACK": str(stack), **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()


def test_alone_it_has_all_workers_of_the_job(stack: Path) -> None:
    assert run(stack, "--train.steps=5") == [
        str(CHECKOUT),
        *("-m", "jobs.torchrun", "--standalone", "--nproc-per-node=2", "--max-restarts=3"),
        *PROGRAM,
        "--train.steps=5",
    ]


def test_with_a_head_it_is_one_of_the_jobs_nodes(stack: Path, tmp_path: Path) -> None:
    """From whatever folder, as over SSH."""
    words = run(stack, cwd=tmp_path, HEAD="node-1:29400")
    assert words == [
        str(CHECKOUT),
        *("-m", "jobs.torchrun", "--nnodes=2", "--nproc-per-node=1"),
        *("--rdzv-backend=c10d", "--rdzv-endpoint=node-1:29400", "--rdzv-id=ddp", "--max-restarts=3"),
        *PROGRAM,
    ]


def test_torch_is_not_needed_to_be_told_who_one_is(tmp_path: Path) -> None:
    told = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    told |= {"MASTER_ADDR": "node-1", "MASTER_PORT": "29400"}

    def whoami(**env: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "jobs.whoami", f"--folder={tmp_path}"],
            cwd=CHECKOUT,
            env={"PATH": os.environ["PATH"], **env},
            capture_output=True,
            text=True,
        )

    assert whoami(**told).returncode == 0
    assert '"RANK": "1"' in (tmp_path / "rank-1.json").read_text()
    del told["MASTER_ADDR"]
    alone = whoami(**told)
    assert (alone.returncode, alone.stderr) == (2, "no MASTER_ADDR: this process has no launcher\n")
