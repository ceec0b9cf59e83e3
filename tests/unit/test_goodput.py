"""Goodput: what share of a run's time became steps that were kept, over every start of it."""

import json
from pathlib import Path

import pytest

from jobs.telemetry import goodput, metrics
from tests import madeup


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return madeup.interrupted_once(tmp_path / "17")


def test_lost_steps_waiting_and_starting_are_no_goodput(run: Path) -> None:
    account = goodput.read(run)
    assert account.wall_s == pytest.approx(72)
    assert account.kept_s == pytest.approx(20)  # ten steps of 2 s
    assert account.goodput == pytest.approx(20 / 72)
    assert [(each.kept, each.lost) for each in account.attempts] == [(4, 2), (6, 0)]
    assert account.state == "completed"


def test_energy_and_price_are_kept_over_restarts(run: Path) -> None:
    account = goodput.read(run)
    assert account.joules == 600 + 700  # the lost steps' too, and the validation's, which no step has
    assert account.energy == "estimated"
    assert [each.held_s for each in account.attempts] == [20, 26]  # from 10 to 30 s and from 46 to 72 s
    assert account.usd == pytest.approx(46 / 3600 * 3.60)
    assert account.cpu_hours == pytest.approx(4 * 46 / 3600)


def test_what_one_start_does_not_know_the_run_does_not_know(run: Path) -> None:
    lines = [json.loads(text) for text in (run / "attempts.jsonl").read_text().splitlines()]
    del lines[0]["usd_per_hour"]
    madeup.write(run / "attempts.jsonl", lines)
    for name in ("metrics.jsonl", "discarded.jsonl"):
        madeup.write(run / name, [line | {"joules": None} for line in metrics.read(run / name)])
    account = goodput.read(run)
    assert (account.usd, account.joules) == (None, None)


def test_a_crash_while_lost_steps_are_moved_counts_them_once(run: Path) -> None:
    lost = (run / "discarded.jsonl").read_text()
    (run / "discarded.jsonl").write_text(lost + lost)
    assert goodput.read(run).attempts[0].lost == 2


def test_a_run_without_an_end_runs_or_died(run: Path) -> None:
    (run / "ends.jsonl").unlink()
    (run / "summary.json").unlink()
    last = madeup.BEGAN + 70
    assert goodput.read(run, now=last + 5).state == "running"
    assert goodput.read(run, now=last + goodput.QUIET_S + 1).state == "died"


def test_an_older_summary_is_not_taken_for_this_start_s(run: Path) -> None:
    (run / "ends.jsonl").unlink()
    (run / "summary.json").write_text('{"state": "interrupted", "step": 4}')
    assert goodput.read(run, now=madeup.BEGAN + 75).state == "running"
    (run / "summary.json").write_text('{"state": "completed", "step": 10}')
    assert goodput.read(run, now=madeup.BEGAN + 75).state == "completed"


def test_a_run_that_came_to_no_step_has_no_goodput(tmp_path: Path) -> None:
    account = goodput.read(tmp_path)
    assert (account.goodput, account.joules, account.usd, account.state) == (None, None, None, "died")


def test_a_launcher_that_was_there_before_does_not_count_twice(run: Path) -> None:
    """torchrun starts workers again: its own beginning is before the first start's end."""
    lines = [json.loads(text) for text in (run / "attempts.jsonl").read_text().splitlines()]
    lines[1]["phases"]["agent"] = 55.0
    madeup.write(run / "attempts.jsonl", lines)
    assert goodput.read(run).attempts[1].began == madeup.BEGAN + 30


def test_steps_after_the_checkpoint_are_moved_and_not_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    madeup.write(path, [madeup.line(step, 2.0 * step) for step in range(1, 6)])
    with path.open("a") as file:
        file.write('{"step": 6, "lo')  # cut off
    metrics.Metrics(path, 3)
    assert [line["step"] for line in metrics.read(path)] == [1, 2, 3]
    assert [line["step"] for line in metrics.read(tmp_path / "discarded.jsonl")] == [4, 5]


def test_while_it_runs_goodput_goes_on_from_earlier_starts(run: Path) -> None:
    (run / "ends.jsonl").unlink()  # it died
    live = goodput.Live(run, began=madeup.BEGAN + 1000)
    assert live.step(8.0, now=madeup.BEGAN + 1280) == pytest.approx((20 + 8) / 1280)


def test_the_time_between_a_completed_run_and_more_steps_of_it_is_not_lost(run: Path) -> None:
    """It was completed after 72 s; a day later somebody wanted more steps."""
    before = goodput.read(run)
    live = goodput.Live(run, began=madeup.BEGAN + 72 + 86400)
    assert live.step(8.0, now=madeup.BEGAN + 86400 + 280) == pytest.approx((20 + 8) / 280)
    last = before.attempts[-1]
    first_step = madeup.BEGAN + 72 + 86400 + 10
    line = {"attempt": 2, "first_step_unix": first_step, "resumed_from": last.resumed_from, "world_size": 2}
    with (run / "attempts.jsonl").open("a") as file:
        file.write(json.dumps({**line, "phases": {"import": 10.0}}) + "\n")
    after = goodput.read(run)
    assert after.restarts == before.restarts
    assert after.wall_s == pytest.approx(before.wall_s + 10)


def test_the_first_start_learns_that_it_had_been_queued(tmp_path: Path) -> None:
    live = goodput.Live(tmp_path, began=100.0)
    assert live.step(5.0, now=110.0) == pytest.approx(5 / 10)
    live.submitted({"first_step_unix": 110.0, "phases": {"queue": 40.0, "import": 10.0}})
    assert live.step(5.0, now=120.0) == pytest.approx(10 / 60)
