"""What differs between two runs is named; losses are compared to the last bit. Without torch."""

import json
from pathlib import Path

import pytest

from jobs import __main__ as verbs
from jobs.tools import replay
from jobs.tools.record import Record, find
from tests import madeup


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return madeup.interrupted_once(tmp_path / "runs/17")


def losses(*values: float) -> list[dict[str, float]]:
    return [{"step": step, "loss": value} for step, value in enumerate(values, 1)]


def test_the_last_bit_counts() -> None:
    same = replay.compare(losses(2.5, 1.1), losses(2.5, 1.1))
    assert (same.first, same.line()) == (
        None,
        "identical: the losses of 2 steps are the same to the last bit",
    )
    other = replay.compare(losses(2.5, 1.1, 4.0), losses(2.5, 1.1000000000000003, 5.0))
    assert (other.first, other.before, other.after) == (2, 1.1, 1.1000000000000003)
    assert other.largest == pytest.approx(0.25)


def test_a_loss_that_is_no_number_is_the_same_as_itself_only() -> None:
    nan = float("nan")
    assert replay.compare(losses(nan), losses(nan)).first is None
    assert replay.compare(losses(nan), losses(1.0)).first == 1


def test_only_steps_that_both_have_are_compared() -> None:
    assert replay.compare(losses(1, 2, 3), losses(1, 2)).steps == 2
    assert replay.compare(losses(1), []).line() == "no step to compare"


def test_inputs_are_what_the_losses_depend_on(run: Path) -> None:
    found = replay.inputs(Record(run))
    assert {"lock", "code", "data", "ranks", "torch", "processor", "$OMP_NUM_THREADS", "train.seed"} <= set(
        found
    )
    assert {"run.folder", "data.folder", "image"}.isdisjoint(found)  # of no effect, or not recorded


def test_a_change_is_named_and_a_build_s_suffix_is_none() -> None:
    then = {"torch": "2.14.1+cu130", "code": "a" * 64, "train.seed": "1", "python": "3.13.5"}
    assert replay.changed(then, then | {"torch": "2.14.1"}) == []
    lines = replay.changed(then, then | {"torch": "2.15.0", "code": "b" * 64, "train.seed": "2"})
    assert lines == [
        "torch        2.14.1+cu130 -> 2.15.0",
        "code         aaaaaaaaaaaa -> bbbbbbbbbbbb",
        "train.seed   1 -> 2",
    ]


def test_a_run_of_several_nodes_says_what_to_type(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environment = json.loads((run / "environment.json").read_text())
    environment["launcher"]["SLURM_GPUS_ON_NODE"] = "8"
    (run / "environment.json").write_text(json.dumps(environment))
    assert verbs.main(["replay", "17"]) == 2
    shown = capsys.readouterr().out
    options = "--config=runs/17/config.yaml --run.folder=runs/17-replay"
    assert f"sbatch --nodes=2 --gres=gpu:8 jobs/ddp.sbatch {options}" in shown
    assert "python -m jobs replay 17 --against=runs/17-replay" in shown


def test_runs_that_are_there_are_compared(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = madeup.interrupted_once(tmp_path / "runs/18", python="3.14.0")
    assert verbs.main(["replay", "17", "--against=18"]) == 0
    shown = capsys.readouterr().out
    assert "changed  python       3.13.5 -> 3.14.0" in shown
    assert "17 and 18: identical: the losses of 10 steps" in shown
    lines = find("18").lines
    lines[6]["loss"] += 1e-12
    madeup.write(other / "metrics.jsonl", lines)
    assert verbs.main(["replay", "17", "--against=18"]) == 1
    assert "differs from step 7 on" in capsys.readouterr().out


def test_a_run_without_a_step_cannot_be_compared(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "metrics.jsonl").unlink()
    assert verbs.main(["replay", "17"]) == 2
    assert "it came to no training step" in capsys.readouterr().err


def test_a_fresh_folder_is_found_for_each_replay(run: Path) -> None:
    first = replay._fresh(Record(run))
    first.mkdir()
    assert (first.name, replay._fresh(Record(run)).name) == ("17-replay", "17-replay-2")


def test_the_program_is_started_again_by_its_module(run: Path, tmp_path: Path) -> None:
    words = replay.command(find("17"), tmp_path / "runs/17-replay", 2, ["--train.seed=2"])
    assert words[1:7] == ["-m", "jobs.torchrun", "--standalone", "--nproc-per-node=2", "-m", "jobs.train"]
    assert words[-2:] == [f"--run.folder={tmp_path}/runs/17-replay", f"--data.folder={tmp_path}/runs/data"]
    assert "--train.seed=2" in words
