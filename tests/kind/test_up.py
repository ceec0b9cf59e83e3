"""Kubernetes: `make cluster-up` ends with a model that learned; again, it changes nothing; broken, it mends it."""

import json
import subprocess
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.base.wait import until
from infra.places.kind.done import Done
from jobs.tools.record import Record
from tests import trials
from tests.checkout import second_checkout
from tests.kind.conftest import TEAM, Trial, docker

TESTED = {
    "real": ["Kubernetes", "training on two nodes", "Debian 13", "cgroup v1", "x86_64"],
    "stand-in": ["NVIDIA GPU"],
}


def test_it_ends_with_a_model_that_learned(kind: Trial) -> None:
    name = Done.load(kind.kind.folder).proved
    summary = json.loads((kind.kind.runs / name / "summary.json").read_text())
    bits = summary["bits_per_byte"]
    assert bits["validation"] < bits["bigram"] < bits["unigram"]
    assert summary["world_size"] == 2
    assert len(summary["hosts"]) == 2
    account = Record(kind.kind.runs / name).account  # its machine's figures are from the team's ConfigMap
    assert account.joules and account.joules > 0
    assert account.usd and account.usd > 0


def test_a_second_run_changes_nothing_and_says_so(kind: Trial) -> None:
    def look() -> set[str]:
        """Every container with its start, every object with its generation, and whether it is being deleted."""
        objects = "deployments,daemonsets,clusterqueues,pytorchjobs,pods,nodes,configmaps"
        columns = (
            "K:.kind,N:.metadata.name,U:.metadata.uid,G:.metadata.generation,D:.metadata.deletionTimestamp"
        )
        found = kind.ok(f"kubectl get {objects} -A -o custom-columns={columns} --no-headers").splitlines()
        return {f"{each.name} {each.started}" for each in kind.kind.containers()} | set(found)

    # pods of the tests before this one have up to a minute to end in
    until("what goes to be gone", lambda: all(line.endswith("<none>") for line in look() if "Pod " in line))
    before = look()
    done = kind.make("cluster-up")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to change" in done.stdout
    assert len(done.stdout.strip().splitlines()) == 1
    assert look() ^ before == set()


@pytest.mark.parametrize("verb", [["up", "--job", ""], ["down", "--purge"]])
def test_another_checkout_is_refused_in_a_line_that_names_ours(
    kind: Trial, verb: list[str], tmp_path: Path
) -> None:
    before = [(container.name, container.started) for container in kind.kind.containers()]
    second = second_checkout(tmp_path, kind.file)
    python, env = CHECKOUT / ".venv/bin/python", kind.env | {"PYTHONPATH": str(second)}
    words = [str(python), "-m", "infra", verb[0], f"clusters/{kind.file.name}", *verb[1:]]
    done = subprocess.run(words, cwd=second, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.count("\n") == 1
    assert f"belongs to the checkout {CHECKOUT}: " in done.stderr
    assert [(container.name, container.started) for container in kind.kind.containers()] == before


def test_status_is_one_screen_and_json(kind: Trial) -> None:
    assert len(kind.ok("make status").splitlines()) < 25
    found = json.loads(kind.ok(".venv/bin/python -m infra status $CLUSTER --json"))
    nodes = {node["name"]: node for node in found["nodes"]}
    assert set(nodes) == {"control-plane", *kind.kind.workers}
    assert all(node["ready"] and node["ok"] for node in nodes.values())
    for worker in kind.kind.workers:
        assert (nodes[worker]["gpus"], nodes[worker]["simulated"]) == (8, True)


def test_logs_of_nodes_jobs_and_services(kind: Trial) -> None:
    worker = next(iter(kind.kind.workers))
    assert "kubelet" in kind.ok(f"make logs NODE={worker}")
    assert kind.ok("make logs NODE=training-operator")
    wrong = kind.make("logs", "NODE=nobody")
    assert wrong.returncode != 0
    assert "no node, job or service of that name" in wrong.stderr


def test_env_points_kubectl_at_the_cluster(kind: Trial) -> None:
    said = kind.ok('unset KUBECONFIG; eval "$(make env)" && kubectl config view --minify -o json')
    assert json.loads(said)["contexts"][0]["context"]["namespace"] == TEAM


def test_what_was_broken_is_repaired(kind: Trial) -> None:
    worker = list(kind.kind.workers.values())[-1]
    docker("stop", worker)
    kind.ok("kubectl -n kueue-system delete deployment --all")
    done = kind.make("cluster-up", "JOB=")
    assert done.returncode == 0, done.stdout + done.stderr
    assert kind.ok("kubectl -n kueue-system get deployments -o name")
    assert "nothing to change" in kind.make("cluster-up", "JOB=").stdout


@pytest.mark.more
def test_after_ctrl_c_the_next_run_goes_on(kind: Trial) -> None:
    kind.make("cluster-down")
    trials.ctrl_c(["make", "cluster-up", "JOB="], kind.env, "the first container", kind.kind.containers)
    done = kind.make("cluster-up", "JOB=")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing to change" in kind.make("cluster-up", "JOB=").stdout
