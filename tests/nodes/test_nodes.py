"""What must be true of a node before a job may run on it."""

import json
import re
import time

from infra.model import slurmrelease
from infra.model.cluster import Cluster
from infra.model.ports import SRUN_PORTS
from infra.places.site import release
from tests.nodes.conftest import Node, connect

TESTED = {"real": ["place lab", "place docker"]}

UNITS = {
    "db": ["mariadb"],
    "slurmdbd": ["munge", "slurmdbd"],
    "slurmctld": ["munge", "slurmctld", "slurmrestd"],
    "login": ["munge", "sackd", "prometheus-node-exporter"],
    "compute": ["munge", "slurmd", "prometheus-node-exporter"],
}
# Every port on which something outside the node may be answered (tcp; nothing listens on udp).
PORTS = {
    "db": {3306},
    "slurmdbd": {6819},
    "slurmctld": {6817, 6820},
    "login": {6818, 9100},
    "compute": {6818, 9100},
}
# path: (mode, owner)
SECRETS = {
    "db": {"/etc/slurm/slurmdbd-password.conf": (0o600, "slurm")},
    "slurmdbd": {
        "/etc/munge/munge.key": (0o400, "munge"),
        "/etc/slurm/slurmdbd.conf": (0o600, "slurm"),
        "/etc/slurm/slurmdbd-password.conf": (0o600, "slurm"),
        "/etc/slurm/jwt_hs256.key": (0o600, "slurm"),
    },
    "slurmctld": {"/etc/munge/munge.key": (0o400, "munge"), "/etc/slurm/jwt_hs256.key": (0o600, "slurm")},
    "login": {"/etc/munge/munge.key": (0o400, "munge")},
    "compute": {"/etc/munge/munge.key": (0o400, "munge")},
}


def test_services_run_and_none_has_failed(node: Node) -> None:
    assert node.host.check_output("systemctl --failed --plain --no-legend") == ""
    units = sorted({unit for part in node.parts for unit in UNITS[part]})
    assert node.host.run("systemctl is-active " + " ".join(units)).rc == 0


def test_nothing_listens_that_should_not(node: Node, cluster: Cluster) -> None:
    lines = node.host.check_output("ss -Hltnue").splitlines()
    # What users run on a node listens where it likes, among the nodes; slurmstepd does so for them.
    ours = [line for line in lines if not re.search(r"uid:[1-9]\d{3}\b", line)]
    outside = [line.split()[4] for line in ours if not line.split()[4].startswith(("127.", "[::1]"))]
    expected = {port for part in node.parts for port in PORTS[part]}
    if (
        cluster.place != "lab"
    ):  # beside Slurm: SSH and the exporter everywhere, Prometheus; the database is local
        expected |= {22, 9100} | ({9090} if "slurmctld" in node.parts else set())
        expected -= {3306} if cluster.spec.services.database == cluster.spec.services.accounting else set()
    found = {int(address.rsplit(":", 1)[1]) for address in outside}
    assert {port for port in found if not SRUN_PORTS[0] <= port <= SRUN_PORTS[1]} == expected


def test_secrets_are_where_they_belong_and_nowhere_else(node: Node) -> None:
    mine = {path: how for part in node.parts for path, how in SECRETS[part].items()}
    for path, (mode, owner) in mine.items():
        file = node.host.file(path)
        assert (file.mode, file.user) == (mode, owner), path
    everywhere = {path for files in SECRETS.values() for path in files}
    for path in everywhere - set(mine):
        assert not node.host.file(path).exists, f"{path} has no business here"


def test_a_credential_made_here_is_accepted_everywhere(slurm_node: Node, cluster: Cluster) -> None:
    made = slurm_node.host.check_output("munge --no-input")
    services = cluster.spec.services
    others = {services.accounting, services.controller, cluster.login[0], cluster.pools[0].nodes[-1]}
    for other in others:
        there = connect(cluster, other)
        assert "Success" in there.check_output("echo %s | unmunge --metadata -", made)


def test_the_database_lets_nobody_in_before_slurmdbd_has_its_grant(node: Node) -> None:
    """By a file that is run first, which MariaDB passes over in silence when it may not read it."""
    if "db" in node.parts:
        said = node.host.check_output("mariadb --batch --skip-column-names --execute='SELECT @@init_file'")
        assert said == "/run/mysqld/slipway.sql"
    if "slurmdbd" in node.parts:  # it tries again after five seconds, which a first start would wait for
        journal = node.host.check_output("journalctl --boot --unit slurmdbd --output cat")
        assert "is not allowed to connect" not in journal


def test_accounting_knows_its_users(slurm_node: Node) -> None:
    """Each by its number; coordinators and limits of a user that slurmdbd does not know are refused."""
    if "slurmctld" in slurm_node.parts:
        assert slurm_node.host.check_output("sacctmgr --noheader --parsable2 show problems") == ""


def test_slurm_is_the_same_everywhere(slurm_node: Node, cluster: Cluster) -> None:
    wanted = slurmrelease.release(release.running(cluster)[0])
    assert slurm_node.host.check_output("sinfo --version").startswith(f"slurm-wlm {wanted}.")


def test_the_clock_agrees_with_ours(node: Node) -> None:
    assert abs(float(node.host.check_output("date +%s.%N")) - time.time()) < 2


def test_the_health_check_says_well(compute: Node) -> None:
    done = compute.host.run("/usr/libexec/slipway/health-check")
    assert done.rc == 0, done.stdout + done.stderr


def test_the_node_has_what_its_pool_promises(compute: Node) -> None:
    wanted = json.loads(compute.host.file("/etc/slipway/node.json").content_string)
    got = compute.host.check_output(f"scontrol -o show node {compute.name}")
    assert f"CPUTot={wanted['cpus']} " in got
    assert f"RealMemory={wanted['memory_mib']} " in got
    assert "NOT_RESPONDING" not in got


def test_users_reach_the_stack(user_node: Node) -> None:
    said = user_node.host.check_output("runuser -u nobody -- /opt/stack/current/bin/python --version")
    assert said.startswith("Python 3.13")


def test_the_firewall_refuses_what_the_table_does_not_name(machine: Node) -> None:
    rules = machine.host.check_output("nft list table inet slipway")
    assert "policy drop" in rules
    assert "22" in rules


def test_ssh_takes_keys_only(machine: Node) -> None:
    said = machine.host.check_output("sshd -T")
    assert "passwordauthentication no" in said
    assert "permitrootlogin no" in said


def test_the_shared_disk_is_the_same_everywhere(machine: Node, cluster: Cluster) -> None:
    path = cluster.spec.storage.path
    machine.host.check_output(f"mountpoint {path}")
    home = machine.host.file(f"{path}/home/{cluster.user}")
    assert (home.is_directory, home.mode, home.user) == (True, 0o700, cluster.user)
