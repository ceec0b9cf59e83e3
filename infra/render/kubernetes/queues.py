"""Kueue: a flavor for each pool, a queue for each account with its share of them, a priority for each QOS.

All accounts are one cohort: what one does not use, the others borrow, and give back to jobs of higher priority.
"""

from typing import Any

from infra.model.cluster import Cluster, Pool
from infra.render.kubernetes.nodes import PREFIX, taints
from infra.render.kubernetes.quotas import Quota, quotas, resources
from infra.render.kubernetes.teams import UNITS, Object, documents, object_
from infra.render.text import origin, yaml

API = "kueue.x-k8s.io/v1beta1"


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/queues/: applied when Kueue's webhooks answer."""
    pools = sorted(cluster.pools, key=lambda pool: pool.weight)  # stable: in the file's order where equal
    rights = quotas(cluster)
    objects = [_flavor(pool) for pool in pools]
    objects += [_priority(cluster, name, qos.priority) for name, qos in cluster.spec.qos.items()]
    for team, account in cluster.accounts.items():
        flavors = [_quota(pool, rights[team][pool.name]) for pool in pools]
        objects += [_cluster_queue(cluster, team, flavors), _local_queue(team)]
        if account.max_submitted is not None:
            objects.append(_count(team, account.max_submitted))
    content = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["queues.yaml"],
    }
    return {
        "kubernetes/queues/kustomization.yaml": f"# {origin(cluster)}\n{yaml(content)}",
        "kubernetes/queues/queues.yaml": documents(cluster, objects),
    }


def _flavor(pool: Pool) -> Object:
    """Nodes of one pool. Only jobs that tolerate its taints are given it, so CPU jobs stay off GPU nodes."""
    spec: dict[str, Any] = {"nodeLabels": {f"{PREFIX}/pool": pool.name}}
    if taints(pool):
        spec["nodeTaints"] = taints(pool)
    return {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": pool.name}, "spec": spec}


def _priority(cluster: Cluster, name: str, value: int) -> Object:
    return {
        "apiVersion": API,
        "kind": "WorkloadPriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": f"QOS {name} of {cluster.file}",
    }


def _quota(pool: Pool, rights: dict[str, Quota]) -> dict[str, Any]:
    rows = []
    for name, quota in rights.items():
        unit = UNITS.get(name, "")
        row = {"name": name, "nominalQuota": f"{quota.nominal}{unit}"}
        if quota.capped:
            row["borrowingLimit"] = f"{quota.most - quota.nominal}{unit}"
        rows.append(row)
    return {"name": pool.name, "resources": rows}


def _cluster_queue(cluster: Cluster, team: str, flavors: list[dict[str, Any]]) -> Object:
    preempts = any(qos.preempts for qos in cluster.spec.qos.values())
    policy = "LowerPriority" if preempts else "Never"
    return {
        "apiVersion": API,
        "kind": "ClusterQueue",
        "metadata": {"name": team},
        "spec": {
            "cohort": cluster.name,
            "namespaceSelector": {"matchLabels": {f"{PREFIX}/team": team}},
            "queueingStrategy": "BestEffortFIFO",  # a job that does not fit yet lets smaller ones pass
            "preemption": {
                "withinClusterQueue": policy,
                "reclaimWithinCohort": policy,
                "borrowWithinCohort": {"policy": policy},
            },
            "resourceGroups": [{"coveredResources": resources(cluster), "flavors": flavors}],
        },
    }


def _local_queue(team: str) -> Object:
    return {
        "apiVersion": API,
        "kind": "LocalQueue",
        "metadata": {"name": team, "namespace": team},
        "spec": {"clusterQueue": team},
    }


def _count(team: str, jobs: int) -> Object:
    """How many jobs a team may have, waiting ones too.

    A quota of a kind that is newer than it refuses everything until the next resync, minutes later. So it comes
    with the queues, when PyTorchJobs are known, and not with the team.
    """
    hard = {"count/pytorchjobs.kubeflow.org": str(jobs)}
    return object_("v1", "ResourceQuota", "jobs", team, spec={"hard": hard})
