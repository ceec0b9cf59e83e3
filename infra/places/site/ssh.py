"""How the machines are reached: a key of the cluster's own, and host keys known before the first connection."""

import shlex
from pathlib import Path

from infra.base import files, paths
from infra.base.process import succeeds
from infra.places.site.site import Site

CONFIG = """\
# Written by cluster-up from machines.json. Use it: ssh -F {path} <machine>
Host *
  User {admin}
  IdentityFile {key}
  IdentitiesOnly yes
  UserKnownHostsFile {known}
  StrictHostKeyChecking yes
  UpdateHostKeys no
  PasswordAuthentication no
  ConnectTimeout 10
  ServerAliveInterval 15
  ControlMaster auto
  ControlPath {control}
  ControlPersist 60
"""


def write(site: Site) -> None:
    """ssh/config and ssh/known_hosts of the machines that there are now; those that went are not in them."""
    folder = site.ssh_config.parent
    folder.mkdir(parents=True, exist_ok=True)
    control = paths.cache() / "ssh"  # short: a socket's path has 108 bytes
    control.mkdir(parents=True, exist_ok=True)
    control.chmod(0o700)
    bastion = site.outputs.get("bastion")
    hosts = [f"Host {m.name}\n  HostName {m.address}\n" for m in site.machines]
    known = [f"{m.name},{m.address} {m.host_key}\n" for m in site.machines if m.host_key]
    general = CONFIG.format(
        path=shlex.quote(str(site.ssh_config)),
        admin=site.cluster.spec.machines.admin,
        key=_quoted(site.folder / "secrets" / "admin"),
        known=_quoted(folder / "known_hosts"),
        control=_quoted(control, "/%C"),
    )
    if bastion:
        # {address, host_key, command}: a cloud's only way in; with a command, through its own tunnel
        hosts.append(f"Host bastion\n  HostName {bastion['address']}\n  ProxyJump none\n")
        if bastion.get("command"):
            hosts.append(f"  ProxyCommand {bastion['command']}\n")
        if bastion.get("host_key"):
            known.append(f"bastion,{bastion['address']} {bastion['host_key']}\n")
        general += "  ProxyJump bastion\n"
    # ssh takes the first value that it finds, so that a machine's own lines come first
    files.differs(site.ssh_config, "".join(hosts) + general, 0o600)
    files.differs(folder / "known_hosts", "".join(known), 0o600)


def _quoted(path: Path, more: str = "") -> str:
    """A path as ssh_config(5) takes it, where a % begins a token and a blank ends a word."""
    text = str(path)
    for sign, literal in (("\\", "\\\\"), ('"', '\\"'), ("%", "%%")):
        text = text.replace(sign, literal)
    return f'"{text}{more}"'


def hang_up(site: Site, host: str) -> None:
    """End the connection that ssh keeps open for the next command."""
    succeeds([*site.ssh(host)[:-1], "-O", "exit", host])
