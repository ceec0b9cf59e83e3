"""Put everything of k8s/ into the cluster, each part when what it needs is there.

Namespaces and definitions of resources, then operators and all else, then what operators' webhooks look at:
queues. Applying it again changes nothing.
"""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from infra import hostlist
from infra.errors import Failure
from infra.kind.cluster import NODE, Kind
from infra.kind.facts import name, stuck
from infra.progress import Step

TIMEOUT_S = 300  # for everything to be available; 30 s here when images are on the nodes
FIRST = ("CustomResourceDefinition", "Namespace", "PriorityClass")
LAST = ("kueue.x-k8s.io/", "kubeflow.org/")  # API groups of operators of ours


@dataclass(frozen=True)
class Stages:
    """Manifests in the order in which they can be applied."""

    first: str
    second: str
    last: str

    @classmethod
    def of(cls, text: str) -> "Stages":
        """From what kustomize prints: documents with a line `---` between them."""
        parts: dict[str, list[str]] = {"first": [], "second": [], "last": []}
        for document in re.split(r"^---\n", text, flags=re.MULTILINE):
            if not document.strip():
                continue
            kind = _top(document, "kind")
            late = _top(document, "apiVersion").startswith(LAST)
            parts["first" if kind in FIRST else "last" if late else "second"].append(document)
        return cls(**{stage: "---\n".join(documents) for stage, documents in parts.items()})


def _top(document: str, key: str) -> str:
    found = re.search(rf"^{key}: *(\S+)", document, re.MULTILINE)
    return found[1] if found else ""


def deploy(kind: Kind, this: Step) -> None:
    """Apply build/<cluster>/kubernetes and wait until all of it works. Raises Failure with what does not."""
    this.doing("labels and taints of nodes")
    mark_nodes(kind)
    stages = Stages.of(kind.kubectl("kustomize", kind.manifests, "--load-restrictor=LoadRestrictionsNone"))
    this.doing("namespaces and resource definitions")
    kind.apply(stages.first)
    kind.kubectl("wait", "crd", "--all", "--for=condition=Established", "--timeout=60s")
    this.doing("operators")
    _until(lambda: kind.apply(stages.second), "applying k8s/")
    wait_available(kind, this)
    if stages.last:
        this.doing("queues")
        _until(lambda: kind.apply(stages.last), "applying queues")
    deployed = workloads(kind)
    this.did(" · ".join(name(each) for each in deployed if each["kind"] == "Deployment"))


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


def mark_nodes(kind: Kind) -> None:
    """Give each node its pool's labels, taints and simulated accelerators, as kubernetes/nodes.yaml says."""
    there = {name(node): node for node in kind.get("nodes")}
    for pool in YAML(typ="safe").load_all((kind.manifests / "nodes.yaml").read_text()):
        for node in hostlist.expand(pool["nodes"]):
            worker = kind.workers[node]
            if worker not in there:
                raise Failure(f"Kubernetes has no node {worker} ({node}): see {kind.folder}/logs/kind.log")
            _mark(kind, there[worker], {NODE: node} | pool["labels"], pool["taints"], pool["capacity"])


def _mark(
    kind: Kind, node: dict[str, Any], labels: dict[str, str], taints: list[Any], capacity: dict[str, str]
) -> None:
    """Set what differs. Simulated accelerators are capacity that nobody takes away: the kubelet keeps it."""
    if labels.items() - node["metadata"].get("labels", {}).items():
        words = [f"{key}={value}" for key, value in labels.items()]
        kind.kubectl("label", "node", name(node), "--overwrite", *words)
    has = [(each["key"], each.get("value"), each["effect"]) for each in node["spec"].get("taints", [])]
    missing = [each for each in taints if (each["key"], each.get("value"), each["effect"]) not in has]
    if missing:
        words = [f"{each['key']}={each['value']}:{each['effect']}" for each in missing]
        kind.kubectl("taint", "node", name(node), "--overwrite", *words)
    if capacity.items() - node["status"].get("allocatable", {}).items():
        patch = json.dumps({"status": {"capacity": capacity, "allocatable": capacity}})
        kind.kubectl("patch", "node", name(node), "--subresource=status", "--patch", patch)


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
