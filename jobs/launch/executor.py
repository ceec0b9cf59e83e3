"""submitit: the jobs of this folder as Python calls, requeued and swept.

    python -m jobs.launch.ddp_submitit --train.steps=50

or from a notebook, a program of one's own:

    from jobs.launch import ddp_submitit, executor
    jobs = executor.submit(ddp_submitit.JOB, sweep={"train.learning_rate": ["0.01", "0.003"]})
    [job.results() for job in jobs]

Each task that submitit starts is one rank; there is no torchrun, so nothing that restarts a worker in place.

The warning (USR2, before the time is over or a preemption) goes to every task. submitit's own handler would have
rank 0 checkpoint, requeue and exit at once, inside the handler, while the others are in the middle of a step: a
save that needs all ranks would hang. So while the program runs it has a handler that only notes the signal
(jobs/resilience/signals.py); its loop agrees, saves and returns; and then rank 0 gives submitit the signal that it
waits for. What submitit then requeues has nothing left to save.
"""

import argparse
import importlib
import itertools
import json
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import submitit
from submitit.core.utils import UncompletedJobError
from submitit.helpers import Checkpointable, TorchDistributedEnvironment, clean_env, environment_variables

from jobs.cli.errors import Failure, Mistake, told
from jobs.cluster import slurm
from jobs.telemetry import claim

Sweep = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Job:
    """What is asked for, in the words of jobs/*.job.yaml."""

    name: str
    module: str
    options: list[str]
    nodes: int
    workers_per_node: int
    gpus_per_node: int
    cpus_per_node: int
    memory_gib_per_node: int
    time_limit_minutes: int
    warning_s: int
    timeouts: int = 3
    outputs: str = "runs"
    check: str | None = None
    environment: dict[str, str] = field(default_factory=dict)


class Rank(Checkpointable):
    """One rank of a job: `main` of a module. submitit calls it in each task, again after each requeue."""

    def __init__(self, job: Job, options: Sequence[str]) -> None:
        self.module, self.outputs = job.module, job.outputs
        self.options = [*job.options, *options]

    def __call__(self) -> dict[str, Any]:
        """The run's summary, once it is completed; empty when the program writes none. Raises Failure."""
        asked: list[bool] = []
        slurm.instead = lambda: asked.append(True)  # the program calls it, on rank 0, when it wants to go on
        submitits = signal.getsignal(signal.SIGUSR2)
        environment = TorchDistributedEnvironment()
        # Not CUDA_VISIBLE_DEVICES: our ranks choose their device by LOCAL_RANK, among all of a node.
        environment.export(set_cuda_visible_devices=False, overwrite=True)
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # as under torchrun
        folder, words = self._folder()
        code = importlib.import_module(self.module).main([*self.options, *words])
        if code:
            raise Failure(f"{self.module} ended with exit code {code}")
        folder = folder or claim.of_this_start() or Path("runs")
        summary = _summary(folder)
        if summary.get("state") != "interrupted":
            return summary
        if environment.rank:
            sys.exit(0)  # no result: rank 0 speaks for all
        if asked:
            signal.signal(signal.SIGUSR2, submitits)
            signal.raise_signal(signal.SIGUSR2)  # ends in submitit's handler: `checkpoint`, requeue, exit
        raise UncompletedJobError(f"stopped after step {summary['step']}; go on with --run.folder={folder}")

    def _folder(self) -> tuple[Path | None, list[str]]:
        """The run folder, and the option that names it where the program would not find it by itself.

        All starts of a job must have the same one. In Slurm the program chooses its own (jobs/telemetry/claim.py).
        """
        named = [word.partition("=")[2] for word in self.options if word.startswith("--run.folder=")]
        if named:
            return Path(named[-1]), []
        if slurm.number() and self.outputs == "runs":
            return None, []
        folder = Path(self.outputs) / submitit.JobEnvironment().job_id
        return folder, [f"--run.folder={folder}"]


def submit(
    job: Job, options: Sequence[str] = (), *, sweep: Sweep | None = None, cluster: str = "slurm"
) -> list[submitit.Job[dict[str, Any]]]:
    """Submit a job, or one for each combination of a sweep's values, as an array. Raises Mistake.

    `cluster`: slurm, or local: all ranks on this machine, each job at once.
    """
    keys = sweep or {}
    chosen = [
        [f"--{key}={value}" for key, value in zip(keys, values, strict=True)]
        for values in itertools.product(*keys.values())
    ]
    if job.check:
        check = importlib.import_module(job.check).main
        if any(check([*job.options, *options, *each]) for each in chosen):  # it says what is wrong
            raise Mistake("nothing was submitted")
    executor = on_slurm(job) if cluster == "slurm" else here(job)
    ranks = [Rank(job, [*options, *each]) for each in chosen]
    # Slurm's script exports the job's variables; here the processes have them from this one.
    own = {} if cluster == "slurm" else job.environment
    # clean_env: without what a job that submits another has of its own, which Slurm would take for options.
    with clean_env(), environment_variables(**own):
        if not sweep:
            return [executor.submit(ranks[0])]
        with executor.batch():
            return [executor.submit(rank) for rank in ranks]


def on_slurm(job: Job) -> submitit.SlurmExecutor:
    """An executor that asks Slurm for what the job needs. Raises Mistake where there is no Slurm."""
    if not shutil.which("srun"):
        raise Mistake("srun: no such program on PATH; submit on a login node, or here with --cluster=local")
    executor = submitit.SlurmExecutor(folder=f"{job.outputs}/submitit/%j", max_num_timeout=job.timeouts)
    cpus = max(1, job.cpus_per_node // job.workers_per_node)
    executor.update_parameters(
        job_name=job.name,
        nodes=job.nodes,
        ntasks_per_node=job.workers_per_node,
        cpus_per_task=cpus,
        mem=f"{job.memory_gib_per_node}G",
        gres=f"gpu:{job.gpus_per_node}" if job.gpus_per_node else None,
        time=job.time_limit_minutes,
        signal_delay_s=job.warning_s,
        stderr_to_stdout=True,
        setup=[f"export {name}={shlex.quote(value)}" for name, value in job.environment.items()],
        additional_parameters={"requeue": True},
        # Since Slurm 22.05 srun takes the number of CPUs of a task from its own options only.
        srun_args=[f"--cpus-per-task={cpus}", "--kill-on-bad-exit=0"],
    )
    return executor


def here(job: Job) -> submitit.LocalExecutor:
    """An executor that starts all ranks on this machine, and ends and requeues them as Slurm would."""
    executor = submitit.LocalExecutor(folder=f"{job.outputs}/submitit/%j", max_num_timeout=job.timeouts)
    executor.update_parameters(
        tasks_per_node=job.nodes * job.workers_per_node,
        timeout_min=job.time_limit_minutes,
        signal_delay_s=job.warning_s,
        stderr_to_stdout=True,
    )
    return executor


def _summary(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    except FileNotFoundError:
        return {}
    return found


def _sweep(texts: Sequence[str]) -> Sweep:
    """`train.seed=1,2,3` as a key and its values. Raises Mistake."""
    found: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        if not (key and equals and values):
            raise Mistake(f"--sweep: '{text}' is not KEY=VALUE,VALUE, such as train.seed=1,2,3")
        found[key] = values.split(",")
    return found


def main(job: Job, arguments: Sequence[str]) -> int:
    """The command line of a rendered script. Words that it does not know are the program's."""
    parser = argparse.ArgumentParser(prog=f"python -m jobs.launch.{job.name}_submitit", allow_abbrev=False)
    parser.add_argument(
        "--cluster", choices=["slurm", "local"], default="slurm", help="local: on this machine"
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="a job for each value; more than one: for each combination",
    )
    parser.add_argument("--wait", action="store_true", help="until they end; exit code 1 when one fails")
    known, options = parser.parse_known_args(arguments)
    try:
        submitted = submit(job, options, sweep=_sweep(known.sweep), cluster=known.cluster)
    except (Mistake, Failure) as error:
        return told(error)
    for each in submitted:
        print(f"{each.job_id}: {each.paths.stdout}", flush=True)
    if not known.wait:
        return 0
    return max(_waited(each) for each in submitted)


def _waited(job: submitit.Job[dict[str, Any]]) -> int:
    try:
        summary = job.results()[0]
    except Exception as error:  # what the job raised, as submitit wraps it
        print(f"{job.job_id}: {error}", file=sys.stderr)
        return 1
    bits = summary.get("bits_per_byte", {}).get("validation")
    print(f"{job.job_id}: completed" + (f", {bits:.2f} bits/byte on validation" if bits else ""), flush=True)
    return 0
