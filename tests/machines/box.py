"""Throw-away machines for tests of roles: containers of the machine image, reached by SSH as real ones are.

    with boxes(folder, {"deb13": "machine", "deb12": "machine-debian-12"}) as lab:
        done = lab.play(["ssh", "time"], {"machine_container": True}, check=True)
        assert done.changed == {"deb13": [...], "deb12": [...]}   # names of tasks that changed something
        lab["deb13"].sh("systemctl is-active chrony")             # as root
        lab.ssh("deb13", "id -un")                                # as the admin, by a connection of its own

Needs Docker. The containers, their network and their volumes go at the end, also after a failure.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache as once
from pathlib import Path
from typing import Any

from infra.base.paths import CHECKOUT, cache
from infra.base.progress import Step
from infra.host import engine
from infra.images import targets
from infra.model.host import read_host

CGROUP_1 = "SYSTEMD_PROC_CMDLINE=systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
IMAGES = {"deb13": "machine", "deb12": "machine-debian-12"}


@dataclass(frozen=True)
class Box:
    """One machine: `name` is its host name and what Ansible calls it."""

    name: str
    container: str
    address: str

    def run(self, command: str, *, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """A line of bash as root, through the engine and not through SSH."""
        return subprocess.run(
            ["docker", "exec", "--interactive", self.container, "bash", "-c", command],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            timeout=120,
        )

    def sh(self, command: str, *, stdin: str | None = None) -> str:
        """What `command` prints; the test fails when the command does."""
        done = self.run(command, stdin=stdin)
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def logged(self) -> str:
        """The journal of this machine since it started."""
        return self.sh("journalctl --no-pager -o cat")


@dataclass(frozen=True)
class Played:
    """What one run of Ansible did."""

    rc: int
    stdout: str  # Ansible's own output, as JSON
    changed: dict[str, list[str]] = field(default_factory=dict)  # host -> "role : task", in order
    diffs: dict[str, str] = field(default_factory=dict)  # host -> what --diff showed, as text
    failed: dict[str, str] = field(default_factory=dict)  # host -> message of the task that failed
    unreachable: list[str] = field(default_factory=list)
    tasks: int = 0

    @property
    def nothing(self) -> bool:
        """Whether it ended well on every host, and changed nothing anywhere."""
        return self.rc == 0 and not any(self.changed.values())


@dataclass
class Boxes:
    """The machines of one test module, and Ansible before them."""

    folder: Path
    network: str
    machines: dict[str, Box] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Box:
        return self.machines[name]

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    def ssh(self, name: str, command: str, *options: str) -> subprocess.CompletedProcess[str]:
        """`command` through a new connection to machine `name`, as its admin or as `options` say."""
        own = ("-o", "ControlPath=none", "-o", "ConnectTimeout=10")
        return subprocess.run(
            ["ssh", "-F", str(self.config), *own, *options, name, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def play(
        self,
        roles: Sequence[str | Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        *,
        check: bool = False,
        limit: str | None = None,
        host_vars: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Played:
        """Run `roles` on the machines over SSH, as root by sudo, without facts.

        A role is its name, or what include_role takes: {"name": "users", "tasks_from": "homes"}. Variables of
        one host stand before those of all. `check` is --check --diff.
        """
        tasks = [_include(role) for role in roles]
        hosts = {name: dict((host_vars or {}).get(name, {})) for name in self.machines}
        inventory = {"all": {"hosts": hosts, "vars": {"machine_container": True, **(variables or {})}}}
        (self.folder / "inventory.json").write_text(json.dumps(inventory))
        play = [{"name": "Roles", "hosts": "all", "gather_facts": False, "become": True, "tasks": tasks}]
        (self.folder / "play.json").write_text(json.dumps(play))
        return self._ansible("play.json", ["--check"] if check else [], limit)

    def _ansible(self, play: str, options: list[str], limit: str | None) -> Played:
        inventory = ["--inventory", "inventory.json", "--diff", *(["--limit", limit] if limit else [])]
        env = {
            **os.environ,
            "ANSIBLE_CONFIG": str(CHECKOUT / "ansible" / "ansible.cfg"),
            "ANSIBLE_ROLES_PATH": str(CHECKOUT / "ansible" / "roles"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_SSH_ARGS": f"-F {self.config} -o ControlMaster=auto -o ControlPersist=60s",
            "ANSIBLE_SSH_CONTROL_PATH_DIR": str(self.folder / "cp"),
            "ANSIBLE_FORKS": "10",
            "ANSIBLE_NOCOLOR": "1",
        }
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), *inventory, *options, play],
            cwd=self.folder,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return _read(done)


def _include(role: str | Mapping[str, Any]) -> dict[str, Any]:
    given = {"name": role} if isinstance(role, str) else dict(role)
    key = "ansible.builtin.include_role" if "tasks_from" in given else "ansible.builtin.import_role"
    return {"name": f"Role {given['name']}", key: given}


def _read(done: subprocess.CompletedProcess[str]) -> Played:
    start = done.stdout.find("{")
    if start < 0:
        return Played(done.returncode, done.stdout + done.stderr)
    said = json.loads(done.stdout[start:])
    changed: dict[str, list[str]] = {host: [] for host in said["stats"]}
    diffs = dict.fromkeys(changed, "")
    failed: dict[str, str] = {}
    tasks = [task for play in said["plays"] for task in play["tasks"]]
    for task in tasks:
        for host, result in task["hosts"].items():
            if result.get("changed"):
                changed.setdefault(host, []).append(task["task"]["name"])
                diffs[host] = diffs.get(host, "") + _diff(result)
            if result.get("failed") or result.get("unreachable"):
                failed[host] = f"{task['task']['name']}: {_message(result)}"
    unreachable = [host for host, counts in said["stats"].items() if counts["unreachable"]]
    return Played(done.returncode, done.stdout, changed, diffs, failed, unreachable, len(tasks))


def _message(result: dict[str, Any]) -> str:
    parts = [result, *result.get("results", [])]
    return "\n".join(str(part["msg"]) for part in parts if part.get("msg"))


def _diff(result: dict[str, Any]) -> str:
    """--diff of a task, of all its items: lines of before with "-", lines of after with "+"."""
    found = []
    for part in [result, *result.get("results", [])]:
        diffs = part.get("diff") or []
        for diff in diffs if isinstance(diffs, list) else [diffs]:
            found.append(str(diff.get("prepared", "")))
            for key, sign in (("before", "-"), ("after", "+")):
                text = diff.get(key) or ""
                lines = (text if isinstance(text, str) else json.dumps(text)).splitlines()
                found += [f"{sign}{line}" for line in lines]
    return "\n".join(line for line in found if line) + "\n"


@contextmanager
def boxes(
    folder: Path, wanted: Mapping[str, str] = IMAGES, *, options: Sequence[str] = (), name: str = "box"
) -> Iterator[Boxes]:
    """Start a machine for each entry of `wanted` (host name -> image target), and remove them at the end.

    `folder` (empty, private) takes keys and files; `options` are more words for `docker create` (volumes).
    `name` tells the machines of one test module from another's.
    """
    tags = {image: _image(image) for image in {*wanted.values()}}
    machine = read_host()
    network = f"slipway-test-{name}-{os.getpid()}"
    lab = Boxes(folder, network)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(folder / "key")], check=True
    )
    with ExitStack() as undo:
        mtu = f"com.docker.network.driver.mtu={machine.mtu}"
        _docker("network", "create", "--opt", mtu, network)
        undo.callback(_docker, "network", "rm", network)
        for host, image in wanted.items():
            container = f"{network}-{host}"
            undo.callback(engine.remove_container, container)
            _docker(*_create(container, host, network, machine.cgroup, image, options), tags[image])
            _docker("start", container)
        lab.machines |= {host: _ready(f"{network}-{host}", host, folder) for host in wanted}
        _write_config(lab)
        yield lab


def _create(
    container: str, host: str, network: str, cgroup: int, image: str, options: Sequence[str]
) -> list[str]:
    archives = cache() / "apt" / f"test-{image}-{host}"  # of each host its own: apt locks it
    (archives / "partial").mkdir(parents=True, exist_ok=True)
    return [
        *("create", "--name", container, "--hostname", host, "--network", network, "--network-alias", host),
        *("--privileged", "--cgroupns", "private", "--stop-signal", "SIGRTMIN+3"),
        *("--tmpfs", "/run:mode=755", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:mode=1777,exec"),
        *("--env", "container=docker", *(("--env", CGROUP_1) if cgroup == 1 else ())),
        *("--volume", f"{archives}:/var/cache/apt/archives"),
        *options,
    ]


def _ready(container: str, host: str, folder: Path) -> Box:
    """Wait until the machine answers, and give its admin the key."""
    template = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    box = Box(host, container, _docker("inspect", "--format", template, container))
    public = (folder / "key.pub").read_text()
    keys = "/home/admin/.ssh/authorized_keys"
    box.sh(
        f"install -d -m 0700 -o admin -g admin /home/admin/.ssh && cat >{keys}"
        f" && chown admin:admin {keys} && chmod 0600 {keys}",
        stdin=public,
    )
    end = time.monotonic() + 60
    listening = "systemctl is-active ssh && ss -Htln sport = 22 | grep -q ."
    while box.run(listening).returncode:
        assert time.monotonic() < end, f"no SSH on {host} after 60 s:\n{box.run('systemctl --failed').stdout}"
        time.sleep(0.2)
    return box


def _write_config(lab: Boxes) -> None:
    """An SSH configuration as a real cluster's: host keys are known, and nothing is asked."""
    known, blocks = [], []
    for box in lab.machines.values():
        known.append(f"{box.name} {box.sh('cat /etc/ssh/ssh_host_ed25519_key.pub')}")
        blocks.append(f"Host {box.name}\n  HostName {box.address}\n  HostKeyAlias {box.name}\n")
    everywhere = (
        "Host *",
        "  User admin",
        f"  IdentityFile {lab.folder / 'key'}",
        "  IdentitiesOnly yes",
        f"  UserKnownHostsFile {lab.folder / 'known_hosts'}",
        "  GlobalKnownHostsFile /dev/null",
        "  StrictHostKeyChecking yes",
        "  BatchMode yes",
    )
    (lab.folder / "known_hosts").write_text("\n".join(known) + "\n")
    lab.config.write_text("".join(blocks) + "\n".join(everywhere) + "\n")


@once
def _image(target: str) -> str:
    """The tag of an image target, which is built when this engine does not have it."""
    targets.build_all((target,), Step("images", None))
    return targets.targets()[target].where


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()
