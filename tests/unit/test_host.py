"""Every kind of host gets what it needs and no more: the decisions, from recorded facts."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from infra.base.errors import Failure
from infra.host import docker
from infra.host.docker import Action, Facts, daemon_settings, decide

BARE_DEBIAN_12 = Facts()
WORKING = replace(
    BARE_DEBIAN_12,
    engine="26.1.5+dfsg1",
    dockerd=True,
    compose="2.26.1-4",
    buildx="github.com/docker/buildx 0.13.1",
)
LAPTOP = replace(
    WORKING, system="fedora", release="42", codename="", root=False, dockerd=False, engine="28.2.2"
)


@pytest.mark.parametrize(
    "facts", [WORKING, LAPTOP, replace(WORKING, systemd=True), replace(WORKING, root=False)]
)
def test_a_working_engine_is_used_and_nothing_is_changed(facts: Facts) -> None:
    assert decide(facts) == []


@pytest.mark.parametrize(
    "facts",
    [
        BARE_DEBIAN_12,
        replace(BARE_DEBIAN_12, release="13", codename="trixie", systemd=True),
        replace(BARE_DEBIAN_12, system="ubuntu", release="22.04", codename="jammy"),
        replace(BARE_DEBIAN_12, sys_resource=False, mtu=1400),
    ],
)
def test_a_bare_host_gets_an_engine(facts: Facts) -> None:
    assert decide(facts) == [Action.CONFIGURE, Action.INSTALL_ENGINE, Action.START]


def test_after_a_reboot_without_an_init_system_the_engine_is_started_again() -> None:
    assert decide(replace(WORKING, engine=None)) == [Action.START]


def test_a_client_without_its_plugins_gets_them() -> None:
    assert decide(replace(WORKING, compose=None, buildx=None)) == [Action.INSTALL_PLUGINS]
    assert decide(replace(WORKING, engine=None, compose=None)) == [Action.INSTALL_PLUGINS, Action.START]


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        (replace(BARE_DEBIAN_12, root=False), "as root"),
        (replace(BARE_DEBIAN_12, release="11", codename="bullseye"), "only on Debian 12"),
        (replace(BARE_DEBIAN_12, system="fedora", release="42"), "fedora 42"),
        (replace(WORKING, engine=None, root=False), "start it"),
        (replace(LAPTOP, engine=None, denied=True), "group docker"),
        (replace(LAPTOP, compose=None), "lacks compose v2"),
        (replace(BARE_DEBIAN_12, docker_host="tcp://build:2376"), "DOCKER_HOST=tcp://build:2376"),
        (replace(WORKING, engine="20.10.24+dfsg1", sys_resource=False), "CAP_SYS_RESOURCE"),
    ],
)
def test_what_we_may_not_or_cannot_do_is_said_in_a_line(facts: Facts, says: str) -> None:
    with pytest.raises(Failure, match=says) as told:
        decide(facts)
    assert "\n" not in str(told.value)


def test_networks_have_the_mtu_of_the_host_also_those_that_users_make() -> None:
    assert daemon_settings(1500) == {}
    settings = daemon_settings(1400)
    assert settings["mtu"] == 1400
    assert settings["default-network-opts"] == {"bridge": {"com.docker.network.driver.mtu": "1400"}}


def test_the_pid_file_of_another_boot_does_not_hold_the_engine_back(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where /run is a disk the file stays, and its number may be that of another program: here our own."""
    stale = tmp_path / "docker.pid"
    stale.write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(docker, "ENGINE_PID_FILES", (stale, tmp_path / "none"))
    monkeypatch.setattr(docker, "ENGINE_LOG", tmp_path / "docker.log")
    monkeypatch.setattr("subprocess.Popen", lambda command, **how: command)
    assert docker._start_daemon() == ["dockerd"]  # type: ignore[comparison-overlap]
    assert not stale.exists()
