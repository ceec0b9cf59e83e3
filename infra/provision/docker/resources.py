"""Networks, volumes and machines of a Docker engine as Pulumi resources: create, read, diff, update, delete.

A machine is a container that behaves like a small server: systemd, an SSH server, one authorised key. `read`
tells what is really there, in the words in which it was asked for; a difference, whoever made it, is what
`diff` sees. The engine is asked through its API (DOCKER_HOST counts), never through files of the host.

This module is loaded by Pulumi's provider process: it imports little, and a provider, which has no state, is
pickled as the name of its class.
"""

import io
import ipaddress
import os
import socket
import tarfile
import threading
import time
from typing import Any

import docker
import docker.errors
import docker.types
from pulumi import Input, Output, ResourceOptions
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from infra.base.paths import CHECKOUT
from infra.host.engine import OWNER as MADE_BY
from infra.provision.docker.difference import machine_differences

READY_S = 120  # from a container's start until its SSH server answers; 2 s here, a loaded host takes longer
MINIMUM_MIB = 64
WHOSE = {MADE_BY: str(CHECKOUT)}  # infra/places/owner.py asks for it
OWNER = "slipway:cluster"  # the label of everything that is ours
HOST_KEY = "/etc/ssh/ssh_host_ed25519_key.pub"
FIRST_ADDRESS = 10  # of a network: the ones before are the gateway's and for people
Facts = dict[str, Any]

_local = threading.local()
_addresses = threading.Lock()  # between choosing an address and having a container with it


def engine() -> Any:
    """The engine's API; one connection for each thread of the provider."""
    if not hasattr(_local, "client"):
        _local.client = docker.from_env(timeout=120).api
    return _local.client


class Provider(ResourceProvider):
    serialize_as_secret_always = False  # it holds nothing: readable in the state


class NetworkProvider(Provider):
    """A bridge network with a fixed range. Its id is Docker's."""

    def create(self, props: Facts) -> CreateResult:
        for found in engine().networks(names=[props["name"]]):
            if found["Name"] == props["name"]:
                _need_ours(found.get("Labels"), f"network {props['name']}", props)
                if _network(found) == _wanted(props, _network(found)):
                    return CreateResult(found["Id"], {**props})
                engine().remove_network(found["Id"])
        try:
            made = engine().create_network(
                props["name"],
                driver="bridge",
                ipam=docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=props["cidr"])]),
                options={"com.docker.network.driver.mtu": str(int(props["mtu"]))},
                labels=props["labels"] | WHOSE,
            )
        except docker.errors.APIError as error:
            if "overlaps" in str(error.explanation):
                raise Exception(
                    f"{props['cidr']}: another network of this engine has these addresses;"
                    " choose others in machines.cidr"
                ) from None
            raise
        return CreateResult(made["Id"], {**props})

    def read(self, id_: str, props: Facts) -> ReadResult:
        try:
            found = engine().inspect_network(id_)
        except docker.errors.NotFound:
            return ReadResult("", {})
        return ReadResult(id_, {**props, **_network(found)})

    def diff(self, _id: str, olds: Facts, news: Facts) -> DiffResult:
        changed = [key for key in ("name", "cidr", "mtu", "labels") if olds.get(key) != news.get(key)]
        return DiffResult(changes=bool(changed), replaces=changed, delete_before_replace=True)

    def delete(self, _id: str, props: Facts) -> None:
        try:
            engine().remove_network(_id)
        except docker.errors.NotFound:
            return


class VolumeProvider(Provider):
    """A named volume. It is never replaced: its content is the cluster's."""

    def create(self, props: Facts) -> CreateResult:
        try:
            _need_ours(engine().inspect_volume(props["name"]).get("Labels"), f"volume {props['name']}", props)
        except docker.errors.NotFound:
            engine().create_volume(props["name"], labels=props["labels"])
        return CreateResult(props["name"], {**props})

    def read(self, id_: str, props: Facts) -> ReadResult:
        try:
            engine().inspect_volume(id_)
        except docker.errors.NotFound:
            return ReadResult("", {})
        return ReadResult(id_, {**props})

    def diff(self, _id: str, olds: Facts, news: Facts) -> DiffResult:
        renamed = olds.get("name") != news.get("name")
        return DiffResult(changes=renamed, replaces=["name"] if renamed else [])

    def delete(self, _id: str, props: Facts) -> None:
        try:
            engine().remove_volume(_id)
        except docker.errors.NotFound:
            return


class MachineProvider(Provider):
    """A container with systemd and an SSH server. Its id is its name, which is fixed."""

    def check(self, _olds: Facts, news: Facts) -> CheckResult:
        failures = []
        memory = news.get("memory_mib")
        if isinstance(memory, int | float) and 0 < memory < MINIMUM_MIB:
            failures.append(CheckFailure("memory_mib", f"{memory:g} MiB; systemd needs {MINIMUM_MIB}"))
        return CheckResult(news, failures)

    def create(self, props: Facts) -> CreateResult:
        name = props["container"]
        try:
            found = engine().inspect_container(name)
        except docker.errors.NotFound:
            found = None
        if found:  # of a run that was cut short, before Pulumi knew of it
            _need_ours(found["Config"]["Labels"], f"container {name}", props)
            if machine_differences({**props, **_machine(found, props), "state": "running"}, props):
                engine().remove_container(name, force=True, v=True)
                found = None
        if not found:
            _make(props)
        try:
            return CreateResult(name, _start(props))
        except Exception:
            # Pulumi takes a create that fails as one that has left nothing.
            engine().remove_container(name, force=True, v=True)
            raise

    def read(self, id_: str, props: Facts) -> ReadResult:
        try:
            found = engine().inspect_container(id_)
        except docker.errors.NotFound:
            return ReadResult("", {})
        return ReadResult(id_, {**props, **_machine(found, props)})

    def diff(self, _id: str, olds: Facts, news: Facts) -> DiffResult:
        found = machine_differences(olds, news)
        replaces = [difference.key for difference in found if difference.replaces]
        return DiffResult(changes=bool(found), replaces=replaces, delete_before_replace=True)

    def update(self, _id: str, olds: Facts, news: Facts) -> UpdateResult:
        changed = {difference.key for difference in machine_differences(olds, news)}
        api = engine()
        limits: dict[str, Any] = {}
        if "memory_mib" in changed:
            limits |= _memory(int(news["memory_mib"]))
        if "cpuset" in changed:
            limits["cpuset_cpus"] = news["cpuset"]
        if limits:
            api.update_container(_id, **limits)
        if "connected" in changed:
            endpoint = {"ipv4_address": olds["address"]} if olds.get("address") else {}
            api.connect_container_to_network(_id, news["network"], aliases=[news["hostname"]], **endpoint)
        return UpdateResult({**_start(news)})

    def delete(self, _id: str, props: Facts) -> None:
        try:
            # At once: a machine that must end in peace is drained before, by who knows its jobs.
            engine().remove_container(_id, force=True, v=True)
        except docker.errors.NotFound:
            return


def _asked(labels: dict[str, str]) -> dict[str, str]:
    """Labels without WHOSE: what was made before there was one is no other thing."""
    return {name: value for name, value in labels.items() if name not in WHOSE}


def _need_ours(labels: dict[str, str] | None, what: str, props: Facts) -> None:
    """Never touch what someone else has made, whatever it is called."""
    owner = (labels or {}).get(OWNER)
    if owner != props["labels"][OWNER]:
        raise Exception(f"{what} is there already and is not this cluster's: remove or rename it")


def _wanted(props: Facts, like: Facts) -> Facts:
    return {key: props[key] for key in like}


def _network(found: Facts) -> Facts:
    pools = found["IPAM"]["Config"] or [{}]
    return {
        "cidr": pools[0].get("Subnet"),
        "mtu": int((found["Options"] or {}).get("com.docker.network.driver.mtu", 0)),
        "labels": _asked(found.get("Labels") or {}),
    }


def _memory(mib: int) -> dict[str, int]:
    """No swap beyond it: a job that needs more is killed, as on a node."""
    return {"mem_limit": mib << 20, "memswap_limit": mib << 20}


def _make(props: Facts) -> None:
    """A container that is not started yet, with an address that it keeps over restarts."""
    api = engine()
    host = api.create_host_config(
        privileged=True,  # systemd needs to write its cgroups and to mount, slurmd to bind its jobs
        cgroupns="private",
        tmpfs=props["tmpfs"],
        restart_policy={"Name": "unless-stopped"},
        cpuset_cpus=props["cpuset"] or None,
        mounts=[
            docker.types.Mount(target=target, source=source, type=kind, read_only=access == "ro")
            for kind, source, target, access in props["mounts"]
        ],
        **(_memory(int(props["memory_mib"])) if props["memory_mib"] else {}),
    )
    with _addresses:
        endpoint = api.create_endpoint_config(
            aliases=[props["hostname"]], ipv4_address=_free_address(props["network"])
        )
        api.create_container(
            props["image"],
            name=props["container"],
            hostname=props["hostname"],
            environment=props["environment"],
            labels=props["labels"] | WHOSE,
            stop_signal="SIGRTMIN+3",
            host_config=host,
            networking_config=api.create_networking_config({props["network"]: endpoint}),
        )


def _free_address(network: str) -> str:
    """The lowest address of `network` that no container has, running or not."""
    api = engine()
    found = api.inspect_network(network)
    subnet = ipaddress.ip_network(found["IPAM"]["Config"][0]["Subnet"])
    taken = {found["IPAM"]["Config"][0].get("Gateway", "").split("/")[0]}
    for container in api.containers(all=True, filters={"network": network}):
        endpoint = container["NetworkSettings"]["Networks"].get(network) or {}
        taken |= {endpoint.get("IPAddress"), (endpoint.get("IPAMConfig") or {}).get("IPv4Address")}
    for number in range(min(FIRST_ADDRESS, subnet.num_addresses // 4), subnet.num_addresses - 1):
        address = str(subnet[number])
        if address not in taken:
            return address
    raise Exception(f"{subnet}: every address is taken; choose a larger range in machines.cidr")


def _start(props: Facts) -> Facts:
    """Bring a container up with its key, wait until it can be logged in to; its outputs."""
    api, name = engine(), props["container"]
    status = api.inspect_container(name)["State"]["Status"]
    _authorize(props)
    if status == "paused":
        api.unpause(name)
    elif status != "running":
        api.start(name)
    found = _wait(name)
    return {**props, **_machine(found, props), "host_key": _host_key(name)}


def _authorize(props: Facts) -> None:
    """Let the one key in. Keys that configuration has added since are in files of their own."""
    api, name, user = engine(), props["container"], props["admin"]
    entries = [line.split(":") for line in (_file(name, "/etc/passwd") or "").splitlines()]
    ids = next((entry for entry in entries if entry[0] == user), None)
    if ids is None:
        raise Exception(f"{name}: its image has no user {user}")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, kind, mode, content in (
            (".ssh", tarfile.DIRTYPE, 0o700, b""),
            (".ssh/authorized_keys", tarfile.REGTYPE, 0o600, f"{props['authorized_key']}\n".encode()),
        ):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode, entry.size = kind, mode, len(content)
            entry.uid, entry.gid = int(ids[2]), int(ids[3])
            tar.addfile(entry, io.BytesIO(content))
    api.put_archive(name, ids[5], buffer.getvalue())


def _file(container: str, path: str) -> str | None:
    """A small file of a container, running or not; None when it has none."""
    try:
        stream, _ = engine().get_archive(container, path)
    except docker.errors.NotFound:
        return None
    with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as tar:
        content = tar.extractfile(tar.getmembers()[0])
        return content.read().decode() if content else None


def _host_key(container: str) -> str:
    """Type and key without the comment; read from the engine, as one reads a server's console."""
    return " ".join((_file(container, HOST_KEY) or "").split()[:2])


def _wait(name: str) -> Facts:
    """Until the SSH server answers and its key is there. Raises Exception with what it waits for."""
    deadline = time.monotonic() + float(os.environ.get("SLIPWAY_READY_S", READY_S))
    while True:
        found: Facts = engine().inspect_container(name)
        state = found["State"]
        if state["Status"] != "running":
            lines = engine().logs(name, tail=1).decode(errors="replace").strip()
            raise Exception(
                f"{name} ended with {state['ExitCode']}: {state['Error'] or lines or 'no message'}"
            )
        address = _address(found)
        if _answers(address) and _host_key(name):
            return found
        if time.monotonic() > deadline:
            raise Exception(f"{name}: no SSH server answers at {address} port 22 after {READY_S} s")
        time.sleep(0.05)


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=2) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _address(found: Facts) -> str:
    for network in found["NetworkSettings"]["Networks"].values():
        if network.get("IPAddress"):
            return str(network["IPAddress"])
        if network.get("IPAMConfig"):
            return str(network["IPAMConfig"].get("IPv4Address") or "")
    return ""


def _machine(found: Facts, props: Facts) -> Facts:
    """What a container is, in the words in which it was asked for."""
    config, host = found["Config"], found["HostConfig"]
    image = _image(found["Image"])
    networks = found["NetworkSettings"]["Networks"]
    mounts = sorted(
        [
            mount["Type"],
            mount.get("Name") or mount["Source"],
            mount["Destination"],
            "rw" if mount["RW"] else "ro",
        ]
        for mount in found["Mounts"]
        if mount["Type"] != "tmpfs"
    )
    return {
        "image": config["Image"],
        "hostname": config["Hostname"],
        "state": found["State"]["Status"],
        "cpuset": host["CpusetCpus"],
        "memory_mib": host["Memory"] >> 20,
        "mounts": mounts,
        "tmpfs": host.get("Tmpfs") or {},
        "privileged": host["Privileged"],
        "labels": _own(_asked(config["Labels"] or {}), image["labels"], props["labels"]),
        "environment": _own(_variables(config["Env"]), image["environment"], props["environment"]),
        "connected": props["network"] in networks,
        "network_id": _network_id(networks, props),
        "address": _address(found) or props.get("address") or "",
        "container_id": found["Id"],
    }


def _network_id(networks: Facts, props: Facts) -> str:
    """The network that its address belongs to, also when it is gone; as asked for when there is none."""
    endpoint = networks.get(props["network"]) or {}
    return str(endpoint.get("NetworkID") or props.get("network_id") or "")


_images: dict[str, Facts] = {}


def _image(id_: str) -> Facts:
    """Labels and environment that a container has from its image."""
    if id_ not in _images:
        try:
            config = engine().inspect_image(id_)["Config"]
        except docker.errors.ImageNotFound:
            config = {}
        _images[id_] = {
            "labels": config.get("Labels") or {},
            "environment": _variables(config.get("Env")),
        }
    return _images[id_]


def _variables(lines: list[str] | None) -> dict[str, str]:
    found = dict(line.partition("=")[::2] for line in lines or [])
    found.pop("PATH", None)  # the engine sets one where the image has none
    return found


def _own(found: dict[str, str], inherited: dict[str, str], asked: dict[str, str]) -> dict[str, str]:
    """Without what a container has from its image and nobody has asked for."""
    return {key: value for key, value in found.items() if key in asked or inherited.get(key) != value}


class Network(Resource, module="slipway", name="Network"):  # type: ignore[call-arg]
    name: Output[str]

    def __init__(self, name: str, props: dict[str, Input[Any]], opts: ResourceOptions | None = None) -> None:
        super().__init__(NetworkProvider(), name, dict(props), opts)


class Volume(Resource, module="slipway", name="Volume"):  # type: ignore[call-arg]
    name: Output[str]

    def __init__(self, name: str, props: dict[str, Input[Any]], opts: ResourceOptions | None = None) -> None:
        super().__init__(VolumeProvider(), name, dict(props), opts)


class Machine(Resource, module="slipway", name="Machine"):  # type: ignore[call-arg]
    address: Output[str]
    host_key: Output[str]
    container_id: Output[str]

    def __init__(self, name: str, props: dict[str, Input[Any]], opts: ResourceOptions | None = None) -> None:
        outputs = {"address": None, "host_key": None, "container_id": None}
        super().__init__(MachineProvider(), name, {**outputs, **props}, opts)
