"""Roles ssh, users, time, limits and firewall on a Debian 13 and a Debian 12 machine, over SSH. Needs Docker.

deb13 is a login node that also makes homes, deb12 neither. The tests are a story, and run in this order.
"""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.machines.box import Boxes, Played, boxes

pytestmark = pytest.mark.more
TESTED = {"real": ["Debian 13", "Debian 12", "SSH with known host keys", "firewall"]}

LISTS = {"name": "common", "tasks_from": "packages"}
ROLES = [LISTS, "ssh", "users", "time", "limits", "firewall"]

SSHD = "ssh : Set who may log in and how"
PEOPLE = "users : Make the cluster's people, their keys, and lock who left"
CHRONY = "time : Install chrony"
SYSCTL = "limits : Set the kernel's settings now"
RULES = "firewall : Load the rules, if they are not in force exactly so"
# What only a run does: units that come with what it installs, and what follows from a change.
FOLLOWS = {
    "time : Restart the keeper of time",
    "limits : Give slurmd its limits",
    "firewall : Load them at boot",
}


@dataclass
class Site:
    """The machines, what was asked of them, and what the first runs said."""

    lab: Boxes
    people: dict[str, Path]  # name -> private key
    variables: dict[str, Any]
    promised: Played
    untouched: dict[str, str]  # host -> what there was after the promise
    sshd: dict[str, str]  # host -> process of sshd before anything was changed
    first: Played

    def play(
        self, roles: list[Any], *, check: bool = False, limit: str | None = None, **other: Any
    ) -> Played:
        return play(self.lab, roles, {**self.variables, **other}, check=check, limit=limit)

    def log_in(self, host: str, name: str, key: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A connection of its own with one key only: that of `name`, or the one given."""
        who = ("-o", f"User={name}", "-o", "IdentityFile=none", "-i", str(key or self.people[name]))
        return self.lab.ssh(host, "id -un", *who)


def play(
    lab: Boxes, roles: list[Any], variables: dict[str, Any], *, check: bool = False, limit: str | None = None
) -> Played:
    login = {"users_login": True, "users_make_homes": True, "ssh_users": ["ml", "eve"]}
    return lab.play(roles, variables, check=check, limit=limit, host_vars={"deb13": login})


def key(folder: Path, name: str) -> Path:
    file = folder / f"key-{name}"
    words = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file))
    subprocess.run(words, check=True)
    return file


def person(name: str, uid: int, *keys: Path) -> dict[str, Any]:
    public = [file.with_suffix(".pub").read_text().strip() for file in keys]
    return {"name": name, "uid": uid, "gid": uid, "keys": public, "accounts": ["research"]}


SSHD_PROCESS = "systemctl show --property=MainPID ssh"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("base")
    with boxes(folder, name="base") as lab:
        people = {name: key(folder, name) for name in ("ml", "eve")}
        # SSH comes from this host, which is the containers' router.
        route = lab["deb13"].sh("ip -4 route show default").split()
        ours = route[route.index("via") + 1]
        network = f"{lab['deb13'].address}/24"
        variables = {
            "users_people": [person("ml", 2001, people["ml"]), person("eve", 2002, people["eve"])],
            "users_home": "/shared/home",
            "firewall_metadata": True,
            "firewall_rules": [
                {"name": "ssh", "protocol": "tcp", "ports": [22], "sources": [ours]},
                {"name": "metrics", "protocol": "tcp", "ports": ["9100-9109"], "sources": [network]},
                {"name": "ping", "protocol": "icmp", "sources": [network]},
            ],
        }
        sshd = {host: lab[host].sh(SSHD_PROCESS) for host in lab.machines}
        promised = play(lab, ROLES, variables, check=True)
        look = "getent passwd ml; which nft chronyd; ls /shared; cat /proc/sys/net/core/somaxconn"
        untouched = {host: lab[host].run(look).stdout for host in lab.machines}
        for host in lab.machines:
            lab[host].sh(
                "systemd-run --quiet --unit=listen-9100 python3 -m http.server 9100;"
                "systemd-run --quiet --unit=listen-7000 python3 -m http.server 7000"
            )
        first = play(lab, ROLES, variables)
        yield Site(lab, people, variables, promised, untouched, sshd, first)


def test_check_mode_on_new_machines_says_what_a_run_then_does(site: Site) -> None:
    assert site.promised.rc == 0, site.promised.failed
    assert site.first.rc == 0, site.first.failed
    for host in site.lab.machines:
        said, did = site.promised.changed[host], site.first.changed[host]
        assert [task for task in did if task not in FOLLOWS] == said
        assert {SSHD, PEOPLE, CHRONY, SYSCTL, RULES} <= set(said)
        assert site.untouched[host].split() == ["4096"], "check mode changed the machine"


def test_then_check_mode_says_nothing_and_a_second_run_changes_nothing(site: Site) -> None:
    assert site.play(ROLES, check=True).nothing
    again = site.play(ROLES)
    assert again.nothing, again.changed


def test_sshd_was_reloaded_and_lets_the_admin_in_by_a_new_connection(site: Site) -> None:
    for host in site.lab.machines:
        assert site.lab.ssh(host, "sudo id -un").stdout == "root\n"
        assert site.lab[host].sh(SSHD_PROCESS) == site.sshd[host], "restarted"


def test_sshd_takes_no_password_no_root_no_stranger_and_no_old_algorithm(site: Site) -> None:
    admin = site.lab.folder / "key"
    for host, box in site.lab.machines.items():
        box.sh("install -d -m 0700 /root/.ssh && cp /home/admin/.ssh/authorized_keys /root/.ssh/")
        assert "Permission denied (publickey)" in site.log_in(host, "root", admin).stderr
        offered = site.lab.ssh(host, "true", "-o", "PreferredAuthentications=password")
        assert "Permission denied (publickey)" in offered.stderr
        box.sh("useradd --create-home stranger && cp -r /home/admin/.ssh /home/stranger/")
        box.sh("chown -R stranger /home/stranger")
        assert site.log_in(host, "stranger", admin).returncode == 255
        for old in (
            "KexAlgorithms=ecdh-sha2-nistp256",
            "HostKeyAlgorithms=rsa-sha2-512",
            "Ciphers=aes128-ctr",
        ):
            assert "no matching" in site.lab.ssh(host, "true", "-o", old).stderr, old


def test_people_log_in_on_login_nodes_only_and_by_the_cluster_files_keys_only(site: Site) -> None:
    ml, box = site.people["ml"], site.lab["deb13"]
    assert site.log_in("deb13", "ml").stdout == "ml\n"
    assert site.log_in("deb12", "ml").returncode == 255
    assert site.log_in("deb13", "eve", ml).returncode == 255
    own = "/shared/home/eve/.ssh"
    box.sh(
        f"install -d -m 0700 -o eve -g eve {own} && cat >{own}/authorized_keys && chown eve {own}/*",
        stdin=ml.with_suffix(".pub").read_text(),
    )
    assert site.log_in("deb13", "eve", ml).returncode == 255, "a key that the cluster file does not have"


def test_people_have_the_same_numbers_everywhere_and_a_home_that_one_machine_made(site: Site) -> None:
    for box in site.lab.machines.values():
        assert box.sh("getent passwd ml") == "ml:x:2001:2001::/shared/home/ml:/bin/bash"
        assert box.sh("getent shadow ml").split(":")[1] == "!"
    assert site.lab["deb13"].sh("stat -c '%a %U %G' /shared/home/ml") == "700 ml ml"
    assert site.lab["deb12"].run("test -e /shared").returncode == 1


def test_the_containers_clock_is_measured_and_never_set(site: Site) -> None:
    for box in site.lab.machines.values():
        assert " -x" in box.sh("pgrep --full --list-full /usr/sbin/chronyd")
        assert "Disabled control of system clock" in box.logged()


def test_limits_of_a_container_are_of_its_own_network_and_those_of_a_machine_are_all(site: Site) -> None:
    for box in site.lab.machines.values():
        assert box.sh("cat /proc/sys/net/core/somaxconn") == "8192"
        assert "nofile" not in box.sh("cat /etc/security/limits.d/90-slipway.conf")
    # Check mode only: the kernel is the host's.
    server = site.play(
        ["limits", "time"], check=True, limit="deb13", machine_container=False, limits_hugepages=7
    )
    assert server.rc == 0, server.failed
    for line in (
        "+* - memlock unlimited",
        "+root - nofile 1048576",
        "+kernel.numa_balancing = 0",
        "+vm.nr_hugepages = 7",
        '+DAEMON_OPTS="-F 1"',
    ):
        assert line in server.diffs["deb13"].splitlines(), server.diffs["deb13"]


def reaches(site: Site, host: str, port: int, address: str | None = None, user: str = "root") -> bool:
    """Whether a TCP connection from `host`, by default to deb13, is answered."""
    target = address or site.lab["deb13"].address
    words = f"runuser -u {user} -- timeout 2 bash -c '</dev/tcp/{target}/{port}'"
    return site.lab[host].run(words).returncode == 0


def test_what_no_rule_names_is_dropped(site: Site) -> None:
    box = site.lab["deb13"]
    assert reaches(site, "deb12", 9100)
    assert not reaches(site, "deb12", 7000)
    assert not reaches(site, "deb12", 22), "ssh has a rule, and not for this source"
    assert reaches(site, "deb13", 7000, "127.0.0.1")
    # Both listen: without the table the same connections are answered.
    box.sh("nft delete table inet slipway")
    assert reaches(site, "deb12", 7000)
    assert reaches(site, "deb12", 22)
    box.sh("nft --file /etc/nftables.d/slipway.nft")
    assert not reaches(site, "deb12", 7000)


def test_only_root_reaches_a_clouds_metadata(site: Site) -> None:
    box, metadata = site.lab["deb13"], "169.254.169.254"
    box.sh(f"ip address add {metadata}/32 dev lo")
    assert reaches(site, "deb13", 9100, metadata)
    assert not reaches(site, "deb13", 9100, metadata, user="ml")
    box.sh(f"ip address delete {metadata}/32 dev lo")


MANAGED = "find /etc/ssh /etc/nftables.d /etc/sysctl.d /etc/security /etc/systemd/system /etc/chrony -type f"
TIMES = f"{MANAGED} -printf '%p %T@\\n' | sort"


def test_drift_is_reported_exactly_and_put_right_and_nothing_else_is_touched(site: Site) -> None:
    new, old = site.lab["deb13"], site.lab["deb12"]
    stranger = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIIII mallory"
    for box in (new, old):
        box.sh("nft add table inet docker && nft add chain inet docker kept")
    before = {box.name: dict(line.split() for line in box.sh(TIMES).splitlines()) for box in (new, old)}
    new.sh("sed -i 's/^MaxAuthTries .*/MaxAuthTries 40/' /etc/ssh/sshd_config.d/00-slipway.conf")
    new.sh("nft add rule inet slipway input tcp dport 7000 accept")
    new.sh(f"echo '{stranger}' >>/etc/ssh/authorized_keys/ml")
    old.sh("apt-get remove --quiet --yes chrony")
    old.sh(
        "nft -a list chain inet slipway input | grep metrics | sed 's/.*handle //'"
        " | xargs nft delete rule inet slipway input handle"
    )
    old.sh("echo 128 >/proc/sys/net/core/somaxconn")
    processes = {box.name: box.sh(SSHD_PROCESS) for box in (new, old)}

    said = site.play(ROLES, check=True)
    assert said.rc == 0, said.failed
    assert said.changed == {
        "deb13": [SSHD, "ssh : Reload sshd", PEOPLE, RULES],
        "deb12": [CHRONY, SYSCTL, RULES],
    }
    shown = {host: said.diffs[host].splitlines() for host in said.diffs}
    assert {
        "-MaxAuthTries 40",
        "+MaxAuthTries 4",
        "+set keys of ml (1)",
        "-\t\ttcp dport 7000 accept",
    } <= set(shown["deb13"])
    assert {"-net.core.somaxconn = 128", "+net.core.somaxconn = 8192"} <= set(shown["deb12"])
    assert not any(line.startswith("-") and "metrics" in line for line in shown["deb12"])
    assert any(line.startswith("+") and "metrics" in line for line in shown["deb12"])
    assert reaches(site, "deb12", 7000), "check mode changed the rules"

    done = site.play(ROLES)
    assert done.rc == 0, done.failed
    assert done.changed == said.changed
    assert not reaches(site, "deb12", 7000)
    assert stranger not in new.sh("cat /etc/ssh/authorized_keys/ml")
    assert "metrics" in old.sh("nft list table inet slipway")
    assert old.sh("systemctl is-active chrony") == "active"
    assert site.play(ROLES, check=True).nothing

    mended = {"/etc/ssh/sshd_config.d/00-slipway.conf", "/etc/ssh/authorized_keys/ml"}
    # A rule added by hand is no change of the file, which is written again with the table.
    mended |= {"/etc/nftables.d/slipway.nft"}
    for box in (new, old):
        assert box.sh(SSHD_PROCESS) == processes[box.name]
        assert "chain kept" in box.sh("nft list table inet docker")
        after = dict(line.split() for line in box.sh(TIMES).splitlines())
        touched = {file for file in after if before[box.name].get(file) != after[file]}
        assert touched <= mended, touched


def test_rules_that_lock_the_admin_out_are_refused(site: Site) -> None:
    box = site.lab["deb13"]
    rules = box.sh("nft list table inet slipway")
    elsewhere = {"name": "ssh", "protocol": "tcp", "ports": [22], "sources": ["203.0.113.0/24"]}
    for given in ([], [elsewhere], [{**elsewhere, "sources": []}]):
        done = site.play(["firewall"], limit="deb13", firewall_rules=given)
        assert "Nothing was changed" in done.failed["deb13"]
    assert box.sh("nft list table inet slipway") == rules
    assert site.lab.ssh("deb13", "true").returncode == 0


def test_rules_that_the_kernel_does_not_take_are_refused_before_anything_changes(site: Site) -> None:
    box = site.lab["deb13"]
    rules = box.sh("nft list table inet slipway; cat /etc/nftables.d/slipway.nft")
    wrong = {"name": "bad", "protocol": "tcp", "ports": ["70000"], "sources": ["10.0.0.0/8"]}
    given = [*site.variables["firewall_rules"], wrong]
    done = site.play(["firewall"], check=True, limit="deb13", firewall_rules=given)
    assert "the kernel refuses the rules" in done.failed["deb13"]
    assert box.sh("nft list table inet slipway; cat /etc/nftables.d/slipway.nft") == rules


def test_an_sshd_that_locks_the_admin_out_is_refused(site: Site) -> None:
    for wrong in ({"ssh_admin": "debian"}, {"ssh_max_auth_tries": -1}):
        done = site.play(["ssh"], limit="deb13", **wrong)
        assert SSHD in done.failed["deb13"]
        assert site.lab.ssh("deb13", "true").returncode == 0
    assert "MaxAuthTries 4\n" in site.lab["deb13"].sh("cat /etc/ssh/sshd_config.d/00-slipway.conf")


def test_a_file_that_undoes_the_hardening_is_found(site: Site) -> None:
    box, file = site.lab["deb13"], "/etc/ssh/sshd_config.d/00-aaa.conf"
    box.sh(f"echo 'PermitRootLogin yes' >{file}")
    assert "sshd" in site.play(["ssh"], check=True, limit="deb13").failed["deb13"]
    box.sh(f"rm {file}")


def test_who_left_is_locked_and_comes_back_when_named_again(site: Site) -> None:
    box = site.lab["deb13"]
    stay = [one for one in site.variables["users_people"] if one["name"] != "ml"]
    said = site.play(["users"], check=True, users_people=stay)
    assert site.log_in("deb13", "ml").stdout == "ml\n", "check mode locked ml out"
    done = site.play(["users"], users_people=stay)
    assert done.changed == said.changed == {"deb13": [PEOPLE], "deb12": [PEOPLE]}
    assert said.diffs["deb13"].splitlines() == [
        "+lock ml, who is not in the cluster file any more",
        "+remove keys of ml",
    ]
    assert site.log_in("deb13", "ml").returncode == 255
    assert box.sh("stat -c %U /shared/home/ml/.bashrc") == "ml", "files stay"
    # Locked also for one who puts the key back.
    public = site.people["ml"].with_suffix(".pub").read_text()
    box.sh("cat >/etc/ssh/authorized_keys/ml", stdin=public)
    assert site.log_in("deb13", "ml").returncode != 0
    assert not site.play(["users"], check=True, limit="deb12", users_people=stay).changed["deb12"]

    site.play(["users"])
    assert site.log_in("deb13", "ml").stdout == "ml\n"
    assert site.log_in("deb13", "eve").stdout == "eve\n"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "new", "uid": 65534}, "uid 65534 is nobody's on this machine"),
        ({"name": "ml", "uid": 2005}, "ml is 2001:2001 on this machine and 2005:2005 in the cluster file"),
        ({"name": "new", "uid": 0}, "uid 0 belongs to the system"),
        ({"name": "new", "uid": None}, "new has no uid in the cluster file"),
        ({"name": "new", "uid": 2009, "keys": ["AAAA"]}, "new: not one public key on one line"),
        ({"name": "new", "uid": 2009, "keys": ['command="id" ssh-rsa AAAA']}, "not one public key"),
    ],
)
def test_a_person_that_cannot_be_is_refused_in_one_line(
    site: Site, wrong: dict[str, Any], message: str
) -> None:
    done = site.play(["users"], check=True, limit="deb13", users_people=[wrong])
    assert message in done.failed["deb13"]


def test_a_machine_is_closed_again_after_a_reboot(site: Site) -> None:
    box = site.lab["deb13"]
    rules = box.sh("nft --stateless list table inet slipway")
    subprocess.run(["docker", "restart", "--time", "10", box.container], check=True, capture_output=True)
    box.sh("until systemctl is-active ssh; do sleep 0.2; done; systemctl is-active slipway-firewall")
    assert box.sh("nft --stateless list table inet slipway") == rules
