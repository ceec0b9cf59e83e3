"""The waterfall of a restart: adds up from the last step before it to where the run was, whoever saw the end."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.telemetry import restart

PHASES = {
    "queue": 5.0,
    "start": 1.0,
    "agent": 3.0,
    "import": 2.0,
    "rendezvous": 0.3,
    "data": 0.4,
    "model": 0.1,
}


def run(folder: Path, ended_unix: float | None = None) -> Path:
    lines = [{"step": step, "loss": 1.0, "time": 1000.0 + step} for step in range(1, 61)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"st')
    if ended_unix:
        (folder / "ended.json").write_text(json.dumps({"unix": ended_unix, "why": "silent for 4.1 s"}))
    return folder


def test_a_first_start_has_nothing_before_it(tmp_path: Path) -> None:
    assert restart.left(tmp_path) is None


def test_what_the_heartbeat_saw_begins_the_waterfall(tmp_path: Path) -> None:
    before = restart.left(run(tmp_path, ended_unix=1064.2))
    assert before == restart.Left(60, 1060.0, 1064.2, "silent for 4.1 s")
    found = restart.waterfall(before, PHASES, worker_unix=1074.2, resumed=50, requeued_unix=1065.0)
    assert (found["detect"], found["reschedule"], found["start"]) == pytest.approx((4.2, 6.0, 4.0))
    assert (found["again"], found["catch_up"]) == (10, None)
    assert "detect 4.2 s · reschedule 6.0 s · start 4.0 s · import 2.0 s" in restart.line(1, found)
    assert "10 steps to do again" in restart.line(1, found)


def test_slurm_knows_of_a_node_that_died_with_all_who_could_have_told(tmp_path: Path) -> None:
    before = restart.left(run(tmp_path))
    assert before
    found = restart.waterfall(before, PHASES, worker_unix=1110.0, resumed=60, requeued_unix=1100.0)
    assert (found["detect"], found["reschedule"], found["again"]) == pytest.approx((40.0, 6.0, 0))


def test_an_end_that_is_older_than_the_last_step_is_of_an_earlier_start(tmp_path: Path) -> None:
    before = restart.left(run(tmp_path, ended_unix=1010.0))
    assert before
    found = restart.waterfall(before, PHASES, worker_unix=1070.0, resumed=50, requeued_unix=None)
    assert found["detect"] is None
    assert found["reschedule"] == pytest.approx(6.0)


@given(st.floats(0, 50), st.floats(0, 50), st.integers(0, 60))
def test_it_adds_up(detect: float, reschedule: float, resumed: int) -> None:
    before = restart.Left(60, 1060.0, 1060.0 + detect, "")
    worker = 1060.0 + detect + reschedule + PHASES["start"] + PHASES["agent"]
    found = restart.waterfall(before, PHASES, worker, resumed, None)
    rest = sum(PHASES[name] for name in ("import", "rendezvous", "data", "model"))
    assert restart.total(found) == pytest.approx(worker - 1060.0 + rest, abs=0.01)


def test_catching_up_is_noted_in_the_last_line_only(tmp_path: Path) -> None:
    path = tmp_path / "attempts.jsonl"
    found = restart.waterfall(restart.Left(60, 1060.0, 1061.0, ""), PHASES, 1070.0, 50, None)
    path.write_text(json.dumps({"attempt": 0}) + "\n" + json.dumps({"attempt": 1, "waterfall": found}) + "\n")
    assert restart.caught_up(path, 2.5).startswith("caught up: 10 steps done again; 15.3 s lost")
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first == {"attempt": 0}
    assert second["waterfall"]["catch_up"] == 2.5
