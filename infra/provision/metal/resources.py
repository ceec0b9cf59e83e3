"""A server with a management controller as a Pulumi resource: create, read, diff, update, delete.

It brings a server to: on, booting from its disk by UEFI. A controller that does not answer stops nothing: its
resource says why in `trouble`, the others go on, and the next run tries again.

This module is loaded by Pulumi's provider process: it imports little, and the provider, which has no state, is
pickled as the name of its class. The password is read there from the environment variable that `password_env`
names; it is no property, so that it is in no state.
"""

import os
import sys
from collections.abc import Mapping
from typing import Any

import pulumi
from pulumi.dynamic import CreateResult, DiffResult, ReadResult, Resource, ResourceProvider, UpdateResult

from infra.base.trust import host_bundle
from infra.provision.docker.difference import Difference
from infra.provision.metal import redfish
from infra.provision.metal.redfish import DISK, NET, Login, Trouble

# Properties that the cluster file states, beside `install`.
SETTINGS = ("host", "bmc", "user", "password_env", "verify_tls", "power_off_on_remove", "labels")


class Host(Resource, module="slipway", name="Host"):  # type: ignore[call-arg]
    """A server with a controller. `found`: redfish.facts; `trouble`: one line, empty when it answered."""

    found: pulumi.Output[dict[str, Any]]
    trouble: pulumi.Output[str]

    def __init__(self, name: str, props: dict[str, Any]) -> None:
        super().__init__(Controller(), name, {**props, "found": None, "trouble": None})


class Controller(ResourceProvider):
    """Talks to the controller. The resource's id is the host's name."""

    serialize_as_secret_always = False  # it holds nothing: readable in the state

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
        return DiffResult(changes=bool(server_differences(olds, news)), replaces=[])

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


def server_differences(olds: Mapping[str, Any], news: Mapping[str, Any]) -> list[Difference]:
    """Why a server is to be changed: `olds` as a run or a refresh left it, `news` as the file has it."""
    found = []
    if olds.get("trouble"):
        found.append(("trouble", f"its controller: {olds['trouble']}"))
    if news["install"] and news["install"] != olds.get("installed", ""):
        found.append(("install", f"to be installed anew: {news['install']}"))
    elif olds.get("install") and not news["install"]:
        found.append(("install", f"install {olds['install']} -> none"))
    found += [("found", text) for wanted, text in _drift(olds.get("found") or {}) if wanted]
    found += [
        (key, f"{key} {olds.get(key)} -> {news[key]}") for key in SETTINGS if olds.get(key) != news[key]
    ]
    return [Difference(key, text, replaces=False) for key, text in found]


def _drift(found: Mapping[str, Any]) -> list[tuple[bool, str]]:
    """Off, boots from elsewhere, boots not by UEFI: each whether it is so, and in words."""
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
