"""torchrun that passes Slurm's warning on to its workers. Takes torchrun's arguments.

    python -m jobs.torchrun --standalone --nproc-per-node=2 -m jobs.train --train.steps=50

`--max-restarts=3` starts the workers again when one of them dies or hangs (resilience/heartbeat.py), `--nnodes=1:2`
goes on with fewer nodes and grows back; the agent is the one of jobs/launch/agent.py.

In Kubernetes every end but success and mistakes has an exit code that asks for another start (cluster/kubernetes.py).

Slurm with cgroups sends SIGUSR2 to the task that srun started and to none of its children. That task is
torchrun, which starts each worker in a session of its own and forwards only signals that it also dies of. So
a thread here waits for SIGUSR2 and sends it to the children.

The signal is blocked, not ignored or handled, and children inherit that: a warning that reaches a worker
while it still imports torch stays pending until `Warnings.listen` is ready for it. Where Slurm signals every
process of a step (proctrack/linuxproc), a worker gets it twice, which is as good as once.
"""

import contextlib
import gc
import os
import signal
import sys
import threading
import time
import uuid
from pathlib import Path

from jobs.cluster import kubernetes

# Every optimiser and DistributedDataParallel import torch._dynamo, for a second; these programs have neither.
WITHOUT_OPTIMISER = ("jobs.collectives", "jobs.whoami")


def main(arguments: list[str]) -> int:
    os.environ["SLIPWAY_AGENT_UNIX"] = repr(time.time())
    os.environ.setdefault("SLIPWAY_RUN", time.strftime("%Y%m%d-%H%M%S"))  # one folder for all its restarts
    os.environ.setdefault("SLIPWAY_AGENT_ID", uuid.uuid4().hex)  # and for no other's of the same second
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun's own default, without its warning
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})

    gc.disable()  # importing makes much and leaves no garbage; a seventh of its time
    from torch.distributed import run  # after the signal is safe: this takes seconds
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    from jobs.launch import agent, fork

    gc.enable()
    asked = run.parse_args(arguments)
    program = asked.training_script if asked.module else ""
    server = None
    # Now: in a moment there are threads and sockets in this process.
    if fork.can_run((sys.executable, "-u", "-m", program)):
        server = fork.ForkServer.here(() if program in WITHOUT_OPTIMISER else ("torch._dynamo",))
    threading.Thread(target=_pass_on, name="pass-on-usr2", daemon=True).start()
    agent.install(server)
    if ":" in asked.nnodes:
        os.environ["SLIPWAY_ELASTIC"] = "1"  # an interrupted worker leaves the job to the other nodes
    try:
        run.main(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(
            f"rank {rank} on {os.uname().nodename} ended first, with {_outcome(failure.exitcode)}",
            file=sys.stderr,
        )
        return kubernetes.exit_code(2 if failure.exitcode == 2 else 1)
    except SignalException as error:
        print(f"torchrun on {os.uname().nodename}: {error}", file=sys.stderr)
        return kubernetes.exit_code(128 + error.sigval)
    except Exception as error:
        if not kubernetes.inside():
            raise
        # The place to meet is gone, or not there yet: another pod is being started again.
        print(f"torchrun on {os.uname().nodename}: {type(error).__name__}: {error}", file=sys.stderr)
        return kubernetes.AGAIN
    finally:
        if server:
            server.close()
    return 0


def _outcome(code: int) -> str:
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _pass_on() -> None:
    """Wait for a warning, then give it to each child once, those that start later too: the job is to end."""
    signal.sigwait({signal.SIGUSR2})
    told: set[int] = set()
    while True:
        for child in set(workers(os.getpid())) - told:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(child, signal.SIGUSR2)
            told.add(child)
        time.sleep(0.05)


def children(parent: int) -> list[int]:
    """Process ids of a process's children, from /proc, in the order of their starts."""
    return [pid for pid, _ in _children(parent)]


def workers(agent: int) -> list[int]:
    """Process ids of a torchrun's workers, in the order of their ranks: each leads a session of its own."""
    return [pid for pid, session in _children(agent) if pid == session]


def _children(parent: int) -> list[tuple[int, int]]:
    """Process id and session of each."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()  # a command's name may hold blanks
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == parent:
            found.append((int(fields[19]), int(stat.parent.name), int(fields[3])))
    return [(pid, session) for _, pid, session in sorted(found)]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
