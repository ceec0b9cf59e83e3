"""Machines that are not there: kwok plays a thousand nodes of a real cluster, and the pods of jobs on them.

Node, team, queue and priorities are rendered from a cluster file, as those of every cluster are; all of them are
called `scale`, and so are beside those of the cluster that carries them. The jobs are k8s/pytorchjob.yaml with
eight GPUs a pod. Control plane, operator and Kueue are real, and work as they would for real machines.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.process import start
from infra.base.progress import Step
from infra.bench.render import tree
from infra.images import programs
from infra.model.cluster import Cluster
from infra.model.load import load_cluster
from infra.places.kind import manifests
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import name, ready
from infra.places.kind.manifests import Manifest
from infra.places.kind.objects import CLUSTER_QUEUES, NAMESPACES, NODES, Object, Resource
from infra.places.kind.view import View, gone
from infra.places.verbs import KUBERNETES_JOB
from infra.render.kubernetes import nodes as rendered
from infra.render.kubernetes import queues, teams
from infra.render.kubernetes.quotas import capacity, resources
from infra.render.kubernetes.teams import UNITS

NAME = "scale"
LABEL = "slipway.dev/played=kwok"
MOST = 2000  # nodes: each gets 16 addresses of the upper half of the pod network
TAINT = {"key": "kwok.x-k8s.io/node", "value": "fake", "effect": "NoSchedule"}
PRIORITIES = ("scale-low", "scale-normal", "scale-high")
GPU, GPUS = "nvidia.com/gpu", 8  # of a pod: a whole node
PODS = 2  # of a job
FILE = """\
name: scale
description: {nodes} machines that kwok plays
place: metal
schedulers: [kubernetes]
services: {{hardware: cpu-epyc-2s}}
pools:
  scale: {{hardware: h100-sxm-8x, count: {nodes}, nodes: "fake[1-{nodes}]"}}
qos:
  scale-low: {{priority: 1}}
  scale-normal: {{priority: 100}}
  scale-high: {{priority: 1000}}
accounts:
  scale: {{description: Jobs of machines that are not there, qos: [scale-low, scale-normal, scale-high]}}
"""
# What kwok does to a node and to a pod, of the files that come with it: ready at once, gone when it should go.
STAGES = (
    "stage/node/fast/node-initialize.yaml",
    "stage/node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "stage/pod/fast/pod-ready.yaml",
    "stage/pod/fast/pod-delete.yaml",
)
# Each node's lease is renewed four times in this. Kubelets do it every 10 s; what renews a thousand on one machine
# would be measured with the rest. A node whose lease stays for 40 s is taken for dead.
LEASE_S = 100

FLAVORS = Resource(CLUSTER_QUEUES.version, "ResourceFlavor")
WORKLOAD_PRIORITIES = Resource(CLUSTER_QUEUES.version, "WorkloadPriorityClass")
PRIORITY_CLASSES = Resource("scheduling.k8s.io/v1", "PriorityClass")


@contextmanager
def played(kind: Kind, count: int, this: Step) -> Iterator[Cluster]:
    """`count` nodes in the cluster `kind`, with a team and a queue that may use nothing yet; removed at the end."""
    cluster = load(count)
    with _kwok(kind, this):
        remove(kind)  # what a killed one has left
        try:
            this.doing(f"{count} nodes")
            create(kind, [node(cluster, number) for number in range(count)])
            with View(kind.api, NODES, selector=LABEL) as seen:
                seen.until(lambda: _missing(seen, count), 300, what=f"{count} nodes")
            texts = [teams.render(cluster)[name] for name in teams.NAMES]
            for text in [*texts, queues.render(cluster)["kubernetes/queues/queues.yaml"]]:
                kind.api.apply([Manifest.of(each) for each in manifests.objects(text, NAME)])
            allow(kind, cluster, 0)
            yield cluster
        finally:
            this.doing("removing nodes and jobs")
            remove(kind)


def load(count: int) -> Cluster:
    """The cluster file with so many nodes."""
    assert count <= MOST, f"{count} nodes: no addresses for more than {MOST}"
    with tempfile.TemporaryDirectory() as scratch:
        root = tree(Path(scratch))
        (root / "clusters" / f"{NAME}.yaml").write_text(FILE.format(nodes=count))
        return load_cluster(f"clusters/{NAME}.yaml", root=root)


def node(cluster: Cluster, number: int) -> Object:
    """A node as its kubelet would announce it, but without `kubernetes.io/os`: no daemon set is for it."""
    (pool,) = cluster.pools
    name = pool.nodes[number]
    key, value = LABEL.split("=")
    has = {what: f"{amount}{UNITS.get(what, '')}" for what, amount in capacity(pool, 1).items()} | {
        "pods": "110"
    }
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {**rendered.labels(pool), "kubernetes.io/hostname": name, key: value},
        },
        "spec": {
            "podCIDR": f"10.244.{128 + number // 16}.{number % 16 * 16}/28",
            "taints": [*rendered.taints(pool), TAINT],
        },
        "status": {"capacity": has, "allocatable": has},
    }


def job(name: str, priority: str) -> Object:
    """k8s/pytorchjob.yaml on two whole nodes, without the volumes, which no one would mount."""
    (committed,) = manifests.read(CHECKOUT / KUBERNETES_JOB, KUBERNETES_JOB)
    data: Object = json.loads(
        json.dumps(committed)
    )  # without anchors, so that a change is made once for each
    data["metadata"]["name"], data["metadata"]["namespace"] = name, NAME
    data["metadata"]["labels"] = {
        "kueue.x-k8s.io/queue-name": NAME,
        "kueue.x-k8s.io/priority-class": priority,
    }
    data["spec"]["runPolicy"].pop("activeDeadlineSeconds")  # they run until they are removed
    for replica in data["spec"]["pytorchReplicaSpecs"].values():
        pod = replica["template"]["spec"]
        pod["priorityClassName"] = priority
        pod["terminationGracePeriodSeconds"] = 1  # a namespace that is removed waits so long for its pods
        pod["tolerations"].append({"key": TAINT["key"], "operator": "Exists"})
        for spread in pod["topologySpreadConstraints"]:
            spread["labelSelector"]["matchLabels"] = {"training.kubeflow.org/job-name": name}
        gone = {volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume}
        pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] not in gone]
        (container,) = pod["containers"]
        container["volumeMounts"] = [each for each in container["volumeMounts"] if each["name"] not in gone]
        for amounts in container["resources"].values():
            amounts[GPU] = GPUS
    return data


def jobs(first: int, last: int) -> list[Object]:
    """Jobs number `first` up to, not with, `last`: by turns of low, normal and high priority."""
    return [job(f"fake-{number:04d}", PRIORITIES[number % len(PRIORITIES)]) for number in range(first, last)]


def create(kind: Kind, objects: Sequence[Object]) -> None:
    """Create all of them, one request each."""
    for each in objects:
        kind.api.create(Manifest.of(each))


def allow(kind: Kind, cluster: Cluster, gpus: int) -> float:
    """Let the queue have so many GPUs at once; returns when that was asked for, in Unix seconds."""
    place = resources(cluster).index(GPU)
    path = f"/spec/resourceGroups/0/flavors/0/resources/{place}/nominalQuota"
    patch = [{"op": "replace", "path": path, "value": str(gpus)}]
    begin = time.time()
    kind.api.patch(CLUSTER_QUEUES, NAME, patch)
    return begin


def remove(kind: Kind) -> None:
    """Remove everything that is called `scale`, and the nodes. kwok must run, which lets pods go."""
    nodes = [name(each) for each in kind.api.get(NODES, selector=LABEL)]
    named = [(NAMESPACES, [NAME]), (CLUSTER_QUEUES, [NAME]), (FLAVORS, [NAME])]
    named += [(kind_, list(PRIORITIES)) for kind_ in (WORKLOAD_PRIORITIES, PRIORITY_CLASSES)]
    for resource, names in [*named, (NODES, nodes)]:
        for each in names:
            kind.api.delete(resource, each)
        gone(kind.api, resource, names=names, timeout_s=600)


def _missing(seen: View, count: int) -> str:
    there = sum(ready(each) for each in seen.of(NODES))
    return "" if there == count else f"{there} are ready"


@contextmanager
def _kwok(kind: Kind, this: Step) -> Iterator[None]:
    """kwok on this machine, for as long as the block takes."""
    folder = programs.ensure("kwok", this)
    log = kind.folder / "logs" / "kwok.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    stages = [f"--config={folder / programs.UPSTREAM / 'kustomize' / stage}" for stage in STAGES]
    words = [str(folder / "kwok"), f"--kubeconfig={kind.kubeconfig}", *stages]
    words += [f"--manage-nodes-with-label-selector={LABEL}", f"--node-lease-duration-seconds={LEASE_S}"]
    with log.open("w") as file:
        process = start(words, stdout=file, stderr=subprocess.STDOUT)
    try:
        time.sleep(1)
        if process.poll() is not None:
            said = log.read_text().strip().splitlines()
            raise Failure(f"kwok has ended ({process.returncode}): {said[-1] if said else ''}\n  log: {log}")
        yield
    finally:
        process.terminate()
        process.wait()
