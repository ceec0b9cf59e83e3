"""Versions compare as numbers, however programs, packages and distributions write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.base.version import number


@pytest.mark.parametrize(
    ("text", "release"),
    [
        ("26.1.5+dfsg1", (26, 1, 5)),
        ("24.11.5-4+deb13u1", (24, 11, 5)),
        ("2:22.04~rc", (2,)),
        ("22.04", (22, 4)),
        ("go1.24.13", (1, 24, 13)),
        ("v3.250.0", (3, 250, 0)),
        ("27.0.0-rc.1", (27, 0, 0)),
        ("580.65.06", (580, 65, 6)),
        ("", (0,)),
        ("devel +abc", (0,)),
    ],
)
def test_the_number_is_what_it_begins_with(text: str, release: tuple[int, ...]) -> None:
    assert number(text).release == release


@given(one=st.lists(st.integers(0, 999), min_size=1), other=st.lists(st.integers(0, 999), min_size=1))
def test_the_order_is_that_of_the_numbers(one: list[int], other: list[int]) -> None:
    def padded(parts: list[int]) -> list[int]:
        return parts + [0] * (max(len(one), len(other)) - len(parts))

    texts = (".".join(map(str, parts)) for parts in (one, other))
    first, second = (number(text) for text in texts)
    assert (first < second) == (padded(one) < padded(other))
