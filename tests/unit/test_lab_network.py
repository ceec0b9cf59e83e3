"""A lab's containers keep their addresses, whatever starts first and whoever joins."""

import ipaddress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.base.errors import Failure
from infra.places.lab import network

SUBNETS = [ipaddress.IPv4Network(text) for text in ("172.18.0.0/16", "192.168.16.0/20", "10.1.2.64/26")]
hosts = st.lists(st.sampled_from([f"n{i}" for i in range(40)]), unique=True, max_size=30)


@given(subnet=st.sampled_from(SUBNETS), first=hosts, second=hosts)
def test_who_stays_keeps_its_address_and_no_two_have_one(
    subnet: ipaddress.IPv4Network, first: list[str], second: list[str]
) -> None:
    before = network.assign(first, subnet, {})
    after = network.assign(second, subnet, before)
    assert list(after) == second
    assert len(set(after.values())) == len(second)
    for host, address in after.items():
        assert ipaddress.ip_address(address) in subnet
        assert subnet[2] <= ipaddress.IPv4Address(address) < subnet.broadcast_address, "1 is the gateway's"
        assert host not in before or address == before[host]


def test_addresses_of_another_range_are_not_kept() -> None:
    assert network.assign(["c1"], SUBNETS[0], {"c1": "10.9.9.9"}) == {"c1": "172.18.0.10"}


def test_a_range_that_is_too_small_is_one_line() -> None:
    with pytest.raises(Failure, match=r"^Docker's network 10\.0\.0\.0/29 has no address for each of 9 nodes"):
        network.assign([f"c{i}" for i in range(9)], ipaddress.IPv4Network("10.0.0.0/29"), {})


def test_what_stands_in_the_file_is_what_the_next_run_keeps(tmp_path: Path) -> None:
    there = {"Name": "x", "IPAM": {"Config": [{"Subnet": "172.30.0.0/16"}]}}
    network.write(tmp_path, ["db", "c1"], there, "x-asks")
    network.write(tmp_path, ["db", "c0", "c1"], there, "x-asks")
    _, chosen = network._read(tmp_path / network.FILE) or (None, {})
    assert chosen == {"db": "172.30.0.10", "c0": "172.30.0.12", "c1": "172.30.0.11"}
    moved = {"Name": "x", "IPAM": {"Config": [{"Subnet": "172.31.0.0/16"}]}}
    network.write(tmp_path, ["c1"], moved, "x-asks")
    assert (network._read(tmp_path / network.FILE) or (None, {}))[1] == {"c1": "172.31.0.10"}
