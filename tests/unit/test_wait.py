"""Waiting ends when it is so, or says what it waited for."""

import pytest

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.base.wait import settled, until


def test_it_ends_as_soon_as_nothing_is_waited_for() -> None:
    said = iter(["c1 and c2", "c2", ""])
    step = Step("cluster", None)
    assert settled(lambda: next(said), 5, every_s=0.01, step=step) < 1
    assert step.text == "waiting for c2"


def test_a_wait_that_is_over_says_for_what() -> None:
    with pytest.raises(Failure, match=r"^still waiting for c2 after 0 s$"):
        settled(lambda: "c2", 0.02, every_s=0.01)
    with pytest.raises(Failure, match=r"^Slurm cannot use c2$"):
        settled(lambda: "c2", 0.02, every_s=0.01, late=lambda left: f"Slurm cannot use {left}")


def test_the_last_look_is_after_the_time_and_not_before() -> None:
    looks: list[int] = []

    def look() -> str:
        looks.append(1)
        return "" if len(looks) == 2 else "it"

    settled(look, 0.02, every_s=60)  # a long pause is cut short, and then it is asked once more


def test_what_no_waiting_mends_ends_the_wait() -> None:
    def broken() -> str:
        raise Failure("c1 has ended")

    with pytest.raises(Failure, match="c1 has ended"):
        settled(broken, 5)


def test_until_is_the_same_for_a_yes_or_no() -> None:
    assert until("it", lambda: True) < 1
    with pytest.raises(Failure, match="still waiting for it after 0 s"):
        until("it", lambda: False, timeout_s=0.02, every_s=0.01)
