"""`make cluster-up` refuses what it cannot start before it touches the host. What it starts: tests/lab, machines."""

import subprocess
import sys
from pathlib import Path

import pytest

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.commands.cluster import plan, up
from infra.places.verbs import next_line

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


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "dos.sbatch",
            b"#!/bin/bash\r\n#SBATCH --nodes=2\r\n",
            r"JOB=.*dos\.sbatch: has the line ends of DOS",
        ),
        ("dos.yaml", b"kind: PyTorchJob\r\n", r"has the line ends of DOS.*sed -i 's/\\r\$//' "),
        ("plain.sbatch", b"srun hostname\n", r"a batch script begins with #! and its shell"),
        ("empty.sbatch", b"", r"a batch script begins with #! and its shell"),
        ("folder.sbatch", None, r"no such file in the checkout"),
    ],
)
def test_a_job_file_that_no_scheduler_takes_is_refused_at_once(
    tmp_path: Path, name: str, content: bytes | None, says: str
) -> None:
    file = tmp_path / name
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(Mistake, match=says) as mistake:
        up(Path("clusters/lab.yaml"), str(file))
    assert "\n" not in str(mistake.value)


def test_the_last_line_names_the_cluster_that_came_up() -> None:
    assert next_line("clusters/lab.yaml", "squeue") == 'Next:  eval "$(make env)"     then   squeue'
    assert next_line("clusters/byo.yaml", "squeue", "sacct") == (
        'Next:  eval "$(make env CLUSTER=clusters/byo.yaml)"     then   squeue   sacct'
    )
    assert "CLUSTER='my file.yaml'" in next_line("my file.yaml")


@pytest.mark.parametrize(("name", "other"), [("lab", "kind"), ("kind", "lab"), ("site", "kind")])
def test_a_place_imports_nothing_of_another(name: str, other: str) -> None:
    """Each verb of each cluster would wait for it."""
    code = (
        "import sys; from infra.model.load import load_cluster; from infra.places.place import of;"
        f"of(load_cluster('clusters/{name}.yaml'));"
        f"print([each for each in sys.modules if each.startswith('infra.places.{other}')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stdout + done.stderr
