"""The machines that Prometheus asks, for its file_sd: a list of one group for each kind of machine.

Prometheus reads the file again when it changes, so that a machine comes and goes with its line.
"""

import json
from collections.abc import Iterable

from infra.model.cluster import Cluster
from infra.model.hardware import Profile

PORT = 9100  # of the node exporter, on every machine


def render(cluster: Cluster) -> dict[str, str]:
    """prometheus/targets.json."""
    groups = [_group(cluster, "services", cluster.service_hosts, cluster.services_hardware)]
    groups += [
        _group(cluster, pool.name, pool.nodes, pool.hardware, simulated=pool.simulated)
        for pool in cluster.pools
    ]
    return {"prometheus/targets.json": json.dumps(groups, indent=2) + "\n"}


def _group(
    cluster: Cluster, name: str, hosts: Iterable[str], hardware: Profile | None, *, simulated: bool = False
) -> dict[str, object]:
    labels = {"cluster": cluster.name, "group": name}
    if hardware:
        labels["hardware"] = hardware.name
    if simulated:
        labels["simulated"] = "true"  # nothing that is measured there says anything of the real machine
    return {"targets": [f"{host}:{PORT}" for host in hosts], "labels": labels}
