"""Addresses that stay: every container of a lab keeps the one that it got first, whatever starts before it.

slurmctld remembers the address of each node. With addresses given in the order of starts, two nodes that are stopped
and started the other way round have each other's, and a job for one is sent to the other. Docker fixes addresses only
in a range that was asked for, and which range is free only Docker knows: it is asked once, and what it chose stands
in build/<cluster>/compose.override.yaml, which Compose reads beside compose.yaml.
"""

import ipaddress
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from infra.base import files
from infra.base.errors import Failure
from infra.host import engine
from infra.places import owner

FILE = "compose.override.yaml"
NAME = "cluster"  # of the network, in compose.yaml
FIXED = "slipway.addresses"  # the label of a network in which addresses can be fixed
FIRST = 10  # of a range: the ones before are the gateway's, and for people

Subnet = ipaddress.IPv4Network


def write(folder: Path, hosts: Sequence[str], there: dict[str, Any] | None, probe: str) -> None:
    """Write FILE for `hosts`, by the network that is `there`; without one, in a range that Docker chooses.

    `probe`: the name of the network that Docker is asked with.
    """
    before = _read(folder / FILE)
    subnet = range_of(there) if there else _free(probe)
    known = before if before and before[0] == subnet else None
    chosen = assign(hosts, subnet, known[1] if known else {})
    network = {
        "ipam": {"config": [{"subnet": str(subnet)}]},
        "labels": {FIXED: "fixed", **owner.labels()},
    }
    services = {host: {"networks": {NAME: {"ipv4_address": chosen[host]}}} for host in hosts}
    # JSON is YAML, and needs nobody's rules for quotes
    files.differs(
        folder / FILE, json.dumps({"services": services, "networks": {NAME: network}}, indent=2) + "\n"
    )


def assign(hosts: Sequence[str], subnet: Subnet, before: dict[str, str]) -> dict[str, str]:
    """An address in `subnet` for each of `hosts`: the one that it had, else the first free one.

    Raises Failure when there are not so many.
    """
    kept = {
        host: before[host]
        for host in hosts
        if host in before and ipaddress.ip_address(before[host]) in subnet
    }
    taken = set(kept.values())
    room = subnet.num_addresses - 2
    first = FIRST if room >= FIRST + len(hosts) else 2
    free = (str(subnet[number]) for number in range(first, room + 1) if str(subnet[number]) not in taken)
    found = {}
    for host in hosts:
        address = kept.get(host) or next(free, "")
        if not address:
            raise Failure(
                f"Docker's network {subnet} has no address for each of {len(hosts)} nodes: give it larger ones"
                ' ("default-address-pools" in /etc/docker/daemon.json)'
            )
        found[host] = address
    return found


def range_of(network: dict[str, Any]) -> Subnet:
    """The range of a network, as the engine tells it."""
    ranges = [Subnet(each["Subnet"]) for each in network["IPAM"]["Config"] if ":" not in each["Subnet"]]
    if not ranges:
        raise Failure(f"Docker's network {network['Name']} has no IPv4 addresses")
    return ranges[0]


def fixed(network: dict[str, Any]) -> bool:
    """Whether addresses can be fixed in it; one that an earlier version made has to be made anew."""
    return FIXED in (network.get("Labels") or {})


def _free(probe: str) -> Subnet:
    """A range that no network of this engine has, and no link of this host: Docker's own choice."""
    engine.remove("network", probe)  # what a killed run has left
    try:
        return range_of(engine.make_network(probe, owner.labels()))
    finally:
        engine.remove("network", probe)


def _read(file: Path) -> tuple[Subnet, dict[str, str]] | None:
    try:
        found = json.loads(file.read_text())
        subnet = Subnet(found["networks"][NAME]["ipam"]["config"][0]["subnet"])
        return subnet, {
            host: service["networks"][NAME]["ipv4_address"] for host, service in found["services"].items()
        }
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, IndexError):
        return None  # half of a file of another version: addresses are chosen anew
