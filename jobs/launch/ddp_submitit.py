"""Train a GPT on two nodes with DistributedDataParallel, one worker per GPU. By submitit.

Rendered from jobs/ddp.job.yaml by: python -m infra jobs

    python -m jobs.launch.ddp_submitit --train.steps=50                 under Slurm
    python -m jobs.launch.ddp_submitit --cluster=local                  on this machine
    python -m jobs.launch.ddp_submitit --sweep=train.seed=1,2,3         one job for each value, as an array
"""

import sys

from jobs.launch import executor

JOB = executor.Job(
    name="ddp",
    module="jobs.train",
    options=[
        "--config",
        "jobs/ddp.yaml",
    ],
    check="jobs.config",
    nodes=2,
    workers_per_node=1,
    gpus_per_node=1,
    cpus_per_node=1,
    memory_gib_per_node=3,
    time_limit_minutes=15,
    warning_s=60,
    timeouts=3,
    outputs="runs",
)

if __name__ == "__main__":
    sys.exit(executor.main(JOB, sys.argv[1:]))
