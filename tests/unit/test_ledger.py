"""`python -m jobs ledger`: what runs cost, from their folders and from Slurm's accounting; and quick verbs.

sacct-24.11.json has the shape that Slurm 24.11 documents (data_parser v0.0.42); tests/lab/test_ledger.py compares it
with what a real sacct prints.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from jobs import __main__ as verbs
from jobs.cli.errors import Mistake
from jobs.cluster import accounting
from jobs.tools import ledger
from jobs.tools.record import Record, find
from tests import madeup
from tests.unit.test_jobs_sbatch import script

RECORDED = Path(__file__).with_name("sacct-24.11.json")
STARTS = accounting.parse(json.loads(RECORDED.read_text()))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of Slurm job 17 in runs/17, on a machine without Slurm."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/latest").symlink_to("17")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return madeup.interrupted_once(tmp_path / "runs/17")


def sacct(folder: Path, answer: str) -> None:
    """A sacct that prints an answer, and writes down what it was asked."""
    script(folder / "bin/sacct", f'echo "$@" > {folder}/asked; {answer}')
    (folder / "bin/cat").symlink_to("/bin/cat")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert verbs.main(["ledger", "--json", *arguments]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def test_without_slurm_a_run_s_own_record_is_enough(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = printed(capsys)
    assert answer["accounting"] is None
    (row,) = answer["runs"]
    assert row["usd"] == pytest.approx(3.60 * 46 / 3600)
    tokens = 10 * 32 * 128
    assert (row["tokens"], row["usd_per_million_tokens"]) == (tokens, row["usd"] / tokens * 1e6)
    assert (row["joules"], row["energy"], row["cpu_hours"]) == (1300, "estimated", 4 * 46 / 3600)
    assert (row["state"], row["steps"], row["lost_steps"], row["restarts"]) == ("completed", 10, 2, 1)
    assert row["goodput"] == pytest.approx(20 / 72)


def test_the_table_is_read_at_a_glance(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verbs.main(["ledger"]) == 0
    head, line, note = capsys.readouterr().out.splitlines()
    assert head.split() == [*" ".join(ledger.COLUMNS).split(), "per", "1M", "tokens"]
    shown = "17 ddp 2 completed 10/10 1 0:01:12 28 % 0.05 - 0.36 Wh estimated 0.05 $ 1.12 $"
    assert line.split() == shown.split()
    assert note.startswith("estimated: no power counter")


def test_slurm_s_accounting_knows_what_was_held_and_how_it_ended(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sacct(run.parents[1], f"cat {RECORDED}")
    (row,) = printed(capsys)["runs"]
    assert (run.parents[1] / "asked").read_text() == "--json --duplicates --jobs=17\n"
    assert (row["state"], row["user"], row["account"], row["nodes"]) == ("COMPLETED", "ml", "research", 2)
    assert row["cpu_hours"] == pytest.approx(2 * (22 + 30) / 3600)
    assert row["usd"] == pytest.approx(3.60 * (22 + 30) / 3600)
    assert row["gpu_hours"] == 0  # they are simulated


def test_real_gpus_are_counted_once(run: Path) -> None:
    (run / "summary.json").write_text("{}")
    row = ledger.row(Record(run), STARTS)
    assert row.gpu_hours == pytest.approx(2 * (22 + 30) / 3600)  # not again as gpu:h100


def test_another_cluster_s_job_of_that_number_is_not_joined(run: Path) -> None:
    later = [replace(start, start=start.start + 86400, end=start.end + 86400) for start in STARTS]
    row = ledger.row(Record(run), later)
    assert (row.state, row.user) == ("completed", None)
    assert not STARTS[0].overlaps(madeup.BEGAN - 7200, madeup.BEGAN - 3600)
    assert replace(STARTS[0], end=0.0).overlaps(madeup.BEGAN + 7200, madeup.BEGAN + 7300)  # it still runs


def test_slurm_s_counters_are_better_than_an_estimate(run: Path) -> None:
    measured = [replace(start, joules=500.0) for start in STARTS]
    row = ledger.row(Record(run), measured)
    assert (row.joules, row.energy) == (1000.0, "slurm")
    row = ledger.row(Record(run), [measured[0], STARTS[1]])  # one start without: not the whole job
    assert (row.joules, row.energy) == (1300.0, "estimated")


def test_energy_that_slurm_has_not_is_not_zero() -> None:
    answer = json.loads(RECORDED.read_text())
    energy = answer["jobs"][1]["steps"][0]["statistics"]["energy"]
    assert accounting.parse(answer)[1].joules is None
    energy["consumed"] = {"set": True, "infinite": False, "number": 4500}
    assert accounting.parse(answer)[1].joules == 4500


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('echo "sacct: error: Connection refused" >&2; exit 1', "sacct: error: Connection refused"),
        ("echo oops", "its output is not JSON"),
    ],
)
def test_trouble_with_the_accounting_is_told_and_costs_nothing_else(
    run: Path, capsys: pytest.CaptureFixture[str], answer: str, says: str
) -> None:
    sacct(run.parents[1], answer)
    found = printed(capsys)
    assert says in found["accounting"]
    assert found["runs"][0]["state"] == "completed"
    assert verbs.main(["ledger"]) == 0
    assert "without Slurm's accounting: sacct" in capsys.readouterr().err


def test_runs_are_chosen_by_name_and_by_time(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    madeup.interrupted_once(tmp_path / "runs/18", launcher={})
    (tmp_path / "runs/empty").mkdir()
    (tmp_path / "runs/empty/config.yaml").write_text(madeup.CONFIG)  # it came to no step
    assert {row["run"] for row in printed(capsys)["runs"]} == {"17", "18"}
    assert [row["run"] for row in printed(capsys, "runs/18")["runs"]] == ["18"]
    assert printed(capsys, "--since=yesterday")["runs"] == []
    assert len(printed(capsys, "--since=2023-11-14")["runs"]) == 2


def test_times_that_people_write() -> None:
    now = 1_700_000_000.0
    assert ledger.since("12h", now) == now - 12 * 3600
    assert ledger.since("7d", now) == now - 7 * 86400
    assert 0 <= now - ledger.since("today", now) < 86400 + 3600
    assert 86400 - 3600 <= ledger.since("today", now) - ledger.since("yesterday", now) <= 86400 + 3600
    with pytest.raises(Mistake, match="'soon' is no time"):
        ledger.since("soon", now)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--since=soon"], "--since: 'soon' is no time"), (["99"], "runs/99: not a run: no such folder")],
)
def test_a_mistake_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert verbs.main(["ledger", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line


def test_a_record_reads_what_a_program_wrote(run: Path) -> None:
    from jobs import config

    (run / "config.yaml").write_text(config.to_yaml(config.load(["--train.seed=7", "--run.folder=a b"])))
    found = find("17")
    assert (found.config["train.seed"], found.config["run.folder"]) == ("7", "a b")
    assert {name for name in found.config if "." in name} == set(config.OPTIONS)


HEAVY = ("torch", "numpy", "yaml", "tensorboard", "pynvml")


@pytest.mark.parametrize(
    "verb", [["--help"], ["preflight", "--help"], ["ledger", "--help"], ["ledger"], ["report"]]
)
def test_verbs_start_without_heavy_imports(run: Path, verb: list[str]) -> None:
    """What is imported decides how long it takes; the time itself is this machine's, and its load's."""
    program = f"""
import sys
from jobs.__main__ import main
try:
    code = main({verb!r})
except SystemExit as end:
    code = end.code
found = sorted(set({HEAVY!r}) & set(sys.modules))
sys.exit(f"imports {{found}}" if found else code)
"""
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=run.parents[1], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
