"""Run folders as a training leaves them, written by hand: tests of what reads them need no training."""

import json
from pathlib import Path
from typing import Any

BEGAN = 1_700_000_000.0
CONFIG = """model:
  layers: 4
  heads: 4
  width: 128
  context: 128
data:
  folder: runs/data
  shard_bytes: 4194304
  validation: 0.1
train:
  steps: 10
  batch: 32
  learning_rate: 0.01
  seed: 1
run:
  folder: ''
"""
ENVIRONMENT: dict[str, Any] = {
    "command": ["/checkout/jobs/train.py", "--config", "jobs/ddp.yaml"],
    "seed": 1,
    "stack": "cuda13-0123456789ab",
    "image": None,
    "git": {"commit": "c" * 40, "dirty": False, "untracked": []},
    "code": "a" * 64,
    "python": "3.13.5",
    "torch": "2.14.1+cu130",
    "data": "stdlib-0123456789ab",
    "device": "cpu",
    "cpu": "A CPU",
    "cpu_vectors": "avx2",
    "hosts": ["n1: A CPU, 2 cores, 8 GiB, Linux 6", "n2: A CPU, 2 cores, 8 GiB, Linux 6"],
    "world_size": 2,
    "launcher": {"SLURM_JOB_ID": "17", "SLURM_JOB_NAME": "ddp", "SLURM_NNODES": "2"},
    "numeric": {"OMP_NUM_THREADS": "1"},
}


def line(step: int, unix: float, joules: float | None = None, **more: Any) -> dict[str, Any]:
    """A step of two seconds that ended at `unix` seconds after BEGAN."""
    return {
        "step": step,
        "loss": 5.5 / step**0.5,
        "time": BEGAN + unix,
        "tokens_per_s": 2048.0,
        "step_s": 2.0,
        "data_s": 0.1,
        "memory_mib": 300.0,
        "joules": joules,
        **more,
    }


def interrupted_once(folder: Path, config: str = CONFIG, **environment: Any) -> Path:
    """Ten steps in two starts: one waits 10 s and dies after step 6 with a checkpoint of step 4; one completes.

    Submitted at 0; phases of 10 (queue) and 8 s; steps 1-6 from 20 to 30 s; the job is queued again at 40 s for
    6 s; steps 5-10 from 60 to 70 s; the end, after a validation, at 72 s. 50 W on average and 3.60 $/h.
    """
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config)
    (folder / "environment.json").write_text(json.dumps(ENVIRONMENT | environment))
    held = {"world_size": 2, "cpus": 4, "gpus": 0, "usd_per_hour": 3.60, "energy": "estimated"}
    attempts = [
        {"attempt": 0, "resumed_from": 0, "phases": {"queue": 10.0, "import": 8.0, "first_step": 2.0}},
        {
            "attempt": 1,
            "resumed_from": 4,
            "phases": {"queue": 6.0, "import": 9.0, "load": 3.0, "first_step": 2.0},
        },
    ]
    times = (20.0, 60.0)
    write(
        folder / "attempts.jsonl",
        [each | held | {"first_step_unix": BEGAN + at} for each, at in zip(attempts, times, strict=True)],
    )
    first = [line(step, 18 + 2 * step, 100.0 * step) for step in range(1, 7)]
    second = [line(step, 50 + 2 * step, 100.0 * (step - 4)) for step in range(5, 11)]
    second[0]["checkpoint_s"] = 0.0
    second[3]["checkpoint_s"] = 1.5
    write(folder / "metrics.jsonl", [*first[:4], *second])
    write(folder / "discarded.jsonl", first[4:])
    write(folder / "ends.jsonl", [{"time": BEGAN + 72, "state": "completed", "joules": 700.0}])
    bits = {"validation": 2.5, "bigram": 3.4, "unigram": 4.5}
    summary = {
        "run": folder.name,
        "state": "completed",
        "step": 10,
        "bits_per_byte": bits,
        "gpus_simulated": True,
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def write(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))


def answer(job_id: int = 7, **fields: Any) -> str:
    """What `scontrol show job --json` says of a job, as Slurm 24.11 does, with another one before it."""
    numbers = {"submit_time": 0, "start_time": 0, "preempt_time": 0, "node_count": 2}
    numbers |= {
        name: fields.pop(name) for name in list(fields) if name in numbers or name.startswith("array_")
    }
    job = {"job_id": job_id, "job_state": ["RUNNING"], "restart_cnt": 0, "standard_output": "/runs/out"}
    job |= {name: {"set": True, "infinite": False, "number": number} for name, number in numbers.items()}
    unset = {"set": False, "infinite": False, "number": 0}
    job = {"array_job_id": unset, "array_task_id": unset, **job, **fields}
    return json.dumps({"jobs": [{**job, "job_id": 6, "array_task_id": unset}, job]})
