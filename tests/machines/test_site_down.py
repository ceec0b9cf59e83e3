"""`make cluster-down PURGE=1` leaves nothing. Runs last: it ends the cluster (not with SLIPWAY_KEEP=1)."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.machines.conftest import NAME, Machines

TESTED = {"real": ["place docker"]}

pytestmark = pytest.mark.skipif(
    bool(os.environ.get("SLIPWAY_KEEP")), reason="SLIPWAY_KEEP=1 keeps the cluster"
)


def listed(*words: str) -> list[str]:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split() if f"slipway-{NAME}-" in name]


def test_purge_leaves_nothing(site: Machines) -> None:
    sockets = []
    for machine in site.site.machines:
        site.on(machine.name, "true")
        asked = site.run("ssh", "-G", "-F", site.site.ssh_config, machine.name).stdout
        sockets += [Path(line.split()[1]) for line in asked.splitlines() if line.startswith("controlpath ")]
    assert all(socket.is_socket() for socket in sockets) and len(sockets) == 4
    processes = [
        pid
        for machine in site.site.machines
        for pid in subprocess.run(
            ["docker", "top", site.container(machine.name), "-eo", "pid"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()[1:]
    ]
    assert len(processes) > 20, "systemd and its services were running"

    done = site.make("cluster-down", "PURGE=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "removed gpu" in done.stdout or "removed login" in done.stdout or "removed controller" in done.stdout
    )
    assert listed("ps", "-a", "--format", "{{.Names}}") == []
    assert listed("volume", "ls", "--format", "{{.Name}}") == []
    assert listed("network", "ls", "--format", "{{.Name}}") == []
    assert not site.folder.exists()
    assert [socket for socket in sockets if socket.exists()] == []
    assert [pid for pid in processes if Path(f"/proc/{pid}").exists()] == []


def test_again_it_has_nothing_to_do_and_verbs_say_so(site: Machines) -> None:
    done = site.make("cluster-down", "PURGE=1")
    assert done.returncode == 0, done.stdout + done.stderr
    told = site.infra("status", str(site.file))
    assert told.returncode == 1
    assert told.stderr.startswith("cluster 'testsite' has no machines; run: make cluster-up CLUSTER="), (
        told.stderr
    )
