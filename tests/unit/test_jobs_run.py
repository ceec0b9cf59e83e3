"""What surrounds the training, without torch: run folders, phases, signals."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from infra.base.paths import CHECKOUT
from jobs import torchrun
from jobs.cli.errors import Failure, Mistake
from jobs.cluster import kubernetes, slurm
from jobs.resilience import again, signals
from jobs.telemetry import claim, phases
from jobs.telemetry import folder as runfolder
from jobs.telemetry.exporter import Exporter
from jobs.telemetry.watch import Watch
from tests.madeup import answer
from tests.unit.test_jobs_sbatch import script


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, outside Slurm and torchrun."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_", "SLIPWAY_", "KUBERNETES_", "PET_")):
            monkeypatch.delenv(name)
    return tmp_path


def test_a_named_folder_is_gone_on_with(elsewhere: Path) -> None:
    (claim.choose("runs/mine") / "kept").touch()
    assert (claim.choose("runs/mine") / "kept").exists()


def test_in_a_pod_a_run_is_gone_on_with_until_it_is_completed(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    folder = claim.choose("runs/ddp")
    (folder / "attempts.jsonl").write_text("{}\n{}\n")
    for summary in ('{"state": "interrupted"}', '{"sta', None):
        if summary:
            (folder / "summary.json").write_text(summary)
        else:
            (folder / "summary.json").unlink()
        assert claim.starts(claim.choose("runs/ddp")) == 2
    (folder / "summary.json").write_text('{"state": "completed"}')
    assert claim.starts(claim.choose("runs/ddp")) == 0
    assert len(list(Path("runs").glob("ddp-until-*/attempts.jsonl"))) == 1


def test_elsewhere_a_completed_run_is_not_moved(elsewhere: Path) -> None:
    (claim.choose("runs/mine") / "summary.json").write_text('{"state": "completed"}')
    assert (claim.choose("runs/mine") / "summary.json").exists()


@pytest.mark.parametrize(
    ("code", "in_a_pod"), [(0, 0), (1, 143), (2, 2), (77, 143), (128 + signal.SIGTERM, 143), (137, 143)]
)
def test_a_pod_ends_so_as_to_be_started_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, code: int, in_a_pod: int
) -> None:
    assert kubernetes.exit_code(code) == code
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert kubernetes.exit_code(code) == in_a_pod


def test_the_image_is_kept_and_what_the_operator_says(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_IMAGE", "slipway.local/job:base")
    monkeypatch.setenv("PET_NNODES", "2")
    monkeypatch.setenv("PET_RDZV_TOKEN", "t")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    found = runfolder.environment([], "cpu", 1, {})
    assert found["image"] == "slipway.local/job:base"
    assert found["launcher"] == {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "PET_NNODES": "2"} | {
        name: value for name, value in found["launcher"].items() if not name.startswith(("PET_", "KUBE"))
    }


def test_prometheus_reads_the_last_step(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Exporter("ddp").port is None  # nobody asked
    monkeypatch.setenv("SLIPWAY_METRICS_PORT", "0")  # any free one
    exporter = Exporter("ddp")
    exporter.show({"step": 7, "loss": 2.5})
    with urllib.request.urlopen(f"http://127.0.0.1:{exporter.port}/metrics", timeout=5) as answer:
        assert answer.read().decode().splitlines() == [
            "# TYPE slipway_train_step gauge",
            'slipway_train_step{run="ddp"} 7',
            "# TYPE slipway_train_loss gauge",
            'slipway_train_loss{run="ddp"} 2.5',
        ]


FIGURES = {"step": 7, "mfu": None, "loss": math.nan, "goodput": math.inf, "joules": -math.inf, "data_s": 1e-7}


@given(
    run=st.text(max_size=20),
    reason=st.sampled_from(["", "the loss is not finite on rank 1 alone"]),
    loss=st.floats(),
)
def test_prometheus_own_parser_reads_the_page_whatever_a_step_was(run: str, reason: str, loss: float) -> None:
    page = Exporter(run)
    told = Watch.__new__(Watch)
    told.told = [page]
    told.tell({**FIGURES, "loss": loss, **({"skipped": reason} if reason else {})})
    found = {
        sample.name.removeprefix("slipway_train_"): sample
        for family in text_string_to_metric_families(page.text())
        for sample in family.samples
    }
    assert set(found) == {"step", "loss", "goodput", "joules", "data_s", "skipped"}
    assert {sample.labels["run"] for sample in found.values()} == {run}
    assert found["skipped"].value == bool(reason)
    assert found["loss"].value == pytest.approx(loss, nan_ok=True, rel=0)
    assert (found["goodput"].value, found["joules"].value) == (math.inf, -math.inf)


def test_a_taken_port_stops_no_training(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_METRICS_PORT", "0")
    port = Exporter("first").port
    monkeypatch.setenv("SLIPWAY_METRICS_PORT", str(port))
    assert Exporter("second").port is None
    assert f"no metrics on port {port}" in capsys.readouterr().out


def test_latest_points_to_the_newest_run(elsewhere: Path) -> None:
    for name in ("a", "b"):
        claim.link_latest(claim.choose(f"runs/{name}"))
    assert Path("runs/latest").readlink() == Path("b")


def test_the_environment_is_kept_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NNODES", "2")
    secrets = [
        "SLURM_JWT",
        "SLURM_SOME_TOKEN",
        "SLURM_SPANK_PASSPHRASE",
        "PET_RDZV_TOKEN",
        "WANDB_API_KEY",
        "HF_TOKEN",
    ]
    for name in secrets:
        monkeypatch.setenv(name, f"secret-of-{name}")
    found = runfolder.environment([], "cpu", 1, {})
    assert found["launcher"]["SLURM_NNODES"] == "2"
    assert "secret-of" not in json.dumps(found)


def checkout(folder: Path) -> None:
    """A git repository with one commit, a change to a tracked file, and an untracked one."""
    (folder / "jobs").mkdir()
    (folder / "jobs/train.py").write_text("steps = 1\n")
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    (folder / "jobs/train.py").write_text("steps = 2\n")
    (folder / "jobs/.env").write_text("API_KEY=hidden\n")


def test_changes_of_tracked_files_are_kept_and_no_others(elsewhere: Path) -> None:
    checkout(elsewhere)
    path = elsewhere / "code.diff"
    facts = runfolder.keep_diff(path)
    assert facts == {
        "bytes": len(path.read_bytes()),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "kept": True,
    }
    assert "+steps = 2" in path.read_text()
    assert "hidden" not in path.read_text()
    git = runfolder.git()
    assert git
    assert (len(git["commit"]), git["dirty"], git["untracked"]) == (40, True, ["jobs/.env"])
    subprocess.run(["git", "apply", "-R", "code.diff"], check=True)
    assert (runfolder.keep_diff(path), path.exists()) == (None, False)


def test_a_diff_that_is_too_long_is_named_and_not_kept(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout(elsewhere)
    monkeypatch.setattr(runfolder, "DIFF_BYTES", 10)
    facts = runfolder.keep_diff(elsewhere / "code.diff")
    assert facts
    assert (facts["kept"], len(facts["sha256"]), (elsewhere / "code.diff").exists()) == (False, 64, False)


def test_code_has_another_hash_when_a_file_changes_moves_or_comes(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    hashes = [runfolder.code(tmp_path)]
    (tmp_path / "a.py").write_text("2")
    hashes.append(runfolder.code(tmp_path))
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    hashes.append(runfolder.code(tmp_path))
    (tmp_path / "c.py").touch()
    hashes.append(runfolder.code(tmp_path))
    (tmp_path / "notes.txt").touch()
    assert len(set(hashes)) == 4
    assert runfolder.code(tmp_path) == hashes[-1]


def test_phases_before_the_worker_come_from_slurm_and_torchrun(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(elsewhere / "bin/scontrol", f"[[ $4 == 7 ]] && echo '{answer(submit_time=100, start_time=105)}'")
    monkeypatch.setenv("PATH", f"{elsewhere / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    started = slurm.times()["StartTime"]
    monkeypatch.setenv("SLIPWAY_AGENT_UNIX", repr(started + 0.5))
    assert phases.before_worker(started + 3) == {"queue": 5.0, "start": 0.5, "agent": 2.5}


@pytest.mark.parametrize(
    ("state", "wanted"), [("RUNNING", True), ("CANCELLED", False), ("COMPLETING", False)]
)
def test_a_cancelled_job_is_not_started_again(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, state: str, wanted: bool
) -> None:
    script(elsewhere / "bin/scontrol", f"echo '{answer(job_state=[state])}'")
    monkeypatch.setenv("PATH", f"{elsewhere / 'bin'}:{os.environ['PATH']}")
    assert not slurm.running(slurm.job())  # no job at all
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert slurm.running(slurm.job()) == wanted


@pytest.mark.parametrize(
    ("job", "version", "says"),
    [
        (
            {"job_state": ["CANCELLED"]},
            "24.11.5",
            "to go on: start the same command with --run.folder=runs/7",
        ),
        ({"job_state": ["RUNNING", "COMPLETING"], "restart_cnt": 1}, "24.11.5", "requeued by somebody else"),
        ({}, "24.11.5", "requeued"),
        ({"preempt_time": 1767323045}, "24.11.5", "preempted: Slurm starts it again"),
        ({"preempt_time": 1767323045}, "25.05.0", "preempted: Slurm starts it again"),
        ({"preempt_time": 1767323045}, "22.05.8", "requeued"),
        ({"job_state": ["CANCELLED"], "preempt_time": 1767323045}, "24.11.5", "to go on: "),
    ],
)
def test_an_interrupted_run_says_who_starts_it_again(
    elsewhere: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    job: dict[str, Any],
    version: str,
    says: str,
) -> None:
    """A job that a person has requeued is COMPLETING and counts one start more than it was told."""
    asked = elsewhere / "asked"
    script(
        elsewhere / "bin/scontrol",
        f"""case $1 in
          requeue) touch {asked} ;;
          --version) echo slurm-wlm {version} ;;
          *) echo '{answer(**job)}' ;;
        esac""",
    )
    monkeypatch.setenv("PATH", f"{elsewhere / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    again.ask(Path("runs/7"))
    assert capsys.readouterr().out.startswith(says)
    assert asked.exists() == (says == "requeued")


@pytest.mark.parametrize(
    ("environment", "refused"),
    [
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, False),  # in a batch script, without srun
        ({"SLURM_STEP_NUM_TASKS": "2", "RANK": "1"}, False),  # torchrun or submitit
    ],
)
def test_tasks_that_nobody_told_their_rank_are_refused_in_a_line(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], refused: bool
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    if not refused:
        slurm.refuse_tasks()
        return
    with pytest.raises(Mistake, match="started 2 tasks, and no torchrun says which rank each is") as caught:
        slurm.refuse_tasks()
    assert "\n" not in str(caught.value)


def test_a_requeue_that_slurm_refuses_is_told(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script(elsewhere / "bin/scontrol", 'echo "Job not requeueable" >&2; exit 1')
    monkeypatch.setenv("PATH", f"{elsewhere / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(Failure, match="scontrol requeue 7 failed: Job not requeueable"):
        slurm.requeue()


def test_a_task_of_an_array_asks_for_itself_and_not_for_the_array(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As Slurm 24.11 has it: task 2's own number is the array's, and scontrol shows both tasks for any of them."""
    words = "run [/data] x JobState=FAILED |b"
    first, second = (
        answer(job_id, name=words, comment=words, job_state=[state], array_job_id=9, array_task_id=task)
        for job_id, state, task in ((10, "COMPLETED", 1), (9, "RUNNING", 2))
    )
    both = {"jobs": json.loads(first)["jobs"] + json.loads(second)["jobs"]}
    asked = elsewhere / "asked"
    script(
        elsewhere / "bin/scontrol",
        f"""case $1 in requeue) echo "$2" >>{asked} ;; *) cat <<'END'
{json.dumps(both)}
END
        esac""",
    )
    monkeypatch.setenv("PATH", f"{elsewhere / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "9")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "2")
    again.ask(Path("runs/9_2"))
    assert (capsys.readouterr().out, asked.read_text()) == ("requeued\n", "9_2\n")
    monkeypatch.setenv("SLURM_JOB_ID", "10")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    again.ask(Path("runs/9_1"))
    assert capsys.readouterr().out.startswith("to go on: ")
    assert asked.read_text() == "9_2\n"


def test_an_answer_that_is_no_json_is_a_failure_and_not_a_job_outside_slurm(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(elsewhere / "bin/scontrol", "echo JobId=7 JobState=RUNNING")
    monkeypatch.setenv("PATH", f"{elsewhere / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(Failure, match=r"scontrol show job --json 7: not what Slurm from 23\.02 on answers"):
        slurm.job()
    assert slurm.times() == {}


def test_phases_outside_slurm_leave_out_what_is_unknown(elsewhere: Path) -> None:
    assert phases.before_worker(time.time()) == {}


def test_phases_add_up_to_the_wall_clock() -> None:
    began = time.time()
    marks = phases.Phases(began)
    for name in ("import", "data", "data"):
        time.sleep(0.01)
        marks.mark(name)
    assert list(marks.seconds) == ["import", "data"]
    assert sum(marks.seconds.values()) == pytest.approx(time.time() - began, abs=0.01)


def test_a_blocked_warning_waits_for_the_handler_and_forked_helpers_ignore_it() -> None:
    """In a process of its own: signal handlers and what forks inherit are the process's."""
    program = """
import os, signal, time
from jobs.resilience import signals
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
os.kill(os.getpid(), signal.SIGUSR2)
warnings = signals.Warnings()
assert not warnings.got
warnings.listen()
assert warnings.got == {signals.REQUEUE}
helper = os.fork()
if not helper:
    os.kill(os.getpid(), signal.SIGUSR2)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(helper, 0)[1]) == 7
"""
    subprocess.run([sys.executable, "-c", program], cwd=CHECKOUT, check=True)
    assert (signals.REQUEUE, signals.STOP) == (signal.SIGUSR2, signal.SIGTERM)


def test_children_are_found_whatever_their_name(tmp_path: Path) -> None:
    script(tmp_path / "odd) name (1", "read")
    child = subprocess.Popen([tmp_path / "odd) name (1"], stdin=subprocess.PIPE)
    try:
        assert child.pid in torchrun.children(os.getpid())
        assert child.pid not in torchrun.children(1)
    finally:
        child.kill()
        child.communicate()
