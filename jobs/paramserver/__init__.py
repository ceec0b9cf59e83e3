"""A parameter server: one process has the weights, workers ask for a part of a step and bring its gradient.

    python -m jobs.paramserver --config jobs/paramserver.yaml                      # server and workers, here
    python -m jobs.torchrun --standalone --nproc-per-node=3 -m jobs.paramserver    # rank 0 serves, two work
    sbatch jobs/paramserver.sbatch --server.staleness=2
    python -m jobs.paramserver --server.address=gpu-1:41234                        # one worker more, any time

`server.staleness` is how many steps the work may be spread over: 0 is synchronous SGD, with DDP's losses to the
last bit on two workers; s > 0 is stale-synchronous (Ho et al. 2013, NIPS, "More Effective Distributed ML via a
Stale Synchronous Parallel Parameter Server"); -1 is asynchronous. When it is the wrong choice, which is mostly:
docs/parameter-server.md.

    tickets.py   which part of which step comes next, and how far apart they may be; no torch
    wire.py      frames on a TCP connection
    server.py    weights, optimiser, checkpoints; a thread for each worker
    worker.py    the model's forward and backward
    config.py    options, which `python -m jobs.paramserver.config` checks without torch

Why plain TCP connections, and neither torch RPC nor gloo: a worker that dies may cost its connection and nothing
else. RPC's agents and gloo's process groups are worlds of fixed members: a peer that is gone fails what the others
wait for, and nobody may join later. RPC also unpickles what comes in, so whoever reaches its port runs code;
here only numbers are read, of sizes that both sides know. The address is told by the launcher's rendezvous.
"""
