"""A real Kubernetes cluster for the tests of this folder: brought up once, by the command that a person types.

It has another name than the user's own, so that neither disturbs the other. SLIPWAY_KEEP=1 leaves it running, so
that the next run of a single test starts at once.
"""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.base.wait import until as until
from infra.bench import trial
from infra.bench.trial import INTERRUPTIBLE as INTERRUPTIBLE  # tests take these from here
from infra.images import targets
from infra.model.load import load_cluster
from infra.places.kind import facts, manifests
from infra.places.kind import job as jobs
from infra.places.kind.cluster import Kind
from infra.places.kind.objects import JOBS, PODS
from infra.places.kind.view import View, gone
from infra.places.verbs import KUBERNETES_JOB
from infra.proof import run as job
from tests import trials
from tests.training import STEPS, TRAIN, History, history

NAME = "testkind"
TEAM = "research"
LAST = ("test_down.py", "test_both.py")  # the first ends the cluster, the second has another


@dataclass(frozen=True)
class Trial:
    """The cluster under test, and what a person does with it."""

    kind: Kind
    file: Path
    env: dict[str, str]
    first: subprocess.CompletedProcess[str]
    kept: set[str] = field(default_factory=set)  # jobs that several tests look at

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["make", *words], cwd=CHECKOUT, env=self.env, capture_output=True, text=True, check=False
        )

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        """A command line in the user's own shell, with bin/ on PATH."""
        return subprocess.run(
            ["bash", "-c", command], cwd=CHECKOUT, env=self.env, capture_output=True, text=True, check=False
        )

    def ok(self, command: str) -> str:
        """What `command` prints; the test fails when the command does."""
        done = self.sh(command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def manifest(
        self,
        name: str,
        *options: str,
        change: Callable[[Any], None] | None = None,
        like: str = KUBERNETES_JOB,
    ) -> Path:
        """The manifest `like` under another name, with more options for the program and one change."""
        (data,) = manifests.read(CHECKOUT / like, like)
        data = json.loads(json.dumps(data))  # without anchors, so that a change is made once for each
        data["metadata"]["name"] = name
        for replica in data["spec"]["pytorchReplicaSpecs"].values():
            container = replica["template"]["spec"]["containers"][0]
            args = [arg for arg in container["args"] if not arg.startswith("--run.folder=")]
            container["args"] = [*args, f"--run.folder=runs/{name}", *options]
        if change:
            change(data)
        file = self.kind.folder / "jobs" / f"{name}.json"
        file.parent.mkdir(exist_ok=True)
        file.write_text(json.dumps(data, indent=1))
        return file

    def apply(
        self,
        name: str,
        *options: str,
        change: Callable[[Any], None] | None = None,
        like: str = KUBERNETES_JOB,
    ) -> job.Run:
        """`kubectl apply -f` of such a job."""
        self.ok(f"kubectl apply -f {self.manifest(name, *options, change=change, like=like)}")
        return jobs.run_of(self.kind, name)

    def refused(self, name: str, change: Callable[[Any], None]) -> str:
        """What `kubectl apply` says to such a job; the test fails when it is taken."""
        done = self.sh(f"kubectl apply -f {self.manifest(name, change=change)}")
        assert done.returncode != 0, done.stdout
        return done.stderr

    def look(self, name: str) -> facts.Job:
        found = jobs.find(self.kind, TEAM, name)
        assert found, f"no job {name}"
        return found

    def waits(self, name: str) -> str:
        """What a job waits for, as `make status` shows it."""
        return self.look(name).waits

    def finish(self, run: job.Run, timeout_s: float = 600) -> job.Run:
        return jobs.follow(self.kind, run, TEAM, timeout_s=timeout_s)

    def prometheus(self, query: str) -> list[dict[str, Any]]:
        """What Prometheus in the cluster answers to a query."""
        service = "/api/v1/namespaces/slipway-system/services/prometheus:9090/proxy/api/v1/query"
        said = self.ok(f"kubectl get --raw '{service}?query={quote(query)}'")
        found: list[dict[str, Any]] = json.loads(said)["data"]["result"]
        return found

    def pods(self, name: str) -> list[dict[str, Any]]:
        return self.kind.api.get(PODS, namespace=TEAM, selector=f"{facts.JOB_LABEL}={name}")

    def placed(self, name: str) -> list[dict[str, Any]]:
        """The two pods of a job once each has a node; later the worker's goes when the master is done."""
        with View(self.kind.api, PODS, namespace=TEAM, selector=f"{facts.JOB_LABEL}={name}") as seen:
            found: list[dict[str, Any]] = []

            def waits() -> str:
                found[:] = [each for each in seen.of(PODS) if "nodeName" in each["spec"]]
                return "" if len(found) == 2 else f"{len(found)} of two pods"

            seen.until(waits, 120, what="nodes for two pods")
        return found

    def remove(self) -> None:
        """Remove every job but those that are kept."""
        here = [each for each in self.kind.api.get(JOBS) if facts.name(each) not in self.kept]
        for each in here:
            self.kind.api.delete(JOBS, facts.name(each), each["metadata"]["namespace"])
        if here:
            gone(self.kind.api, JOBS, names={facts.name(each) for each in here}, timeout_s=120)


def docker(*words: str) -> str:
    return output(["docker", *words])


def torchruns(python: str, *options: str) -> str:
    """A script for two plain torchruns that meet on one machine and train `jobs/ddp.yaml` into runs/plain."""
    train = f"-m jobs.train --config jobs/ddp.yaml --run.folder=runs/plain {' '.join(options)}"
    launch = f"{python} -m jobs.torchrun --nnodes=2 --nproc-per-node=1 --master-addr=127.0.0.1"
    return f"{launch} --node-rank=1 {train} & {launch} --node-rank=0 {train}; wait"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LAST.index(item.path.name) + 1 if item.path.name in LAST else 0)


@pytest.fixture(scope="session")
def kind() -> Iterator[Trial]:
    file = trial.cluster_file(NAME, like="kind")
    env = trial.environment(NAME, file)
    there = Kind(load_cluster(file))
    first = trials.first_up(env)
    env["KUBECONFIG"] = str(there.kubeconfig)
    yield Trial(there, file, env, first)
    if trials.down(env):
        file.unlink()


@pytest.fixture(autouse=True)
def quiet(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test leaves a job behind for the next one."""
    yield
    if "kind" in request.fixturenames and request.path.name not in LAST:
        running: Trial = request.getfixturevalue("kind")
        running.remove()


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> History:
    """The losses of the same job without any scheduler: two plain torchruns, which meet in one container."""
    folder = tmp_path_factory.mktemp("reference")
    tags = targets.current(["base", "cuda13"])
    assert tags, "cluster-up has built them"
    stack = Path(tags["cuda13"])
    docker(
        *("run", "--rm", "--init", "--user", f"{os.getuid()}:{os.getgid()}", "--shm-size", "1g"),
        *("--env", "HOME=/tmp", "--env", "USER=ml", "--env", "PYTHONDONTWRITEBYTECODE=1"),
        *("--volume", f"{stack}:/opt/stack/{stack.name}:ro", "--volume", f"{folder}:/workspace/runs"),
        *("--volume", f"{CHECKOUT}/jobs:/workspace/jobs:ro", "--workdir", "/workspace"),
        *(tags["base"], "bash", "-c", torchruns(f"/opt/stack/{stack.name}/bin/python", *TRAIN)),
    )
    found = history(job.Run("plain", runs=folder))
    assert len(found) == STEPS
    return found
