"""Place metal: hosts that are there already. Power and boot through their controllers, where they have one.

A controller that does not answer stops nothing: its resource says why in `trouble`, the others go on, and
the next run tries again. `infra.provision.given` checks the file before and reports after.
"""

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra.buildenv import host_bundle
from infra.cluster import Cluster
from infra.provision import redfish
from infra.provision.program import Inputs, site_storage
from infra.provision.redfish import DISK, NET, Login, Trouble
from infra.provision.shape import MachineSpec, output, resource_name, tags

SETTINGS = ("host", "bmc", "user", "password_env", "verify_tls", "install", "power_off_on_remove", "tags")


@dataclass(frozen=True)
class SiteNetwork:
    """The site's own; nothing is made."""

    bastion: str | None = None


@dataclass(frozen=True)
class SiteStorage:
    """The site's own; nothing is made."""

    entry: dict[str, Any]


def network(cluster: Cluster) -> SiteNetwork:
    """The hosts have their addresses."""
    return SiteNetwork()


def storage(cluster: Cluster, network: SiteNetwork) -> SiteStorage:
    """What the file names: the site's file system, or the controller's export."""
    return SiteStorage(site_storage(cluster))


def machine(
    cluster: Cluster,
    spec: MachineSpec,
    network: SiteNetwork,
    storage: SiteStorage | None,
    inputs: Inputs,
) -> dict[str, Any]:
    """The host of that name; with a controller it is switched on, and its facts are in `bmc` of the entry."""
    host, bmc = cluster.spec.hosts[spec.name], cluster.spec.bmc
    entry = output(spec, host.address, host.host_key or "", spec.name)
    if host.bmc is None:
        return entry
    made = Server(
        resource_name(cluster, spec.name),
        {
            "host": spec.name,
            "bmc": host.bmc,
            "user": bmc.user,
            "password_env": bmc.password_env,
            "verify_tls": bmc.verify_tls,
            "install": host.install or "",
            "power_off_on_remove": bmc.power_off_on_remove,
            "tags": tags(cluster, spec),
        },
    )
    return entry | {"bmc": {"found": made.found, "trouble": made.trouble}}


class Server(Resource, module="slipway", name="Server"):  # type: ignore[call-arg]
    """A server with a controller. `found`: redfish.facts; `trouble`: one line, empty when it answered."""

    found: pulumi.Output[dict[str, Any]]
    trouble: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any]) -> None:
        super().__init__(Controller(), name, {**props, "found": None, "trouble": None})


class Controller(ResourceProvider):
    """Brings a server to: on, booting from its disk by UEFI. Runs in Pulumi's provider process.

    The password is read there from the environment variable that `password_env` names; it is no property, so
    that it is in no state.
    """

    serialize_as_secret_always = False  # it holds nothing, and [secret] would hide that

    def create(self, props: dict[str, Any]) -> CreateResult:
        """Taken over as it is, but switched on. One that runs is not installed anew: it was there first."""
        return CreateResult(props["host"], _bring(props, None))

    def read(self, id_: str, props: dict[str, Any]) -> ReadResult:
        """What the controller says now; without an answer what it said last, and why."""
        outs = {**props, "trouble": ""}
        try:
            outs["found"] = redfish.state(_system(props))
        except Trouble as trouble:
            outs["trouble"] = str(trouble)
        return ReadResult(id_, outs)

    def diff(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> DiffResult:
        """Never a replacement: there is one such server."""
        return DiffResult(changes=bool(reasons(olds, news)), replaces=[])

    def update(self, _id: str, olds: dict[str, Any], news: dict[str, Any]) -> UpdateResult:
        return UpdateResult(_bring(news, olds))

    def delete(self, _id: str, props: dict[str, Any]) -> None:
        """The server leaves the cluster and stays as it is, unless the file says that it is shut down.

        A dead controller must not keep a dead server in the cluster: then a line says so.
        """
        if not props.get("power_off_on_remove"):
            return
        try:
            system = _system(props)
            if redfish.state(system)["power"] != "Off":
                redfish.shut_down(system)
        except Trouble as trouble:
            print(f"{props['host']} leaves the cluster, but was not shut down: {trouble}", file=sys.stderr)


def reasons(olds: Mapping[str, Any], news: Mapping[str, Any]) -> list[str]:
    """Why a server is to be changed: `olds` as a run or a refresh left it, `news` as the file has it."""
    found = olds.get("found") or {}
    why = []
    if olds.get("trouble"):
        why.append(f"its controller: {olds['trouble']}")
    if news["install"] and news["install"] != olds.get("installed", ""):
        why.append(f"to be installed anew: {news['install']}")
    why += [text for wanted, text in _drift(found) if wanted]
    why += [
        f"{key}: {olds.get(key)} -> {news[key]}"
        for key in SETTINGS
        if key != "install" and olds.get(key) != news[key]
    ]
    if olds.get("install") and not news["install"]:
        why.append(f"install: {olds['install']} -> nothing")
    return why


def _drift(found: Mapping[str, Any]) -> list[tuple[bool, str]]:
    boot = found.get("boot")
    return [
        (found.get("power") == "Off", "is off"),
        # One that is to boot from elsewhere only once does so on purpose.
        (boot not in (None, DISK) and not found.get("once"), f"boots from {boot} instead of its disk"),
        (found.get("boot_mode") == "Legacy", "boots in Legacy mode instead of UEFI"),
    ]


def _bring(props: Mapping[str, Any], olds: Mapping[str, Any] | None) -> dict[str, Any]:
    """Bring a server to what it should be; outputs with `trouble` when its controller does not play along."""
    outs = {**props, "trouble": "", "installed": (olds or {}).get("installed", "")}
    outs["found"] = (olds or {}).get("found") or {}
    try:
        system = _system(props)
        now = outs["found"] = redfish.state(system)
        anew = props["install"] and props["install"] != outs["installed"]
        if anew and (olds is not None or now["power"] == "Off"):
            redfish.boot_from(system, NET, once=True)
            (redfish.power_on if now["power"] == "Off" else redfish.restart)(system)
        else:
            _settle(system, now)
        outs["installed"] = props["install"]
        outs["found"] = redfish.state(system)
    except Trouble as trouble:
        outs["trouble"] = str(trouble)
    return outs


def _settle(system: Any, now: Mapping[str, Any]) -> None:
    """On, from its own disk, by UEFI; asked for only where it is not so."""
    off, elsewhere, legacy = (wanted for wanted, _ in _drift(now))
    if elsewhere or legacy:
        redfish.boot_from(system, DISK, once=False)
    if off:
        redfish.power_on(system)


def _system(props: Mapping[str, Any]) -> Any:
    """Raises Trouble."""
    password = os.environ.get(props["password_env"])
    if not password:
        raise Trouble(f"{props['password_env']} is not set in the environment")
    verify: bool | str = False
    if props["verify_tls"]:
        bundle = host_bundle()
        verify = str(bundle) if bundle else True
    return redfish.connect(props["bmc"], Login(props["user"], password, verify))
