"""Check a running cluster: its nodes, their accelerators, its own services, its queues."""

import json
from collections.abc import Iterator

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.places.kind import deploy
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import name, reason
from infra.places.kind.objects import CLAIMS, CLUSTER_QUEUES, DAEMON_SETS, DEPLOYMENTS, NODES, QUOTAS
from infra.places.kind.view import View

LOOKED_AT = (NODES, DEPLOYMENTS, DAEMON_SETS, CLUSTER_QUEUES, QUOTAS, CLAIMS)
SETTLE_S = 60  # accelerators are announced, volumes bound and queues active seconds after all services run


def verify(kind: Kind, this: Step) -> None:
    """Raises Failure with a line for each check that failed."""
    this.doing("nodes, accelerators, services, queues")
    deploy.wait_available(kind, this)
    with View(kind.api, *LOOKED_AT) as seen:
        done: list[tuple[str, str]] = []

        def wrong() -> str:
            done[:] = checks(kind, seen)
            return ", ".join(what for what, found in done if found)

        try:
            seen.until(wrong, SETTLE_S, step=this)
        except Failure as failure:
            found = [f"  {what}: {text}" for what, text in done if text]
            told = [f"{len(found)} of {len(done)} checks failed", *found] if found else [str(failure)]
            raise Failure("\n".join(told)) from None
    this.did(f"{len(done)} checks on {1 + len(kind.workers)} nodes")


def checks(kind: Kind, seen: View) -> Iterator[tuple[str, str]]:
    """What was checked, and what is wrong with it; empty when nothing is."""
    nodes = {name(node): node for node in seen.of(NODES)}
    yield "API server", "" if kind.answers() else "not ready"
    for container in (kind.control_plane, *kind.workers.values()):
        found = reason(nodes[container]) if container in nodes else "not in the cluster"
        yield f"node {kind.called(container)}", found
    for pool in kind.cluster.pools:
        gpus = pool.hardware.accelerators
        for node in pool.nodes:
            there = nodes.get(kind.workers[node], {}).get("status", {}).get("allocatable", {})
            if gpus and gpus.kubernetes_resource:
                has = there.get(gpus.kubernetes_resource, "0")
                wrong = "" if has == str(pool.gpus) else f"{has} instead of {pool.gpus}"
                yield f"{gpus.kubernetes_resource} of {node}", wrong
    for each in (*seen.of(DEPLOYMENTS), *seen.of(DAEMON_SETS)):
        yield f"{each['kind']} {name(each)}", "" if deploy.available(each) else "not available"
    for queue in seen.of(CLUSTER_QUEUES):
        active = [c for c in queue.get("status", {}).get("conditions", []) if c["type"] == "Active"]
        fine = bool(active) and active[0]["status"] == "True"
        yield f"queue {name(queue)}", "" if fine else json.dumps(active and active[0].get("message"))
    for quota in seen.of(QUOTAS):
        where, used = quota["metadata"]["namespace"], quota.get("status", {}).get("used", {})
        missing = sorted(quota["spec"]["hard"].keys() - used.keys())
        yield f"quota of {where}", f"not counted yet: {', '.join(missing)}" if missing else ""
    for claim in seen.of(CLAIMS):
        phase = claim.get("status", {}).get("phase")
        yield f"volume {claim['metadata']['namespace']}/{name(claim)}", "" if phase == "Bound" else str(phase)
