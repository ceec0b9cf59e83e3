"""Host keys are recorded on request, from real SSH servers, and never in silence."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.base.progress import Step
from infra.images import targets
from infra.model.cluster import Cluster
from infra.model.load import load_cluster
from infra.provision.metal import given
from tests.provision.emulator import free_port

TESTED = {"real": ["SSH with known host keys"]}


@dataclass(frozen=True)
class Server:
    """One SSH server on two addresses of this machine, as if it were two hosts."""

    port: int
    key: str
    addresses: tuple[str, str] = ("127.0.0.1", "127.0.0.2")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    image = targets.ensure(["machine"], Step("images", None))["machine"]
    port = free_port()
    publish = [word for n in (1, 2) for word in ("-p", f"127.0.0.{n}:{port}:22")]
    start = "ssh-keygen -A && mkdir -p /run/sshd && exec /usr/sbin/sshd -D -e"
    command = ["docker", "run", "-d", "--rm", "--init", *publish, "--entrypoint", "sh", image, "-c", start]
    box = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    try:
        yield Server(port, _key(box))
    finally:
        subprocess.run(["docker", "kill", box], check=True, capture_output=True)


def _key(box: str) -> str:
    """The key as the server's own console shows it, once sshd listens."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        logs = subprocess.run(["docker", "logs", box], capture_output=True, text=True)
        if "Server listening" in logs.stderr + logs.stdout:
            command = ["docker", "exec", box, "cat", "/etc/ssh/ssh_host_ed25519_key.pub"]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        time.sleep(0.1)
    raise AssertionError("no SSH server after 60 s")


def cluster(folder: Path, hosts: str) -> Cluster:
    """The shipped example with other hosts."""
    text = (CHECKOUT / "clusters/metal.yaml").read_text()
    file = folder / "metal.yaml"
    file.write_text(re.sub(r"^hosts:(.*\n)*(?=bmc:)", lambda _: hosts + "\n", text, flags=re.MULTILINE))
    return load_cluster(file)


def hosts(*entries: tuple[str, str, str | None]) -> str:
    """The `hosts` of a cluster file: name, address, host_key."""
    lines = [
        f"  {name}: {{address: {address}" + (f', host_key: "{key}"}}' if key else "}")
        for name, address, key in entries
    ]
    return "\n".join(["hosts:", *lines])


def test_what_is_printed_goes_into_the_file_and_is_right_there(server: Server, tmp_path: Path) -> None:
    one, two = server.addresses
    first = cluster(
        tmp_path, hosts(("controller", one, server.key), ("gpu-1", two, None), ("gpu-2", "127.0.0.3", None))
    )
    start = time.monotonic()
    found = given.hostkeys(first, port=server.port)
    assert time.monotonic() - start < given.SCAN_S + 3
    assert found.silent == ["gpu-2"]
    assert found.changed == []
    text = given.hostkeys_text(first, found)
    assert "no answer to SSH: gpu-2" in text
    assert given.fingerprint(server.key) in text
    bare = server.key.rsplit(" ", 1)[0]
    block = "\n".join(found.lines)
    block += f"\n  controller: {{address: {one}, host_key: {bare}}}"
    block += f"\n  gpu-2: {{address: 127.0.0.3, host_key: {bare}}}"
    second = cluster(tmp_path, block)
    assert second.spec.hosts["gpu-1"].host_key == bare
    given.check(second)


def test_another_key_than_the_files_is_told_and_not_printed_for_pasting(
    server: Server, tmp_path: Path
) -> None:
    other = load_cluster(CHECKOUT / "clusters/metal.yaml").spec.hosts["gpu-1"].host_key
    one, two = server.addresses
    changed = cluster(
        tmp_path, hosts(("controller", one, server.key), ("gpu-1", two, other), ("gpu-2", "127.0.0.3", other))
    )
    found = given.hostkeys(changed, port=server.port)
    assert found.lines == []
    (line,) = found.changed
    assert line.startswith("gpu-1: the file has SHA256:")
    assert given.fingerprint(server.key) in line
    assert server.key.split()[1] not in given.hostkeys_text(changed, found)


def test_the_command_prints_what_is_missing_and_exits_with_1_when_a_host_is_silent(tmp_path: Path) -> None:
    names = (("controller", "127.0.0.1"), ("gpu-1", "127.0.0.2"), ("gpu-2", "127.0.0.3"))
    file = cluster(tmp_path, hosts(*((name, address, None) for name, address in names))).file
    command = [sys.executable, "-m", "infra", "hostkeys", file]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    silent = [line for line in done.stdout.splitlines() if line.startswith("no answer to SSH: ")]
    assert done.returncode == bool(silent)  # 0 on a machine that has an SSH server of its own
    assert silent or "    host_key: " in done.stdout
    assert done.stderr == ""
