"""Put everything of k8s/ into the cluster, each part when what it needs is there.

Namespaces and definitions of resources, then operators and all else, then what operators' webhooks look at:
queues. Applying it again changes nothing.
"""

import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.images import programs
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import name, stuck

TIMEOUT_S = 300  # for everything to be available; 30 s here when images are on the nodes
FIRST = ("CustomResourceDefinition", "Namespace", "PriorityClass")
UPSTREAM = ("training-operator", "kueue")  # programs whose modules have manifests that ours build on


@dataclass(frozen=True)
class Stages:
    """Manifests in the order in which they can be applied."""

    first: str
    rest: str

    @classmethod
    def of(cls, text: str) -> "Stages":
        """From what kustomize prints: documents with a line `---` between them."""
        documents = [part for part in re.split(r"^---\n", text, flags=re.MULTILINE) if part.strip()]
        first = [part for part in documents if _kind(part) in FIRST]
        rest = [part for part in documents if _kind(part) not in FIRST]
        return cls("---\n".join(first), "---\n".join(rest))


def _kind(document: str) -> str:
    found = re.search(r"^kind: *(\S+)", document, re.MULTILINE)
    return found[1] if found else ""


def deploy(kind: Kind, this: Step) -> list[str]:
    """Apply build/<cluster>/kubernetes and wait until all of it works. Raises Failure with what does not.

    Returns the names of all services, for `missing`.
    """
    this.doing("namespaces and resource definitions")
    copy_upstream(kind.manifests)
    stages = Stages.of(_built(kind, kind.manifests))
    kind.apply(stages.first)
    kind.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
    this.doing("operators")
    _until(lambda: kind.apply(stages.rest), "applying k8s/")
    wait_available(kind, this)
    this.doing("queues")
    queues = _built(kind, kind.manifests / "queues")
    _until(lambda: kind.apply(queues), "applying queues")
    deployed = workloads(kind)
    shown = [name(each) for each in deployed if each["kind"] == "Deployment" and name(each) != "coredns"]
    this.did(" · ".join(shown))
    return [_full(each) for each in deployed]


def missing(kind: Kind, services: list[str]) -> list[str]:
    """Which of the services that were deployed somebody has removed."""
    there = {_full(each) for each in workloads(kind)}
    return [service for service in services if service not in there]


def _full(each: dict[str, Any]) -> str:
    return f"{each['kind']} {each['metadata']['namespace']}/{name(each)}"


def _built(kind: Kind, folder: Path) -> str:
    return kind.kubectl("kustomize", folder, "--load-restrictor=LoadRestrictionsNone")


def copy_upstream(manifests: Path) -> None:
    """Put the operators' own manifests, of the versions that are built, beside ours, which name them there.

    `upstream/<program>/base` is <module>/manifests/base: kustomize takes no folders by absolute paths.
    """
    for program in UPSTREAM:
        target = manifests / programs.UPSTREAM / program
        shutil.rmtree(target, ignore_errors=True)
        for source in (programs.folder(program) / programs.UPSTREAM).iterdir():
            shutil.copytree(source, target, dirs_exist_ok=True)


def _until(apply: Callable[[], object], what: str, timeout_s: float = 90) -> None:
    """Apply until it is taken: a webhook answers some seconds after its operator is available."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            apply()
            return
        except Failure as failure:
            passing = ("failed calling webhook", "connection refused", "no matches for kind", "EOF")
            if time.monotonic() > deadline or not any(word in str(failure) for word in passing):
                raise Failure(f"{what}: {failure}") from None
        time.sleep(1)


def wait_available(kind: Kind, this: Step) -> None:
    """Wait until every deployment and daemon set is. Raises Failure that names those that are not, and why."""
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        waiting = [each for each in workloads(kind) if not available(each)]
        if not waiting:
            return
        names = ", ".join(name(each) for each in waiting)
        this.doing(f"waiting for {names}")
        if time.monotonic() > deadline:
            raise Failure(f"not available after {TIMEOUT_S} s: {names}\n{_why(kind)}")
        time.sleep(0.5)


def workloads(kind: Kind) -> list[dict[str, Any]]:
    """Every deployment and daemon set."""
    return kind.get("deployments,daemonsets", "--all-namespaces")


def available(each: dict[str, Any]) -> bool:
    """Whether as many pods of its newest version run as it wants."""
    status, wanted = each.get("status", {}), each["spec"].get("replicas", 1)
    if status.get("observedGeneration", 0) < each["metadata"]["generation"]:
        return False
    if each["kind"] == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        ready, newest = status.get("numberAvailable", 0), status.get("updatedNumberScheduled", 0)
    else:
        ready, newest = status.get("availableReplicas", 0), status.get("updatedReplicas", 0)
    return bool(ready >= wanted and newest >= wanted)


def _why(kind: Kind) -> str:
    """A line for each pod of the system that does not run."""
    pods = [pod for pod in kind.get("pods", "--all-namespaces") if pod["status"]["phase"] != "Succeeded"]
    return "\n".join(f"  {text}" for pod in pods if (text := stuck(pod)))
