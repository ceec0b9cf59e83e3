"""What the machine and the jobs could do, and what they do: each figure beside its limit, measured in one run.

    python -m jobs.bench ddp            two ranks beside one on the same cores, and beside their bound
    python -m jobs.bench scaling        1, 2 and 4 ranks beside their bounds
    python -m jobs.bench allreduce      all-reduce by size, beside TCP between the same processes
    python -m jobs.bench checkpoint     write beside the disk, stall beside a copy in memory
    python -m jobs.bench compute        each key of `compute` beside fp32: time of a step, loss after twenty
    python -m jobs.bench faults         signal to saved, death to next step, a hung rank to its end
    python -m jobs.bench resume         a checkpoint of 1 to 4 ranks read by 1 to 4, beside a plain read
    python -m jobs.bench launchers      command to both ranks, by each launcher beside bare torchrun
    python -m jobs.bench gpu            GEMM, memory, training (MFU) and checkpoints of one GPU beside its limits

The first five start `--ranks` ranks on this machine, one thread each; inside torchrun they use the ranks that are
there. `--json` prints one object for each figure. `gpu` needs a GPU; with --device=cpu it measures tiny sizes and
without limits that a card would have, to see that it runs.
"""
