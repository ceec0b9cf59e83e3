"""TorchX's scheduler `slurm` for jobs like ours: one job of equal nodes, as jobs/ddp.sbatch is.

TorchX 0.7.0 makes each replica a component of a heterogeneous job. Such a job is placed one component after the
other, can be given no account, QOS or GPUs by --gres, gets no warning before its end, and each component is
counted as a job. Its `list` does not understand `sacct --json` of Slurm 23 and later, nor does its `status` take
"CANCELLED by 1000". What is here replaces all of that and keeps its options, and its job_dir.
"""

import re
import shlex
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torchx
from torchx.schedulers import slurm_scheduler as stock
from torchx.schedulers.api import DescribeAppResponse, ListAppResponse, Stream, filter_regex
from torchx.specs import AppDef, AppDryRunInfo, AppState, ReplicaStatus, Role, RoleStatus, macros, runopts

from jobs.cli.errors import Failure, Mistake
from jobs.cluster import slurm
from jobs.launch.command import output

RANK0 = "TORCHX_RANK0_HOST"
JOB = '"$SLURM_JOB_ID"'
START = '"$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}"'  # torchruns of an earlier start must not meet those of this one
OPTIONS = ("account", "qos", "nodelist", "exclude", "reservation")  # beside TorchX's own
STATES = {
    **stock.SLURM_STATES,
    "COMPLETING": AppState.RUNNING,
    "CONFIGURING": AppState.PENDING,
    "PREEMPTED": AppState.PENDING,  # it is requeued
    "REQUEUE_HOLD": AppState.PENDING,
    "SPECIAL_EXIT": AppState.PENDING,
    "STOPPED": AppState.PENDING,
}
FINAL = (AppState.SUCCEEDED, AppState.FAILED, AppState.CANCELLED)


@dataclass
class Request(stock.SlurmBatchRequest):
    """A batch script, and the sbatch that takes it on its standard input."""

    script: str = ""

    def materialize(self) -> str:
        return self.script

    def __repr__(self) -> str:
        return f"{shlex.join(self.cmd)} <<'END'\n{self.script}END"


class Slurm(stock.SlurmScheduler):
    """One batch job with a task on each node. Logs: <outputs>/<job id>-<node's number>.out, both streams."""

    def _run_opts(self) -> runopts:
        opts = super()._run_opts()
        for name in OPTIONS:
            opts.add(name, type_=str, default=None, help=f"sbatch --{name}")
        return opts

    def _submit_dryrun(self, app: AppDef, cfg: Any) -> AppDryRunInfo:
        if len(app.roles) != 1:
            raise Mistake(f"{app.name}: {len(app.roles)} roles; a job of equal nodes has one")
        (role,) = app.roles
        for key in ("time_limit_minutes", "warning_s"):
            if not app.metadata.get(key, "1").isdigit():
                raise Mistake(f"{app.name}: metadata.{key}: '{app.metadata[key]}' is not a whole number")
        request = Request(
            cmd=["sbatch", "--parsable", *_options(cfg)],
            replicas={},
            job_dir=cfg.get("job_dir"),
            max_retries=role.max_retries,
            script=script(app.name, role, app.metadata),
        )
        return AppDryRunInfo(request, repr)

    def schedule(self, dryrun_info: AppDryRunInfo) -> str:
        request = dryrun_info.request
        return output(request.cmd, stdin=request.materialize()).strip().partition(";")[0]

    def describe(self, app_id: str) -> DescribeAppResponse | None:
        found = job(app_id)
        if found is None:
            return None
        state = state_of(found.state)
        nodes = range(found.nodes)
        status = RoleStatus(
            "node", [ReplicaStatus(id=n, role="node", state=state, hostname="") for n in nodes]
        )
        return DescribeAppResponse(
            app_id=app_id,
            state=state,
            num_restarts=found.restarts,
            msg=found.state,
            roles=[Role(name="node", image="", num_replicas=len(nodes))],
            roles_statuses=[status],
        )

    def list(self) -> list[ListAppResponse]:
        """Jobs of the last week, of whoever Slurm shows; needs accounting."""
        words = ["sacct", "--allocations", "--noheader", "--parsable2", "--starttime=now-7days"]
        rows = output([*words, "--format=JobID,State"])
        pairs = [row.split("|") for row in rows.splitlines()]
        return [ListAppResponse(app_id=number, state=state_of(state)) for number, state in pairs]

    def log_iter(
        self,
        app_id: str,
        role_name: str,
        k: int = 0,
        regex: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        should_tail: bool = False,
        streams: Stream | None = None,
    ) -> Iterable[str]:
        """Lines of the output of node `k`, of all starts of the job. Lines have no times: since is refused."""
        if streams not in (None, Stream.COMBINED):
            raise ValueError("slurm: a node's two streams are in one file; take `combined`")
        if since or until:
            raise ValueError("slurm: the lines of a log have no times to choose them by")
        lines = self._lines(app_id, k, follow=should_tail)
        return filter_regex(regex, lines) if regex else lines

    def _lines(self, app_id: str, k: int, *, follow: bool) -> Iterator[str]:
        path = Path("runs") / f"{app_id}-{k}.out"
        known = job(app_id)
        if known and known.output:
            path = Path(known.output).with_name(path.name)
        while not path.exists():
            if not follow or self._ended(app_id):
                raise Failure(f"{path}: no such file: job {app_id} has not started, or wrote it elsewhere")
            time.sleep(1)
        with path.open(errors="replace") as file:
            while True:
                ended = not follow or self._ended(
                    app_id
                )  # asked before the last read, so that nothing is missed
                yield from file
                if ended:
                    return
                time.sleep(1)

    def _ended(self, app_id: str) -> bool:
        found = self.describe(app_id)
        return found is None or found.state in FINAL


def _options(cfg: Any) -> list[str]:
    """Options of sbatch, which count before those in the script."""
    names = (*sorted(stock.SBATCH_GROUP_OPTIONS | stock.SBATCH_JOB_OPTIONS), *OPTIONS)
    words = [f"--{name}={cfg[name]}" for name in names if cfg.get(name) is not None]
    return [*words, f"--chdir={cfg['job_dir']}"] if cfg.get("job_dir") else words


def script(name: str, role: Role, metadata: dict[str, str]) -> str:
    """The batch script of a role. Commands of TorchX stand in it as they are, its macros replaced."""
    # One command for all nodes: `replica_id` stays as it is, and a command that needs it takes $SLURM_PROCID.
    values = macros.Values(
        img_root=role.image, app_id=macros.app_id, replica_id=macros.replica_id, rank0_env=RANK0
    )
    role = values.apply(role)
    resource, outputs = role.resource, metadata.get("outputs", "runs")
    asked = {
        "job-name": name,
        "nodes": role.num_replicas,
        "ntasks-per-node": 1,
        "cpus-per-task": resource.cpu if resource.cpu > 0 else None,
        "mem": f"{resource.memMB}M" if resource.memMB > 0 else None,
        "gres": f"gpu:{resource.gpu}" if resource.gpu > 0 else None,
        "time": metadata.get("time_limit_minutes"),
        "signal": f"USR2@{metadata['warning_s']}" if "warning_s" in metadata else None,
        "output": f"{outputs}/%j.out",
        "open-mode": "append",
    }
    lines = [
        "#!/bin/bash",
        f"# Made by TorchX {torchx.__version__} with jobs/launch/slurm.py",
        *(f"#SBATCH --{key}={value}" for key, value in asked.items() if value is not None),
        "#SBATCH --requeue",
        "set -euo pipefail",
        "",
        *(f"export {key}={_quoted(value, JOB)}" for key, value in role.env.items()),
        # A variable of its own: a failure inside of `export` would not end the script.
        'hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")',
        f"export {RANK0}=${{hosts%%$'\\n'*}} MEET_PORT=$((20000 + SLURM_JOB_ID % 12000))",
        # As in jobs/ddp.sbatch: this script runs on the first node, where they meet.
        'while (: <>"/dev/tcp/127.0.0.1/$MEET_PORT") 2> /dev/null; do',
        '    echo "port $MEET_PORT of $(hostname) is taken; trying the next one" >&2',
        "    MEET_PORT=$((MEET_PORT + 1))",
        "done",
        "",
        # See jobs/ddp.sbatch for why srun is not to kill the others.
        'srun --kill-on-bad-exit=0 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" --open-mode=append \\',
        f"    --output={outputs}/%j-%t.out \\",
        f"    {' '.join(_quoted(word, START) for word in [role.entrypoint, *role.args])} && exit",
        "code=$?",
    ]
    if role.max_retries:
        # A task of an array has the array's number, or one of its own.
        lines += [
            "task=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}",
            f'((${{SLURM_RESTART_COUNT:-0}} >= {role.max_retries})) || scontrol requeue "${{task:-$SLURM_JOB_ID}}"',
        ]
    return "\n".join([*lines, "exit $code", ""])


def _quoted(word: str, app_id: str) -> str:
    """A word of the script in which the app's id is what the shell makes of `app_id`."""
    parts = [shlex.quote(part) if part else "" for part in word.split(macros.app_id)]
    return app_id.join(parts) or "''"


def job(app_id: str) -> slurm.Job | None:
    """A job as Slurm has it, or its accounting once it is forgotten; None for none."""
    if not re.fullmatch(r"\d+(_\d+)?", app_id):
        raise Mistake(f"{app_id}: not the number of a job")
    try:
        found = slurm.show(app_id)
    except FileNotFoundError:
        raise Failure("scontrol: no such program on PATH; Slurm's jobs are started on a login node") from None
    if found:
        return found
    row = output(
        ["sacct", "--allocations", "--noheader", "--parsable2", f"--jobs={app_id}", "--format=State,NNodes"]
    )
    if not row.strip():
        return None
    state, nodes = row.splitlines()[-1].split("|")
    return slurm.Job(state, 0, 0.0, 0.0, 0.0, nodes=int(nodes), output="")


def state_of(state: str) -> AppState:
    """Slurm's words for a state as TorchX's: `CANCELLED by 1000` is cancelled, an unknown one unknown.

    Of `RUNNING+COMPLETING` the last one counts, as in what scontrol writes for people.
    """
    return STATES.get(state.split(" ")[0].rstrip("+").split("+")[-1], AppState.UNKNOWN)


def create_scheduler(session_name: str, **_: Any) -> Slurm:
    return Slurm(session_name)
