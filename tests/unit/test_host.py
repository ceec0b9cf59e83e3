"""Every kind of host gets what it needs and no more: the decisions, from recorded facts."""

from dataclasses import replace

import pytest

from infra.errors import Failure
from infra.host import Action, Facts, daemon_settings, decide, version

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
    "host", [WORKING, LAPTOP, replace(WORKING, systemd=True), replace(WORKING, root=False)]
)
def test_a_working_engine_is_used_and_nothing_is_changed(host: Facts) -> None:
    assert decide(host) == []


@pytest.mark.parametrize(
    "host",
    [
        BARE_DEBIAN_12,
        replace(BARE_DEBIAN_12, release="13", codename="trixie", systemd=True),
        replace(BARE_DEBIAN_12, system="ubuntu", release="22.04", codename="jammy"),
        replace(BARE_DEBIAN_12, sys_resource=False, mtu=1400),
    ],
)
def test_a_bare_host_gets_an_engine(host: Facts) -> None:
    assert decide(host) == [Action.CONFIGURE, Action.INSTALL_ENGINE, Action.START]


def test_after_a_reboot_without_an_init_system_the_engine_is_started_again() -> None:
    assert decide(replace(WORKING, engine=None)) == [Action.START]


def test_a_client_without_its_plugins_gets_them() -> None:
    assert decide(replace(WORKING, compose=None, buildx=None)) == [Action.INSTALL_PLUGINS]
    assert decide(replace(WORKING, engine=None, compose=None)) == [Action.INSTALL_PLUGINS, Action.START]


@pytest.mark.parametrize(
    ("host", "says"),
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
def test_what_we_may_not_or_cannot_do_is_said_in_a_line(host: Facts, says: str) -> None:
    with pytest.raises(Failure, match=says) as told:
        decide(host)
    assert "\n" not in str(told.value)


def test_networks_have_the_mtu_of_the_host_also_those_that_users_make() -> None:
    assert daemon_settings(1500) == {}
    settings = daemon_settings(1400)
    assert settings["mtu"] == 1400
    assert settings["default-network-opts"] == {"bridge": {"com.docker.network.driver.mtu": "1400"}}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("26.1.5+dfsg1", (26, 1, 5)), ("20.10.24", (20, 10, 24)), ("22.04", (22, 4)), ("", ())],
)
def test_versions_compare_as_numbers(text: str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers
