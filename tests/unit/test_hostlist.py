"""Host lists: what Slurm writes as gpu-[1-3,7]."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.model import hostlist

names = st.lists(
    st.from_regex(r"[a-z]{1,2}(-[0-9]{1,3}|[0-9]{0,2})", fullmatch=True), min_size=1, unique=True
)


@pytest.mark.parametrize(
    ("hosts", "text"),
    [
        ("c1 c2 c3", "c[1-3]"),
        ("c1 c3", "c[1,3]"),
        ("n08 n09 n10 n11", "n[08-11]"),
        ("n8 n9 n10", "n[8-10]"),
        ("login", "login"),
        ("a1 b1 b2", "a1,b[1-2]"),
    ],
)
def test_names_become_ranges(hosts: str, text: str) -> None:
    assert hostlist.compress(hosts.split()) == text
    assert hostlist.expand(text) == hosts.split()


@given(names)
def test_nothing_is_lost(hosts: list[str]) -> None:
    assert hostlist.expand(hostlist.compress(hosts)) == hosts


@pytest.mark.parametrize("text", ["", "c[1-", "c[3-1]", "c[a-b]", "C1", "c[1-999999999]", "a b", "-c1"])
def test_what_is_no_host_list_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        hostlist.expand(text)
