"""Who is lost, told from beats alone: silence, a loop that stands still, and what is neither."""

import dataclasses
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.resilience.heartbeat import BEATS, Beat, Heart, Judge, Lost

LIMIT = 4.0
PERIOD = LIMIT / BEATS


def beat(number: int, rank: int = 0, **what: object) -> Beat:
    facts = {"number": number, "host": f"node-{rank}", "home": f"node-{rank}", "pid": 100 + rank, "step": 7}
    facts |= {"doing": "step", "for_s": 0.1, "allowed_s": LIMIT, "begun": 30, "at": ""} | what
    return Beat(**facts)  # type: ignore[arg-type]


def watch(
    ranks: int, beats: Callable[[int, float], dict[int, Beat]], until: float = 30.0
) -> tuple[Lost | None, float]:
    """The verdict and its time, of a judge that looks every PERIOD."""
    clock = [0.0]
    judge = Judge(LIMIT, now=lambda: clock[0])
    tick = 0
    while clock[0] < until:
        found = judge.look(beats(tick, clock[0]))
        if found:
            return found, clock[0]
        clock[0] += PERIOD
        tick += 1
    return None, clock[0]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_silent_rank_is_named_within_5_s(victim: int) -> None:
    def beats(tick: int, now: float) -> dict[int, Beat]:
        return {rank: beat(min(tick, 10) if rank == victim else tick, rank) for rank in range(3)}

    lost, at = watch(3, beats)
    assert lost
    assert (lost.rank, lost.host, lost.step) == (victim, f"node-{victim}", 7)
    assert 4 < at - 10 * PERIOD < 5
    assert lost.line() == f"rank {victim} on node-{victim}: {lost.why}; its last step was 7"


def test_a_loop_that_stands_still_is_told_and_the_one_behind_named() -> None:
    """Rank 0 waits in an all-reduce that rank 1 did not come to."""

    def beats(tick: int, now: float) -> dict[int, Beat]:
        return {
            0: beat(tick, 0, for_s=now, begun=31),
            1: beat(tick, 1, for_s=now, at="data.py:151 (windows)"),
        }

    lost, at = watch(2, beats)
    assert lost
    assert lost.rank == 1
    assert at < 5
    assert "stuck for" in lost.why
    assert "data.py:151" in lost.why


def test_when_none_is_behind_that_is_said() -> None:
    lost, _ = watch(3, lambda tick, now: {rank: beat(tick, rank, for_s=now) for rank in range(3)})
    assert lost
    assert "(as are ranks 1, 2: none is behind)" in lost.why


@pytest.mark.parametrize("doing", ["first step", "save", "validation", "wait for a disk"])
def test_while_one_is_long_at_something_for_a_reason_nobody_is_stuck(doing: str) -> None:
    def beats(tick: int, now: float) -> dict[int, Beat]:
        return {
            0: beat(tick, 0, for_s=now, doing=doing, allowed_s=0.0),
            1: beat(tick, 1, for_s=now, begun=31),
        }

    assert watch(2, beats, until=120)[0] is None


def test_who_waited_for_a_long_phase_of_another_has_a_moment_to_go_on() -> None:
    """Rank 1 saves for 8 s; rank 0 has waited as long when it ends, and is on its way a second later."""

    def beats(tick: int, now: float) -> dict[int, Beat]:
        saving = now < 8
        return {
            0: beat(tick, 0, for_s=now if now < 9 else 0.1),
            1: beat(
                tick, 1, for_s=now % 8, doing="save" if saving else "step", allowed_s=0.0 if saving else LIMIT
            ),
        }

    assert watch(2, beats, until=11)[0] is None


@pytest.mark.parametrize("everyone", [True, False])
def test_one_who_does_not_see_all_ranks_calls_none_stuck(everyone: bool) -> None:
    clock = [0.0]
    judge = Judge(LIMIT, now=lambda: clock[0], everyone=everyone)
    found = []
    for tick in range(50):
        found.append(judge.look({0: beat(tick, for_s=clock[0])}))
        clock[0] += PERIOD
    assert any(found) is everyone


def test_but_silence_counts_then_too() -> None:
    lost, at = watch(1, lambda tick, _: {0: beat(min(tick, 5), doing="validation", allowed_s=0.0)})
    assert lost
    assert re.fullmatch(r"silent for 20\.\d s \(validation\)", lost.why)
    assert at < 23


def test_a_step_may_take_as_long_as_its_rank_allows() -> None:
    assert (
        watch(2, lambda tick, now: {r: beat(tick, r, for_s=now % 39, allowed_s=40.0) for r in range(2)}, 200)[
            0
        ]
        is None
    )


def test_a_process_of_the_same_host_that_is_gone_is_not_waited_for() -> None:
    judge = Judge(LIMIT, home="node-0", now=lambda: 0.0, alive=lambda pid: pid != 101)
    mine = {0: beat(1), 1: dataclasses.replace(beat(1, 1), home="node-0")}
    lost = judge.look(mine)
    assert lost
    assert (lost.rank, lost.why) == (1, "its process is gone")
    elsewhere = {0: beat(1), 1: beat(1, 1)}  # the same number on another host is another process
    assert Judge(LIMIT, home="node-0", now=lambda: 0.0, alive=lambda pid: pid != 101).look(elsewhere) is None


@given(st.lists(st.floats(0.01, 1000), max_size=60))
def test_a_judge_that_was_asleep_blames_nobody_for_it(gaps: list[float]) -> None:
    """Everybody beats whenever the judge is awake: however long it was not, nobody is lost."""
    clock = [0.0]
    judge = Judge(LIMIT, now=lambda: clock[0])
    for number, gap in enumerate(gaps):
        assert judge.look({rank: beat(number, rank) for rank in range(3)}) is None
        clock[0] += gap


class Store(dict[str, str]):
    """The ranks' store, for one process."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def multi_get(self, keys: list[str]) -> list[str]:
        return [self[key] for key in keys]


def test_the_end_of_what_may_take_long_is_told_at_once(tmp_path: Path) -> None:
    """A rank that is stopped right after a save would else be waited for as if it still saved."""
    store = Store()
    _, heart = (Heart(rank, 2, limit_s=600, store=store, folder=tmp_path) for rank in (1, 0))
    heart.watch()  # its next beat is due in a minute
    heart.step(1)
    with heart.long("save"):
        pass
    for _ in range(1000):
        if json.loads(store["0"])["allowed_s"]:
            break
        time.sleep(0.01)
    heart.stop()
    assert json.loads(store["0"])["doing"] == "step"
