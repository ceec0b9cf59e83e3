"""Whatever a checkout's folder is called, and whoever the person is: what is rendered and started means the same."""

import json
import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from infra.base.paths import CHECKOUT
from infra.model import host
from infra.model.load import load_cluster
from infra.places.site import play, ssh
from infra.places.site.site import Site
from infra.render import compose
from infra.render.compose import in_unit
from tests.hostile import HOSTILE

FOLDERS = (
    "my work",
    "100%",
    "50% off",
    "%h",
    "$HOME",
    "${HOME}",
    "a $b c",
    "it's",
    'a "b"',
    "a#b",
    "a: b",
    "back\\slash",
    "süß",
)


def lab(folder: Path) -> str:
    here = replace(host.read_host(), checkout=folder, cache=folder / "cache")
    return compose.render(load_cluster(CHECKOUT / "clusters/lab.yaml", host=here))["compose.yaml"]


def uninterpolated(text: str) -> str:
    """As Compose reads a value: $$ is a $, and nothing else begins with one."""
    assert "$" not in text.replace("$$", "")
    return text.replace("$$", "$")


@pytest.mark.parametrize("name", FOLDERS)
def test_compose_mounts_the_checkout_whatever_it_is_called(name: str) -> None:
    folder = Path("/home/me") / name
    found = YAML(typ="safe").load(lab(folder))
    mount = found["x-volumes"]["checkout"]
    assert (uninterpolated(mount["source"]), uninterpolated(mount["target"])) == (str(folder), str(folder))
    stacks = [
        each
        for each in found["services"]["c1"]["volumes"]
        if str(each.get("target", "")).startswith("/opt/stack")
    ]
    assert uninterpolated(stacks[0]["source"]).startswith(f"{folder}/cache/stacks/")
    unit = uninterpolated(found["configs"]["checkout-unit"]["content"])
    last = [line for line in unit.splitlines() if line.startswith("ExecStart=")][-1]
    assert as_systemd(last.split(" none ")[1]) == f"{folder}/build"


def as_systemd(word: str) -> str:
    """A quoted word of a unit's command, as systemd takes it (systemd.service(5), systemd.unit(5))."""
    assert word[0] == word[-1] == '"'
    out, rest = "", word[1:-1]
    while rest:
        two = rest[:2]
        assert rest[0] != '"', "the word would end here"
        if two in ("%%", "$$", "\\\\", '\\"'):
            out, rest = out + two[1], rest[2:]
        else:
            assert rest[0] not in "%$\\", f"{two} means something else"
            out, rest = out + rest[0], rest[1:]
    return out


@given(st.text(st.characters(exclude_characters="\0\n\r/", exclude_categories=["Cs", "Cc"]), min_size=1))
def test_systemd_reads_any_folder(name: str) -> None:
    assert as_systemd(f'"{uninterpolated(in_unit(Path("/") / name))}"') == str(Path("/") / name)


def site(folder: Path) -> Site:
    found = Site(load_cluster(CHECKOUT / "clusters/site.yaml"))
    object.__setattr__(found, "folder", folder)
    return found


@pytest.mark.parametrize("name", [name for name in FOLDERS if "${" not in name])
def test_ssh_reads_its_configuration_whatever_the_folder_is_called(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / name
    (folder / "build").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    there = site(folder / "build")
    entry: dict[str, object] = {"name": "gpu-1", "address": "10.0.0.1", "host_key": "ssh-ed25519 AAAA"}
    entry |= {"group": "gpu", "parts": [], "id": "1", "hardware": "x", "usd_per_hour": None, "watts": 1.0}
    (folder / "build/machines.json").write_text(json.dumps({"machines": [entry]}))
    ssh.write(there)
    done = subprocess.run(
        [*there.ssh("gpu-1")[:-1], "-G", "gpu-1"], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert said["hostname"] == "10.0.0.1"
    assert said["identityfile"].replace("%%", "%") == str(folder / "build/secrets/admin")
    assert said["userknownhostsfile"].replace("%%", "%") == str(folder / "build/ssh/known_hosts")
    assert shlex.split(play.environment(there)["ANSIBLE_SSH_ARGS"]) == ["-F", str(there.ssh_config)]


def test_a_user_id_without_a_name_is_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    monkeypatch.delenv("SUDO_UID", raising=False)
    found = host.read_host()
    assert (found.user, found.uid) == ("4000000000", 4_000_000_000)
    monkeypatch.setenv("SUDO_UID", "nobody")
    assert host.read_host().uid == 4_000_000_000


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkout's own files in a folder that people have, with our tools."""
    there = tmp_path_factory.mktemp("checkout") / "my 50% $work"
    there.mkdir()
    for name in (
        "Makefile",
        "infra",
        "clusters",
        "hardware",
        "images",
        "jobs",
        "slurm",
        "ansible",
        "k8s",
        "programs",
    ):
        (there / name).symlink_to(CHECKOUT / name)
    for name in ("requirements.lock", "requirements-provision.lock", ".venv", "pyproject.toml"):
        (there / name).symlink_to(CHECKOUT / name)
    return there


@pytest.mark.parametrize("extra", [{}, HOSTILE], ids=["bare", "hostile"])
def test_verbs_work_without_a_home_in_any_shell(clone: Path, extra: dict[str, str]) -> None:
    done = subprocess.run(
        ["make", "--assume-old=requirements.lock", "--assume-old=infra/bootstrap", "show"],
        cwd=clone,
        env={"PATH": os.environ["PATH"], **extra},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("lab: 1 login + 2 compute")


# what bootstrap has to see to: what its own programs, Python, pip and uv, and the shell itself would read
FOR_TOOLS = {"CDPATH", "GREP_OPTIONS", "BASH_ENV", "UV_PYTHON"}
FOR_TOOLS |= {name for name in HOSTILE if name.startswith(("PYTHON", "PIP_"))}


@pytest.mark.parametrize("extra", [{}, HOSTILE], ids=["bare", "hostile"])
def test_the_tools_are_found_without_a_home_in_any_shell(
    clone: Path, tmp_path: Path, extra: dict[str, str]
) -> None:
    """infra/bootstrap as far as its first program: there a uv that says what it sees."""
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\nenv >{tmp_path}/seen; umask >>{tmp_path}/seen; echo "stub: $*" >&2; exit 1\n')
    uv.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", "umask 077; exec infra/bootstrap --lock"],
        cwd=clone,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **extra},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "stub: pip compile" in done.stderr
    assert "unbound" not in done.stderr
    seen = (tmp_path / "seen").read_text()
    assert "\nHOME=/" in f"\n{seen}"
    assert seen.splitlines()[-1] == "0022"
    names = {line.split("=")[0] for line in seen.splitlines()}
    assert not names & FOR_TOOLS
