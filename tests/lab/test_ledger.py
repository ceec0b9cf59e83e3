"""What a job cost, on a real cluster: joined with Slurm's accounting, kept over a requeue, and run again."""

import json
from typing import Any

from infra.proof import run as job
from jobs.cluster import accounting
from tests.lab.conftest import Lab
from tests.training import STEPS

TESTED = {"real": ["place lab", "Slurm with accounting", "training on two nodes"]}

PYTHON = ".venv/bin/python"


def ledger(lab: Lab, run: str) -> dict[str, Any]:
    answer = json.loads(lab.ok(f"{PYTHON} -m jobs ledger --json {run}"))
    assert answer["accounting"] is None, answer["accounting"]
    (row,) = answer["runs"]
    return dict(row)


def test_a_job_s_line_has_slurm_s_figures_and_ours(lab: Lab, undisturbed: job.Run) -> None:
    run = undisturbed
    row = ledger(lab, run.id)
    assert (row["job"], row["name"], row["user"], row["state"]) == (run.id, "ddp", lab.user, "COMPLETED")
    assert (row["nodes"], row["ranks"], row["steps"], row["restarts"]) == (2, 2, STEPS, 0)
    assert 0 < row["goodput"] < 1
    assert row["cpu_hours"] > 0
    assert row["gpu_hours"] == 0  # they are simulated, and what is simulated is not billed
    assert row["energy"] in ("estimated", "rapl", "slurm")
    assert row["joules"] > 0
    assert row["usd"] > 0
    lines = lab.ok(f"{PYTHON} -m jobs ledger {run.id}").splitlines()
    assert lines[0].split()[:4] == ["run", "name", "nodes", "state"]
    assert lines[1].split()[:4] == [run.id, "ddp", "2", "COMPLETED"]


def test_sacct_writes_what_we_read(lab: Lab, undisturbed: job.Run) -> None:
    """tests/unit/sacct-24.11.json was written after Slurm's documentation; this is Slurm."""
    answer = json.loads(lab.ok(f"sacct --json --duplicates --jobs={undisturbed.id}"))
    assert "data_parser/v0.0." in answer["meta"]["plugin"]["data_parser"]
    (held,) = answer["jobs"]
    assert {"submission", "start", "end", "elapsed"} <= set(held["time"])
    assert held["state"]["current"] == ["COMPLETED"]
    assert {each["type"] for each in held["tres"]["allocated"]} >= {"cpu", "node", "gres"}
    assert all({"type", "name", "count"} <= set(each) for each in held["tres"]["allocated"])
    assert "consumed" in held["steps"][0]["statistics"]["energy"]
    (start,) = accounting.parse(answer)
    assert (start.nodes, start.cpus, start.gpus) == (2, 2, 2)


def test_energy_and_time_are_kept_when_slurm_starts_a_job_again(lab: Lab, warned: job.Run) -> None:
    run = warned
    row = ledger(lab, run.id)
    assert (row["steps"], row["restarts"], row["state"]) == (STEPS, 1, "COMPLETED")
    assert row["joules"] > 0
    attempts = [json.loads(line) for line in (run.folder / "attempts.jsonl").read_text().splitlines()]
    assert len(attempts) == 2
    held = json.loads(lab.ok(f"sacct --json --duplicates --jobs={run.id}"))["jobs"]
    assert row["cpu_hours"] * 3600 == sum(2 * start["time"]["elapsed"] for start in held)


def test_a_run_of_two_nodes_is_run_again_on_one_with_the_same_losses(lab: Lab) -> None:
    run = lab.finish(lab.submit("jobs/ddp.sbatch", "--train.steps=10"))
    python = "srun --nodes=1 --mem=3G /opt/stack/current/bin/python"
    assert "nothing that was recorded has changed" in lab.ok(f"{python} -m jobs replay {run.id} --dry-run")
    elsewhere = lab.sh(f"{python} -m jobs replay {run.id}")
    assert elsewhere.returncode == 2
    assert "sbatch --nodes=2 --gres=gpu:1 jobs/ddp.sbatch" in elsewhere.stdout
    assert "identical: the losses of 10 steps" in lab.ok(f"{python} -m jobs replay {run.id} --here")
