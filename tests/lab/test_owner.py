"""Whose a running lab is, where its nodes are, and what it says of itself when a part is silent or kept away."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from tests.checkout import second_checkout
from tests.lab.conftest import Lab, until

TESTED = {"real": ["place lab"]}


@pytest.fixture(scope="module")
def second(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second checkout of the same commit, with a cluster file that has the same name in it."""
    return second_checkout(tmp_path_factory.mktemp("second"), lab.file)


@pytest.mark.parametrize(
    "verb", [["up", "--job", ""], ["down"], ["down", "--purge"], ["verify"], ["rotate-secrets"]]
)
def test_another_checkout_is_refused_in_a_line_that_names_ours(
    lab: Lab, second: Path, verb: list[str]
) -> None:
    before = [(node.container, node.started) for node in lab.project.containers()]
    python = CHECKOUT / ".venv/bin/python"
    done = subprocess.run(
        [python, "-m", "infra", verb[0], f"clusters/{lab.file.name}", *verb[1:]],
        cwd=second, env=lab.env | {"PYTHONPATH": str(second)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert f"belongs to the checkout {CHECKOUT}: " in done.stderr
    assert [(node.container, node.started) for node in lab.project.containers()] == before
    assert not (second / "build/test/secrets").exists()


def test_nodes_that_start_the_other_way_round_keep_their_addresses(lab: Lab) -> None:
    nodes = [lab.project.container(name) for name in ("c1", "c2")]
    before = {node.name: node.addresses for node in lab.project.containers()}
    subprocess.run(["docker", "stop", "--time", "5", *nodes], check=True, capture_output=True)
    for node in reversed(nodes):
        subprocess.run(["docker", "start", node], check=True, capture_output=True)
    assert {node.name: node.addresses for node in lab.project.containers()} == before
    until("a job on c1", lambda: lab.sh("srun -w c1 -t1 --immediate=5 hostname").stdout == "c1\n", every_s=1)


@pytest.fixture
def drained(lab: Lab) -> Iterator[str]:
    reason = "disk [/dev/sda|b] is tested"
    lab.on("slurmctld", "scontrol", "update", "nodename=c1", "state=drain", f"reason={reason}")
    yield reason
    lab.on("slurmctld", "scontrol", "update", "nodename=c1", "state=resume")


def test_a_node_that_a_person_drained_is_nothing_to_wait_for(lab: Lab, drained: str) -> None:
    done = lab.make("cluster-up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"c1 is drained: {drained} (by root)" in done.stdout
    assert "nothing to change" in done.stdout
    facts = json.loads(lab.ok(".venv/bin/python -m infra status $CLUSTER --json"))
    row = next(node for node in facts["nodes"] if node["name"] == "c1")
    assert (row["slurm"], row["reason"], row["ok"]) == ("drained", drained, True)


@pytest.mark.more
def test_that_holds_for_a_start_as_well(lab: Lab, drained: str) -> None:
    subprocess.run(["docker", "restart", lab.project.container("c2")], check=True, capture_output=True)
    done = lab.make("cluster-up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"c1 is drained: {drained} (by root)" in done.stdout


@pytest.mark.more
def test_a_silent_controller_is_told_and_no_node_is_called_well(lab: Lab) -> None:
    lab.on("slurmctld", "systemctl", "kill", "--signal=STOP", "slurmctld")
    try:
        done = lab.make("status")
        facts = json.loads(lab.sh(".venv/bin/python -m infra status $CLUSTER --json").stdout)
    finally:
        lab.on("slurmctld", "systemctl", "kill", "--signal=CONT", "slurmctld")
    assert done.returncode != 0
    assert "does not answer" in done.stdout
    assert not any(node["ok"] for node in facts["nodes"] if node["name"] in ("slurmctld", "c1", "c2"))
    until("the controller", lambda: lab.make("status").returncode == 0, every_s=2)


@pytest.mark.more
def test_two_starts_at_once_are_one_start_and_a_refusal(lab: Lab) -> None:
    lab.make("cluster-down")
    first = subprocess.Popen(
        ["make", "cluster-up", "JOB="], cwd=CHECKOUT, env=lab.env, stdout=subprocess.DEVNULL
    )
    until("the first container", lab.project.containers)
    second = lab.make("cluster-up", "JOB=")
    assert second.returncode != 0
    assert "cluster 'test' is being worked on by " in second.stderr
    assert f"on {os.uname().nodename})" in second.stderr
    assert first.wait(timeout=300) == 0
