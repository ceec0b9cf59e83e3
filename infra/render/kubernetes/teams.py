"""A namespace for each account, and what holds in it: security, network, quotas, limits of jobs.

What Kueue counts are jobs. The ResourceQuota is the fence behind it, for pods that belong to no job.
"""

from typing import Any

from infra.model.cluster import AccountFile, Cluster
from infra.render.kubernetes import machines
from infra.render.kubernetes.nodes import PREFIX
from infra.render.kubernetes.quotas import CPU, MEMORY, Quotas, capacity, quotas, resources
from infra.render.text import origin, yaml

NAMES = ("kubernetes/teams.yaml", "kubernetes/priorities.yaml")
SECURITY = "v1.34"  # the release whose Pod Security Standard is meant
UNITS = {CPU: "m", MEMORY: "Mi"}

Object = dict[str, Any]


def render(cluster: Cluster) -> dict[str, str]:
    """kubernetes/teams.yaml and priorities.yaml."""
    rights = quotas(cluster)
    teams = [
        each for name, account in cluster.accounts.items() for each in _team(cluster, name, account, rights)
    ]
    return {
        "kubernetes/teams.yaml": documents(cluster, teams),
        "kubernetes/priorities.yaml": documents(cluster, _priorities(cluster)),
    }


def documents(cluster: Cluster, objects: list[Object]) -> str:
    """Objects as one file."""
    return f"# {origin(cluster)}\n" + "---\n".join(yaml(each) for each in objects)


def most(rights: Quotas, team: str) -> dict[str, int]:
    """What a team can have of each resource, everything borrowed, over all pools."""
    found: dict[str, int] = {}
    for pool in rights[team].values():
        for name, quota in pool.items():
            found[name] = found.get(name, 0) + quota.most
    return found


def _team(cluster: Cluster, team: str, account: AccountFile, rights: Quotas) -> list[Object]:
    levels = {
        f"pod-security.kubernetes.io/{mode}{part}": value
        for mode in ("enforce", "audit", "warn")
        for part, value in (("", "restricted"), ("-version", SECURITY))
    }
    namespace = object_("v1", "Namespace", team)
    namespace["metadata"]["labels"] = {f"{PREFIX}/team": team, **levels}
    namespace["metadata"]["annotations"] = {f"{PREFIX}/description": account.description}
    return [
        namespace,
        _limits(cluster, team, account, rights),
        object_("v1", "ConfigMap", machines.NAME, team, data=machines.files(cluster)),
        _resource_quota(team, rights),
        _limit_range(team),
        *_network(team),
    ]


def object_(api: str, kind: str, name: str, namespace: str | None = None, **content: Any) -> Object:
    where = {"name": name} | ({"namespace": namespace} if namespace else {})
    return {"apiVersion": api, "kind": kind, "metadata": where, **content}


def _limits(cluster: Cluster, team: str, account: AccountFile, rights: Quotas) -> Object:
    """What k8s/base/policies refuses a job by: a key is `most.` or `pod.` and a resource, with _ for its /."""
    data = {"queue": team, "priorities": ",".join(account.qos)}
    biggest: dict[str, int] = {}
    for pool in cluster.pools:
        for name, amount in capacity(pool, 1).items():
            biggest[name] = max(biggest.get(name, 0), amount)
    for name in resources(cluster):
        key = name.replace("/", "_")
        data[f"most.{key}"] = f"{most(rights, team)[name]}{UNITS.get(name, '')}"
        data[f"pod.{key}"] = f"{biggest[name]}{UNITS.get(name, '')}"
    return object_("v1", "ConfigMap", "slipway-queue", team, data=data)


def _resource_quota(team: str, rights: Quotas) -> Object:
    """Twice what Kueue gives: a pod that ends is still counted while the next one is made.

    With less, the operator would be refused that pod, and try again only after more than a minute.
    """
    hard: dict[str, str] = {}
    for name, amount in most(rights, team).items():
        hard[f"requests.{name}"] = f"{2 * amount}{UNITS.get(name, '')}"
    hard["services.nodeports"] = hard["services.loadbalancers"] = "0"  # nothing of a job is for outside
    return object_("v1", "ResourceQuota", "team", team, spec={"hard": hard})


def _limit_range(team: str) -> Object:
    """What a container gets that does not ask, such as the operator's init container."""
    limit = {
        "type": "Container",
        "defaultRequest": {"cpu": "100m", "memory": "64Mi"},
        "default": {"cpu": "1", "memory": "1Gi"},
    }
    return object_("v1", "LimitRange", "defaults", team, spec={"limits": [limit]})


def _network(team: str) -> list[Object]:
    """Nothing in or out, but: pods of jobs among each other, names, and Prometheus to their metrics."""
    api = "networking.k8s.io/v1"
    jobs = {"matchExpressions": [{"key": "training.kubeflow.org/job-name", "operator": "Exists"}]}
    dns = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
        "podSelector": {"matchLabels": {"k8s-app": "kube-dns"}},
    }
    prometheus = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "slipway-system"}},
        "podSelector": {"matchLabels": {"app": "prometheus"}},
    }
    both = ["Ingress", "Egress"]
    return [
        object_(api, "NetworkPolicy", "deny-all", team, spec={"podSelector": {}, "policyTypes": both}),
        object_(
            api,
            "NetworkPolicy",
            "names",
            team,
            spec={
                "podSelector": {},
                "policyTypes": ["Egress"],
                "egress": [
                    {
                        "to": [dns],
                        "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
                    }
                ],
            },
        ),
        # A policy cannot say "of the same job": a selector compares with a fixed value. So it is jobs of the team.
        object_(
            api,
            "NetworkPolicy",
            "jobs",
            team,
            spec={
                "podSelector": jobs,
                "policyTypes": both,
                "ingress": [
                    {"from": [{"podSelector": jobs}]},
                    {"from": [prometheus], "ports": [{"protocol": "TCP", "port": 9101}]},
                ],
                "egress": [{"to": [{"podSelector": jobs}]}],
            },
        ),
    ]


def _priorities(cluster: Cluster) -> list[Object]:
    """A priority class of pods for each QOS. It never preempts: Kueue does, and whole jobs."""
    return [
        object_(
            "scheduling.k8s.io/v1",
            "PriorityClass",
            name,
            value=qos.priority,
            preemptionPolicy="Never",
            description=f"QOS {name} of {cluster.file}",
        )
        for name, qos in cluster.spec.qos.items()
    ]
