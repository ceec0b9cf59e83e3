"""Check a running cluster: its nodes, their accelerators, its own services, its queues."""

import json
import time
from collections.abc import Iterator

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.places.kind import deploy
from infra.places.kind.cluster import Kind
from infra.places.kind.facts import name, reason

SETTLE_S = 60  # accelerators are announced, volumes bound and queues active seconds after all services run


def verify(kind: Kind, this: Step) -> None:
    """Raises Failure with a line for each check that failed."""
    this.doing("nodes, accelerators, services, queues")
    deploy.wait_available(kind, this)
    deadline = time.monotonic() + SETTLE_S
    while True:
        done = list(checks(kind))
        wrong = [f"  {what}: {found}" for what, found in done if found]
        if not wrong:
            break
        if time.monotonic() > deadline:
            raise Failure(f"{len(wrong)} of {len(done)} checks failed\n" + "\n".join(wrong))
        time.sleep(1)
    this.did(f"{len(done)} checks on {1 + len(kind.workers)} nodes")


def checks(kind: Kind) -> Iterator[tuple[str, str]]:
    """What was checked, and what is wrong with it; empty when nothing is."""
    nodes = {name(node): node for node in kind.get("nodes")}
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
    for each in deploy.workloads(kind):
        yield f"{each['kind']} {name(each)}", "" if deploy.available(each) else "not available"
    for queue in kind.get("clusterqueues.kueue.x-k8s.io"):
        active = [c for c in queue.get("status", {}).get("conditions", []) if c["type"] == "Active"]
        fine = bool(active) and active[0]["status"] == "True"
        yield f"queue {name(queue)}", "" if fine else json.dumps(active and active[0].get("message"))
    for quota in kind.get("resourcequotas", "--all-namespaces"):
        where, used = quota["metadata"]["namespace"], quota.get("status", {}).get("used", {})
        missing = sorted(quota["spec"]["hard"].keys() - used.keys())
        yield f"quota of {where}", f"not counted yet: {', '.join(missing)}" if missing else ""
    for claim in kind.get("persistentvolumeclaims", "--all-namespaces"):
        phase = claim.get("status", {}).get("phase")
        yield f"volume {claim['metadata']['namespace']}/{name(claim)}", "" if phase == "Bound" else str(phase)
