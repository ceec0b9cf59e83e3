"""Both schedulers from one cluster file, on one machine: the same job in each, at the same time, to the same bits."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.bench import trial
from infra.model.load import load_cluster
from infra.places.kind.cluster import Kind
from infra.places.lab.compose import Project
from infra.proof import run
from tests.kind.conftest import Trial
from tests.training import TRAIN, history

TESTED = {"real": ["Kubernetes", "Slurm with accounting", "training on two nodes"]}
NAME = "testboth"


@pytest.fixture(scope="module")
def both() -> Iterator[Trial]:
    file = trial.cluster_file(NAME, like="both")
    env = trial.environment(NAME, file)
    there = Kind(load_cluster(file))
    first = subprocess.run(
        ["make", "cluster-up", "JOB="], cwd=CHECKOUT, env=env, capture_output=True, text=True, check=False
    )
    assert first.returncode == 0, first.stdout + first.stderr
    env["KUBECONFIG"] = str(there.kubeconfig)
    yield Trial(there, file, env, first)
    if not os.environ.get("SLIPWAY_KEEP"):
        subprocess.run(["make", "cluster-down", "PURGE=1"], cwd=CHECKOUT, env=env, check=False)
        file.unlink()


def test_the_same_job_beside_itself_under_slurm_and_kubernetes(both: Trial) -> None:
    id = both.ok(f"sbatch --parsable jobs/ddp.sbatch {' '.join(TRAIN)}").split(";")[0]
    pods = both.apply("beside", *TRAIN)
    nodes = run.follow(Project(NAME), run.Run(id), timeout_s=900)
    both.finish(pods, timeout_s=900)
    assert history(nodes) == history(pods)  # bit for bit: JSON keeps every digit of a float
    assert len(history(nodes)) == nodes.summary["steps"]
    assert set(nodes.summary["hosts"]).isdisjoint(pods.summary["hosts"])
    assert nodes.summary["stack"] == pods.summary["stack"]


def test_status_shows_both(both: Trial) -> None:
    said = both.ok("make status")
    for word in ("c1", "control-plane", "slurmctld"):
        assert word in said


def test_a_second_run_changes_neither_and_down_leaves_nothing(both: Trial) -> None:
    again = both.make("cluster-up", "JOB=")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("nothing to change") == 2
    down = both.make("cluster-down", "PURGE=1")
    assert down.returncode == 0, down.stdout + down.stderr
    assert NAME not in output(["docker", "ps", "--all", "--format", "{{.Names}}"])
    assert NAME not in output(["docker", "volume", "ls", "--format", "{{.Name}}"])
    assert NAME not in output(["docker", "network", "ls", "--format", "{{.Name}}"])
    assert not (CHECKOUT / "build" / NAME).exists()
