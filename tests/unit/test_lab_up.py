"""`make cluster-up` refuses what it cannot start before it touches the host. What it starts: tests/lab, machines."""

from pathlib import Path

import pytest

from infra.base.errors import Mistake
from infra.commands.cluster import plan, up

METAL = """
name: site
description: real machines
place: metal
schedulers: [kubernetes]
services: {hardware: cpu-epyc-2s}
pools:
  gpu: {hardware: h100-sxm-8x, count: 2, partition: train}
partitions:
  train: {default: true}
qos:
  normal: {priority: 100}
accounts:
  research: {description: Research, qos: [normal]}
users:
  ml: {accounts: [research]}
"""


def test_machines_without_slurm_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(METAL)
    with pytest.raises(Mistake, match=r"site\.yaml: only Slurm runs on machines so far; write schedulers"):
        up(file, "")


def test_a_job_that_is_not_there_is_refused() -> None:
    with pytest.raises(Mistake, match=r"JOB=jobs/none\.sbatch: no such file"):
        up(Path("clusters/lab.yaml"), "jobs/none.sbatch")


def test_a_lab_has_no_plan() -> None:
    with pytest.raises(Mistake, match="plan is not for a lab"):
        plan(Path("clusters/lab.yaml"))
