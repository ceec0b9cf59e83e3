"""Machines that cannot be configured: each is one line with its reason, and the others are configured.

When they are well again, the same command completes.
"""

import re

import pytest

from tests.machines.conftest import Machines, write

pytestmark = pytest.mark.more
TESTED = {"real": ["place docker"]}

LIMITS = "/etc/security/limits.d"
SUDO = "/etc/sudoers.d"


def more_people(*names: str) -> None:
    """A change of the cluster file that every machine has to make: people with accounts."""
    users = {name: {"accounts": ["research"], "uid": 4100 + index} for index, name in enumerate(names)}
    write(users={"ml": {"accounts": ["research"]}} | users)


def knows(site: Machines, host: str, person: str) -> bool:
    """Asked through the engine: this is about machines that SSH or sudo does not work on."""
    return person in site.inside(host, "getent passwd").replace(":", " ").split()


def reasons(said: str) -> dict[str, str]:
    """Machine -> why it is not configured, from what cluster-up says."""
    found = dict(re.findall(r"^  ([a-z0-9-]+): (.+)$", said, re.MULTILINE))
    assert found.pop("log").endswith("ansible.log; to go on, run the same command again")
    return found


def test_one_machine_is_unreachable_and_the_others_are_configured(site: Machines) -> None:
    more_people("eve")
    site.hang_up("gpu-2")
    site.inside("gpu-2", "systemctl stop ssh.socket ssh.service; pkill -f '^sshd' || :")
    address = next(machine.address for machine in site.site.machines if machine.name == "gpu-2")
    try:
        done = site.infra("up", str(site.file), "--job", "")
        code, report = site.plan()
    finally:
        site.inside("gpu-2", "systemctl start ssh.service")
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("1 of 4 machines are not configured (3 are):\n"), done.stderr
    assert reasons(done.stderr).keys() == {"gpu-2"}
    assert re.search(rf"unreachable: .*{re.escape(address)} port 22: Connection refused", done.stderr), (
        done.stderr
    )
    assert "Traceback" not in done.stderr + done.stdout
    assert [knows(site, host, "eve") for host in ("controller", "login", "gpu-1", "gpu-2")] == [
        True,
        True,
        True,
        False,
    ]
    assert (code, list(report["unreachable"])) == (2, ["gpu-2"]), "a plan without it is no plan"

    said = site.up()
    assert site.changed().keys() == {"gpu-2"}
    assert knows(site, "gpu-2", "eve")
    assert "verify" in said, "what was not verified before is verified now"


def test_sudo_a_full_disk_and_a_refused_key_are_one_line_each(site: Machines) -> None:
    more_people("eve", "mallory")
    site.inside("login", f"mount -t tmpfs -o size=4k tmpfs {LIMITS} && head -c 4096 /dev/zero >{LIMITS}/full")
    site.inside("gpu-1", f"tar -C {SUDO} -cf /root/sudoers.tar . && rm {SUDO}/*")
    site.inside(
        "gpu-2", "cp -a /home/admin/.ssh/authorized_keys /root/ && : >/home/admin/.ssh/authorized_keys"
    )
    site.hang_up("gpu-2")
    try:
        done = site.infra("up", str(site.file), "--job", "")
    finally:
        site.inside("login", f"umount {LIMITS}")
        site.inside("gpu-1", f"tar -C {SUDO} -xf /root/sudoers.tar")
        site.inside("gpu-2", "cp -a /root/authorized_keys /home/admin/.ssh/")
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("3 of 4 machines are not configured (1 are):\n"), done.stderr
    why = reasons(done.stderr)
    assert why.keys() == {"login", "gpu-1", "gpu-2"}
    assert why["login"].endswith(f": {LIMITS}/90-slipway.conf: No space left on device")
    assert why["gpu-1"].endswith(": Missing sudo password")
    assert re.fullmatch(r"unreachable: admin@[\d.]+: Permission denied \(publickey\)\.", why["gpu-2"])
    assert "Traceback" not in done.stderr + done.stdout
    assert knows(site, "controller", "mallory"), "the one that is well is configured"

    write()
    site.up()
    assert site.changed().keys() == {"controller", "login", "gpu-1", "gpu-2"}
    for host in ("controller", "login", "gpu-1", "gpu-2"):  # who left cannot log in
        assert site.on(host, "getent", "shadow", "eve").split(":")[7] == "1"
        assert not knows(site, host, "mallory") or "mallory:!" in site.on(host, "getent", "shadow", "mallory")
    assert site.plan()[0] == 0
