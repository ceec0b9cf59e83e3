"""The interval between checkpoints: Young's and Daly's formulas, and a decision that needs one rank's clock only."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.config import AUTO
from jobs.resilience import interval
from jobs.resilience.interval import FIRST_STEPS, Interval

seconds = st.floats(0.001, 1e4)


def test_dalys_interval_for_a_save_of_30_s_and_a_failure_a_day() -> None:
    """Worked by hand: sqrt(2 30 86400) = 2276.8; (1 + 0.013176/3 + 0.0001736/9) = 1.0044; less 30."""
    assert interval.young(30, 86400) == pytest.approx(2276.84, abs=0.01)
    assert interval.daly(30, 86400) == pytest.approx(2256.89, abs=0.01)


def test_saving_that_takes_longer_than_things_hold_is_done_once_a_failure() -> None:
    assert interval.daly(10, 4) == 4


@given(seconds, st.floats(1, 1e3))
def test_no_other_interval_loses_less(save: float, ratio: float) -> None:
    """Against the exact expected time with exponential failures (Daly's equation 13), restart cost 0."""
    mean = save * 20 * ratio

    def total(t: float) -> float:
        return math.expm1((t + save) / mean) / t

    best = total(interval.daly(save, mean))
    for factor in (0.5, 0.8, 1.25, 2):
        assert best < total(factor * interval.daly(save, mean))


@given(st.integers(1, 50), st.integers(0, 500))
def test_a_given_interval_counts_steps_of_the_run_not_of_the_start(every: int, begin: int) -> None:
    chosen = Interval(every, 1000, 1)
    assert [step for step in range(begin + 1, begin + 101) if chosen.due(step)] == [
        step for step in range(begin + 1, begin + 101) if step % every == 0
    ]


def test_zero_saves_only_when_interrupted() -> None:
    chosen = Interval(0, 1000, 1)
    assert not any(chosen.due(step) for step in range(1, 100))


class Clock:
    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def test_auto_measures_first_and_then_keeps_dalys_interval() -> None:
    clock = Clock()
    chosen = Interval(AUTO, node_mtbf_h=1, nodes=36, now=clock)  # a failure every 100 s
    begin, saves, stalls = 200, [], []
    for step in range(begin + 1, begin + 800):
        clock.at += 0.1
        if chosen.due(step):
            saves.append((step, clock.at))
            stalls.append(5.0 if not saves[1:] else 0.5)  # the first one imports
            clock.at += stalls[-1]
            chosen.saved(stalls, [0.1])
    assert saves[0][0] == begin + FIRST_STEPS
    expected = interval.daly(0.5, 100)
    apart = [later - earlier - 0.5 for (_, earlier), (_, later) in itertools.pairwise(saves[1:])]
    assert len(apart) >= 2
    assert all(expected <= each <= expected + 0.1001 for each in apart)


def test_no_save_starts_before_the_one_before_is_written() -> None:
    chosen = Interval(AUTO, node_mtbf_h=1, nodes=1000)
    chosen.saved([0.001], [20.0])
    assert chosen.seconds == 20.0


@given(st.integers(1, 10_000))
def test_more_nodes_fail_more_often(nodes: int) -> None:
    one, many = Interval(AUTO, 6000, 1), Interval(AUTO, 6000, nodes)
    one.saved([1.0], [1.0])
    many.saved([1.0], [1.0])
    assert one.seconds and many.seconds
    assert many.seconds <= one.seconds
    assert "Daly" in many.line()
