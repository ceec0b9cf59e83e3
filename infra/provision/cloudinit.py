"""What a new cloud machine is told at its first boot: its name, who may log in, and its SSH host key.

The host key is made here, so that it is known before the first connection: nothing is trusted on first use.
The private half lies in build/<cluster>/secrets/host-keys (0600), as a secret in Pulumi's state, and in the
machine's own metadata, which only root of that machine may read: the firewall role closes the metadata service
to everyone else.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from infra.base import paths
from infra.model.cluster import Cluster

HOST_KEY = "/etc/ssh/ssh_host_ed25519_key"


@dataclass(frozen=True)
class HostKey:
    """An ed25519 key pair in OpenSSH's formats; `public` is "ssh-ed25519 AAAA...", without a comment."""

    private: str
    public: str


def new_key() -> HostKey:
    """A new pair. Random."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.OpenSSH, form.NoEncryption())
    public = key.public_key().public_bytes(form.Encoding.OpenSSH, form.PublicFormat.OpenSSH)
    return HostKey(private.decode(), public.decode())


def host_key(cluster: Cluster, machine: str) -> HostKey:
    """The key of a machine: the one of earlier runs, else a new one that is kept."""
    return kept_key(paths.build(cluster.name) / "secrets" / "host-keys" / machine)


def kept_key(path: Path) -> HostKey:
    """The pair in `path` and `path`.pub, made when missing. Two runs at the same time get the same one."""
    public = path.with_name(f"{path.name}.pub")
    if not public.exists():
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        key = new_key()
        # The public half comes last: without it, the pair counts as not made.
        for file, text in ((path, key.private), (public, key.public + "\n")):
            part = file.with_name(f"{file.name}.part{os.getpid()}")
            part.touch(mode=0o600)
            part.write_text(text)
            part.rename(file)
    return HostKey(path.read_text(), public.read_text().strip())


def user_data(name: str, domain: str, admin: str, authorized_key: str, key: HostKey) -> str:
    """For machines with cloud-init: a cloud-config document. It has the host key in it: a secret."""
    import json

    document = {
        "hostname": name,
        "fqdn": f"{name}.{domain}",
        "preserve_hostname": False,
        "ssh_pwauth": False,
        "disable_root": True,
        "ssh_deletekeys": True,
        "ssh_genkeytypes": [],
        "ssh_keys": {"ed25519_private": key.private, "ed25519_public": key.public},
        "users": [
            {
                "name": admin,
                "shell": "/bin/bash",
                "lock_passwd": True,
                "sudo": "ALL=(ALL) NOPASSWD:ALL",
                "ssh_authorized_keys": [authorized_key],
            }
        ],
    }
    return "#cloud-config\n" + json.dumps(document, indent=1) + "\n"  # JSON is YAML


def startup_script(name: str, domain: str, key: HostKey) -> str:
    """For machines without cloud-init (Debian on Google Cloud): run by root at every boot. A secret.

    The agent of the image makes the user and its key from the metadata `ssh-keys`.
    """
    return f"""#!/bin/sh
set -eu
umask 077
hostnamectl set-hostname {name}
mkdir -p /etc/systemd/resolved.conf.d
printf '[Resolve]\\nDomains={domain}\\n' > /etc/systemd/resolved.conf.d/slipway.conf
chmod 755 /etc/systemd/resolved.conf.d
chmod 644 /etc/systemd/resolved.conf.d/slipway.conf
systemctl try-restart systemd-resolved || echo "no systemd-resolved: names need their domain"
[ "$(cat {HOST_KEY}.pub 2>/dev/null)" = "{key.public}" ] && exit 0
rm -f /etc/ssh/ssh_host_*
cat > {HOST_KEY} <<'END'
{key.private.rstrip()}
END
echo "{key.public}" > {HOST_KEY}.pub
chmod 644 {HOST_KEY}.pub
systemctl restart ssh
"""
