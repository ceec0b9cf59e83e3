"""Who starts an interrupted run again, asked by its rank 0 as the last thing it does."""

from pathlib import Path

from jobs.cluster import kubernetes, slurm


def ask(folder: Path, *, leave: bool = False) -> None:
    """Ask Slurm to start this job again; where nobody will, say how a person does.

    SIGTERM may come from scancel, and then Slurm does not count the job as running any more; or from a node
    that shuts down, and then it does: the job is wanted, elsewhere. Or someone has queued it again, which is why it
    ends. In Kubernetes the exit code asks, of each pod, and so it does where other nodes go on (`leave`).
    Raises Failure when Slurm refuses.
    """
    job = slurm.job()
    if kubernetes.inside():
        print("to be started again, if the job is still wanted", flush=True)
    elif leave:
        print("the nodes that are left go on", flush=True)
    elif slurm.running(job) and slurm.preempted(job):
        print("preempted: Slurm starts it again", flush=True)
    elif slurm.running(job):
        print("requeued", flush=True)  # before Slurm ends this process for it
        slurm.requeue()
    elif slurm.requeued(job):
        print("requeued by somebody else: Slurm starts it again", flush=True)
    else:
        print(f"to go on: start the same command with --run.folder={folder}", flush=True)
