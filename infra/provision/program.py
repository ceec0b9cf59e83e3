"""The Pulumi program of a cluster: network, storage, machines and outputs, in whatever place they are.

A place is a module with the same functions in each; they are called here and nowhere else:

    network(cluster) -> Network                  .bastion: its address, or None
    storage(cluster, network) -> Storage         .entry: {kind, source, options} of machines.json
    machine(cluster, spec, network, storage, inputs) -> entry of machines.json (shape.output)

`storage` is asked only where the cluster file says `storage.kind: place`; the machines get None otherwise.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from infra.model.cluster import Cluster
from infra.model.shape import MachineSpec, machines


@dataclass(frozen=True)
class Inputs:
    """What machines are made with that is in no file of the checkout. No secret."""

    authorized_key: str  # public key of Ansible's key pair: "ssh-ed25519 AAAA... comment"
    image: str = ""  # docker: tag of the machine image


class Network(Protocol):
    """What a place's `network` returns, beside what is its own business."""

    @property
    def bastion(self) -> Any:
        """Address of the host to jump through; None when machines are reached directly."""


class Storage(Protocol):
    """What a place's `storage` returns, beside what is its own business."""

    @property
    def entry(self) -> dict[str, Any]:
        """kind (volume, nfs, lustre), source and mount options."""


class PlaceModule(Protocol):
    """docker.py, aws.py, gcp.py, metal.py."""

    def network(self, cluster: Cluster) -> Network: ...

    def storage(self, cluster: Cluster, network: Network) -> Storage: ...

    def machine(
        self,
        cluster: Cluster,
        spec: MachineSpec,
        network: Network,
        storage: Storage | None,
        inputs: Inputs,
    ) -> dict[str, Any]: ...


def place(name: str) -> PlaceModule:
    """The module of a place; imported only now, since each imports its cloud's SDK."""
    module: Any = importlib.import_module(f"infra.provision.{name}.place")
    found: PlaceModule = module
    return found


def program(cluster: Cluster, inputs: Inputs) -> Callable[[], None]:
    """What Pulumi runs. Exports `machines`, `storage` and `bastion`: the content of machines.json."""

    def run() -> None:
        import pulumi

        here = place(cluster.place)
        network = here.network(cluster)
        storage = here.storage(cluster, network) if cluster.storage_kind == "place" else None
        entries = [here.machine(cluster, spec, network, storage, inputs) for spec in machines(cluster)]
        pulumi.export("machines", entries)
        pulumi.export("storage", storage.entry if storage else site_storage(cluster))
        pulumi.export("bastion", network.bastion)

    return run


def site_storage(cluster: Cluster) -> dict[str, Any]:
    """The shared file system that no place makes: the site's own, the controller's, or none."""
    return {"kind": cluster.storage_kind, "source": cluster.spec.storage.source, "options": None}
