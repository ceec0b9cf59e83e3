"""The generated keys and passwords are where they belong, and show nowhere else; each search is shown red once."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from secrets import token_hex

import pytest

from infra.base.paths import CHECKOUT
from infra.places.site.play import environment
from tests.machines import leaks
from tests.machines.conftest import Machines, until

TESTED = {"real": ["place docker", "secrets"]}

NAMES = {"munge.key", "jwt_hs256.key", "database-password", "pulumi-passphrase", "admin"}


@pytest.fixture(scope="module")
def secrets(site: Machines) -> dict[str, list[bytes]]:
    return leaks.values(site.folder)


def journals(site: Machines) -> dict[str, bytes]:
    words = ["journalctl", "--no-pager", "-o", "export"]
    return {f"journal of {m.name}": site.on(m.name, *words).encode() for m in site.site.machines}


def settings(site: Machines) -> dict[str, bytes]:
    """What the engine tells of containers, volumes and networks of this cluster, and of one that a test made."""
    found = {}
    for kind in ("container", "volume", "network"):
        listed = subprocess.run(
            [
                "docker",
                kind,
                "ls",
                "-q",
                *(["-a"] if kind == "container" else []),
                "--filter",
                "name=testsite",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for id in listed:
            found[f"{kind} {id}"] = subprocess.run(
                ["docker", kind, "inspect", id], capture_output=True, check=True
            ).stdout
    return found


def test_only_their_owner_can_read_them_and_git_ignores_them(site: Machines) -> None:
    folder = site.folder / "secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {path.name for path in folder.iterdir()} == NAMES | {"admin.pub"}
    for name in NAMES:
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600, name
        ignored = subprocess.run(["git", "check-ignore", "-q", str(folder / name)], cwd=CHECKOUT, check=False)
        assert ignored.returncode == 0, name


def test_no_process_of_the_first_run_had_one(site: Machines) -> None:
    assert site.looked > 200, "processes were looked at"
    assert site.leaked == []


def test_no_file_of_the_cluster_has_one(site: Machines, secrets: dict[str, list[bytes]]) -> None:
    files = leaks.files(site.folder)
    for name in ("logs/ansible.log", "logs/pulumi.log", "logs/verify.log", "machines.json"):
        assert name in files
    assert any(name.startswith("state/") and b"checkpoint" in text for name, text in files.items())
    assert leaks.search(secrets, files) == []
    assert leaks.search(secrets, {"what was printed": site.first.stdout.encode()}) == []


def test_no_journal_and_no_setting_has_one(site: Machines, secrets: dict[str, list[bytes]]) -> None:
    found = journals(site) | settings(site)
    assert len(found) >= 4 + 4 + 1 + 1
    assert b"sshd" in found["journal of gpu-1"]
    assert leaks.search(secrets, found) == []


def test_ansible_shows_none_even_where_it_changes_them(
    site: Machines, secrets: dict[str, list[bytes]]
) -> None:
    """Two keys on a machine differ, so that a diff would show the old and the new."""
    paths = {"/etc/munge/munge.key": "gpu-1", "/etc/slurm/slurmdbd-password.conf": "controller"}
    for path, host in paths.items():
        site.on(host, "sh", "-c", f"cp -a {path} /root/kept && echo x >>{path}")
    try:
        done = subprocess.run(
            [
                *(Path(sys.executable).with_name("ansible-playbook"), "--check", "--diff", "-vv"),
                *("--inventory", site.folder / "ansible" / "inventory.yaml", "--limit", "gpu-1,controller"),
                CHECKOUT / "ansible" / "site.yml",
            ],
            cwd=CHECKOUT / "ansible",
            env=environment(site.site),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=600,
            check=False,
        )
    finally:
        for path, host in paths.items():
            site.on(host, "sh", "-c", f"cat /root/kept >{path}; rm /root/kept")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:].decode()
    for path in paths:
        assert path.encode() in said, "it was about to change it"
    assert leaks.search(secrets, {"Ansible": said}) == []


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_searches_find_a_secret_that_is_planted(
    site: Machines, secrets: dict[str, list[bytes]], name: str
) -> None:
    for form in secrets[name]:
        file = site.folder / "logs" / "planted"
        file.write_bytes(b"a line\n" + form + b"\n")
        try:
            assert leaks.search(secrets, leaks.files(site.folder)) == [f"{name} in logs/planted"]
        finally:
            file.unlink()
    text = secrets[name][-1].decode()
    for word, env in ((text, {}), ("nothing", {"PLANTED": text})):
        command = [sys.executable, "-c", "import time; time.sleep(60)", word]
        with leaks.watch() as seen:
            planted = subprocess.Popen(command, env={**os.environ, **env})
            try:
                until("a look at it", lambda: leaks.search(secrets, seen.copy()), timeout_s=10, every_s=0.1)
            finally:
                planted.kill()
                planted.wait()


def test_the_search_of_journals_finds_what_is_planted(site: Machines) -> None:
    """Not a real secret: a journal cannot be made to forget a line."""
    text = token_hex(16)
    site.on("gpu-1", "logger", "-t", "test", f"password={text}")
    assert leaks.search({"it": [text.encode()]}, journals(site)) == ["it in journal of gpu-1"]


def test_the_search_of_settings_finds_one_that_is_planted(
    site: Machines, secrets: dict[str, list[bytes]]
) -> None:
    planted = secrets["database-password"][0].decode()
    image = json.loads(
        subprocess.run(["docker", "inspect", site.container("gpu-1")], capture_output=True, check=True).stdout
    )[0]["Config"]["Image"]
    name = "planted-testsite"
    subprocess.run(
        ["docker", "create", "--name", name, "--env", f"PASSWORD={planted}", image],
        check=True,
        capture_output=True,
    )
    try:
        assert len(leaks.search(secrets, settings(site))) == 1
    finally:
        subprocess.run(["docker", "rm", name], check=True, capture_output=True)
