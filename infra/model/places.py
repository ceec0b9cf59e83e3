"""Where clusters run, as rows of facts: whoever wants to know something of a place asks its row, not its name."""

from dataclasses import dataclass
from typing import Literal

Place = Literal["lab", "docker", "aws", "gcp", "metal"]


@dataclass(frozen=True)
class PlaceFacts:
    """What is true of a place."""

    here: bool = False  # nodes are containers of this machine and share its cores; GPUs are simulated
    lab: bool = False  # ... made without Pulumi, and each scheduler has nodes of its own
    engine: bool = False  # ... made by Pulumi through the Docker engine, sharing cores
    given: bool = False  # servers that are there, perhaps with management controllers; never replaced
    makes: bool = False  # machines are made, with a network of their own; elsewhere they are there already
    rented: bool = False  # from a cloud: only instances that it has, with its metadata service inside
    needs: tuple[str, ...] = ()  # keys of `machines` that it cannot do without
    storage: Literal["volume", "nfs", "lustre"] | None = None  # what it offers as a shared file system
    tunnels: tuple[str, ...] = ()  # networks that administrators come from through its own service
    tunnel_inside: bool = False  # ... or the network of the machines itself, where its bastion is


PLACES: dict[Place, PlaceFacts] = {
    "lab": PlaceFacts(here=True, lab=True, storage="volume"),
    "docker": PlaceFacts(here=True, engine=True, makes=True, storage="volume"),
    "aws": PlaceFacts(
        makes=True, rented=True, needs=("region", "zone"), storage="lustre", tunnel_inside=True
    ),
    "gcp": PlaceFacts(
        makes=True,
        rented=True,
        needs=("region", "zone", "project"),
        storage="nfs",
        tunnels=("35.235.240.0/20",),  # cloud.google.com/iap/docs/using-tcp-forwarding
    ),
    "metal": PlaceFacts(given=True),
}
