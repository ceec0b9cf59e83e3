"""Hosts that are there already (place metal): what the cluster file must say of them, and what is reported.

Needs neither Pulumi nor sushy.
"""

import base64
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.process import persons, run
from infra.model import hostlist, yamlfile
from infra.model.cluster import Cluster, HostFile
from infra.model.hardware import Profile
from infra.model.shape import machines

# Controllers and kernels keep a part of the memory to themselves, and round differently.
MEMORY_TOLERANCE = 0.02
SCAN_S = 5  # of ssh-keyscan, for each host; it asks all at once


def check(cluster: Cluster, environ: Mapping[str, str] | None = None) -> None:
    """Whether the file and the environment say all that provisioning needs. Raises Mistake."""
    document = _document(cluster)
    hosts = cluster.spec.hosts
    if not hosts:
        document.wrong(("hosts",), "missing; metal needs the address and the host_key of every machine")
    unknown = [name for name, host in hosts.items() if host.host_key is None]
    if unknown:
        text = f"missing; `python -m infra hostkeys {cluster.file}` prints it{_and_more(unknown)}"
        document.wrong(("hosts", unknown[0], "host_key"), text)
    for name, host in hosts.items():
        wrong = _bmc(host, cluster.spec.bmc.verify_tls)
        if wrong:
            document.wrong(("hosts", name, "bmc"), wrong)
    for name, other in _twice((name, host.bmc) for name, host in hosts.items() if host.bmc):
        document.wrong(("hosts", name, "bmc"), f"is the one of '{other}' already")
    password = cluster.spec.bmc.password_env
    environ = persons() if environ is None else environ
    if any(host.bmc for host in hosts.values()) and not environ.get(password):
        document.wrong(("bmc", "password_env"), f"{password} is not set; export it, it is kept nowhere")
    document.check()


def _document(cluster: Cluster) -> yamlfile.Document:
    path = Path(cluster.file)
    document = yamlfile.read(path if path.is_absolute() else CHECKOUT / path, CHECKOUT)
    document.shown = cluster.file
    return document


def _and_more(names: Sequence[str]) -> str:
    """For the first of several hosts with the same mistake: one line is enough, also for a thousand."""
    return f" (and of {hostlist.compress(names[1:])})" if len(names) > 1 else ""


def _bmc(host: HostFile, verify_tls: bool) -> str | None:
    """What is wrong with the address of a host's controller."""
    if host.bmc is None:
        return None
    parts = urlsplit(host.bmc)
    like = "write it like https://192.0.2.111/redfish/v1/Systems/1"
    if parts.username or parts.password:
        return f"holds a user or a password; {like}, and the user in bmc.user"
    if parts.scheme not in ("https", "http") or not parts.hostname:
        return f"'{host.bmc}' is no address; {like}"
    if parts.scheme == "http" and verify_tls:
        return f"'{host.bmc}' would send the password in clear; {like}, or set bmc.verify_tls: false"
    if parts.path.strip("/") not in ("", "redfish/v1") and "/Systems/" not in parts.path:
        return f"'{host.bmc}' is no Redfish system; {like}"
    return None


def _twice(pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """(host, first host) of every value that is there already."""
    first: dict[str, str] = {}
    return [(name, first[value]) for name, value in pairs if first.setdefault(value, name) != name]


def differences(profile: Profile, found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key of the profile, stated, found) of what differs. What a controller does not tell is right."""
    wrong = []
    memory = found.get("memory_gib")
    stated = profile.memory.capacity_gib
    if memory and abs(memory - stated) > stated * MEMORY_TOLERANCE:
        wrong.append(("memory.capacity_gib", str(stated), str(int(memory))))
    counts = (
        ("cpu.sockets", profile.cpu.sockets, found.get("sockets")),
        ("cpu.sockets x cores_per_socket", profile.cpu.cores, found.get("cores")),
        ("accelerators.count", profile.gpus, found.get("gpus")),
    )
    # State that has been through Pulumi has floats.
    return wrong + [(key, str(n), str(int(seen))) for key, n, seen in counts if seen and int(seen) != n]


@dataclass(frozen=True)
class Report:
    """What the controllers said. `silent` hosts were gone around: the command ends with 1 and names them."""

    silent: list[str]  # one line per host
    differing: list[str]  # one line per difference: file: key: stated, found (hosts)
    ill: list[str]  # one line per host whose health is not OK

    @property
    def lines(self) -> list[str]:
        return [*self.silent, *self.ill, *self.differing]


def report(cluster: Cluster, entries: Iterable[Mapping[str, Any]]) -> Report:
    """From the `bmc` parts of machines.json's entries; hosts without one are taken as they are."""
    silent, ill = [], []
    same: dict[tuple[str, str, str, str], list[str]] = {}
    specs = {spec.name: spec for spec in machines(cluster)}
    for entry in entries:
        name, bmc = entry["name"], entry.get("bmc")
        if not bmc:
            continue
        if bmc.get("trouble"):
            silent.append(f"{name}: its controller {cluster.spec.hosts[name].bmc}: {bmc['trouble']}")
            continue
        found = bmc.get("found") or {}
        if found.get("health") not in (None, "OK"):
            ill.append(f"{name}: its controller says health {found['health']}; its event log says of what")
        profile = specs[name].hardware
        for key, stated, seen in differences(profile, found):
            same.setdefault((profile.name, key, stated, seen), []).append(name)
    differing = [
        f"hardware/{profile}.yaml: {key}: {stated} stated, {seen} found ({hostlist.compress(names)})"
        for (profile, key, stated, seen), names in same.items()
    ]
    return Report(silent, differing, ill)


@dataclass(frozen=True)
class HostKeys:
    """What hosts showed when they were asked. `lines` go into the cluster file."""

    lines: list[str]
    silent: list[str]  # names of hosts that did not answer
    changed: list[str]  # one line for each host that shows another key than the file's


def hostkeys(cluster: Cluster, *, port: int = 22) -> HostKeys:
    """Ask every host for its ed25519 key, once; nothing is written. Raises Failure without ssh-keyscan.

    Hosts that have a key in the file are compared with it. The network is trusted this one time: each line
    carries the key's fingerprint, which the host's own console shows as well.
    """
    hosts = cluster.spec.hosts
    shown = _scan([host.address for host in hosts.values()], port)
    lines, changed = [], []
    for name, host in hosts.items():
        key = shown.get(host.address)
        if key is None:
            continue
        if host.host_key is None:
            lines += [f"  {name}:  # {fingerprint(key)}", *_entry(host, key)]
        elif host.host_key.split()[:2] != key.split():
            changed.append(
                f"{name}: the file has {fingerprint(host.host_key)}, the host shows {fingerprint(key)}:"
                " installed anew, or another machine; take its host_key out of the file to record it again"
            )
    silent = [name for name, host in hosts.items() if host.address not in shown]
    return HostKeys(["hosts:", *lines] if lines else [], silent, changed)


def _entry(host: HostFile, key: str) -> list[str]:
    """The host as the cluster file may have it."""
    found = {"address": host.address, "bmc": host.bmc, "host_key": key, "install": host.install}
    return [f"    {name}: {json.dumps(value)}" for name, value in found.items() if value is not None]


def fingerprint(key: str) -> str:
    """As `ssh-keygen -l` prints it: SHA256:..."""
    digest = hashlib.sha256(base64.b64decode(key.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _scan(addresses: Sequence[str], port: int) -> dict[str, str]:
    """Address to key, of those that answered. One process asks all of them side by side."""
    if not shutil.which("ssh-keyscan"):
        raise Failure("ssh-keyscan is not installed; apt-get install openssh-client")
    if not addresses:
        return {}
    done = run(
        ["ssh-keyscan", "-T", str(SCAN_S), "-t", "ed25519", "-p", str(port), "-f", "-"],
        input="\n".join(addresses) + "\n",
        capture_output=True,
        text=True,
    )
    found = {}
    for line in done.stdout.splitlines():
        words = line.split()
        if len(words) >= 3 and words[1] == "ssh-ed25519":
            found[words[0].removeprefix("[").partition("]")[0]] = f"{words[1]} {words[2]}"
    return found


def hostkeys_text(cluster: Cluster, found: HostKeys) -> str:
    """What `python -m infra hostkeys` prints."""
    parts = []
    if found.lines:
        head = f"# Compare the fingerprints with the hosts' consoles, then put this into {cluster.file}:"
        parts.append("\n".join([head, *found.lines]))
    parts += found.changed
    if found.silent:
        parts.append(f"no answer to SSH: {hostlist.compress(found.silent)}")
    return "\n".join(parts) or f"{cluster.file}: every host shows the key that the file has"
