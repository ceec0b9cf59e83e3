"""Ranks are told an address that they reach, also where the host's own name means the host alone."""

import os
import socket

import pytest

from jobs.cluster import address

REAL, LOOPBACK = "10.1.2.3", "127.0.1.1"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A host of several, whose interfaces are lo and eth7, and whose name means the loopback, as Debian installs it."""
    for name in ("GLOO_SOCKET_IFNAME", "MASTER_ADDR"):
        monkeypatch.setenv(name, "")  # so that what a test leaves is put back
        monkeypatch.delenv(name)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(socket, "gethostbyname", lambda _: LOOPBACK)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth7")])
    monkeypatch.setattr(address, "_of", {"lo": "127.0.0.1", "eth7": REAL}.get)
    monkeypatch.setattr(address, "_way_to", {"other": REAL, "self": LOOPBACK, address.ANYWHERE: REAL}.get)
    return monkeypatch


@pytest.mark.parametrize("rendezvous", ["other", "self"])  # the first rank's host sees itself at the loopback
def test_a_name_that_means_the_loopback_is_not_told(host: pytest.MonkeyPatch, rendezvous: str) -> None:
    host.setenv("MASTER_ADDR", rendezvous)
    assert address.address() == REAL
    address.show_gloo()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "eth7"


def test_without_any_way_out_it_is_the_loopback(host: pytest.MonkeyPatch) -> None:
    host.setattr(address, "_way_to", lambda _: "")
    assert address.address() == "127.0.0.1"


def test_what_a_person_chose_and_a_single_host_are_left_alone(host: pytest.MonkeyPatch) -> None:
    host.setenv("GLOO_SOCKET_IFNAME", "lo")
    address.show_gloo()
    assert (os.environ["GLOO_SOCKET_IFNAME"], address.address()) == ("lo", "127.0.0.1")
    host.delenv("GLOO_SOCKET_IFNAME")
    host.setenv("LOCAL_WORLD_SIZE", "4")
    address.show_gloo()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_a_name_that_means_an_address_of_the_host_is_taken(host: pytest.MonkeyPatch) -> None:
    host.setattr(address, "_by_name", lambda: REAL)
    assert address.address() == REAL
    address.show_gloo()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_this_host_s_own() -> None:
    """For real: the answer is an address that can be listened at."""
    with socket.create_server((address.address(), 0)):
        pass
