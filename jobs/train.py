"""Train a byte-level GPT on any number of ranks. Reads from top to bottom.

python -m jobs.train                                                          # one process
python -m jobs.torchrun --standalone --nproc-per-node=2 -m jobs.train         # two, on this machine
sbatch jobs/ddp.sbatch                                                        # two nodes
kubectl apply -f k8s/pytorchjob.yaml                                          # two pods
"""

import time

STARTED = time.time()  # before torch is imported: that takes seconds, and they are reported

# ruff: noqa: E402
import math
import os
import sys
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jobs import config as configuration
from jobs.cli.errors import Failure, Mistake
from jobs.cluster import kubernetes
from jobs.config import Config
from jobs.data import ngrams, shards
from jobs.parallel.mesh import Mesh
from jobs.resilience import heartbeat, signals
from jobs.resilience.votes import Agreed, Votes
from jobs.telemetry.phases import Phases
from jobs.telemetry.story import Story


def train(config: Config, warnings: signals.Warnings, phases: Phases) -> bool:
    """Whether the run reached its last step; False when a warning ended it before."""
    import torch

    from jobs.data.loader import Batches
    from jobs.model import optim
    from jobs.parallel import ranks as everyone
    from jobs.resilience.checkpoint import Checkpoints
    from jobs.trainable import Trainable

    phases.mark("import")

    # -- who we are ----------------------------------------------------------------------------------------
    ranks = everyone.start(config.run.peer_timeout_s, config.run.slow_timeout_s)
    phases.mark("rendezvous")
    mesh = Mesh.of(config, ranks.size)
    torch.set_num_threads(config.train.threads)
    # On CPU all that is used here is deterministic, and this call imports for 3 s.
    if ranks.device.type == "cuda" and config.compute.deterministic:
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.train.seed % 2**64)
    run = Story(config, ranks, mesh, phases)

    # -- data: rank 0 prepares it; where the folder is each node's own, so does the first rank there -------
    prepare = partial(
        shards.prepare,
        Path(config.data.folder),
        shard_bytes=config.data.shard_bytes,
        validation=config.data.validation,
    )
    corpus = ranks.decided(prepare)
    if ranks.local_rank == 0 and not ranks.first:
        prepare()
    ranks.wait()
    shards.check(corpus, part=ranks.local_rank, parts=ranks.local_size)
    training = shards.Split(corpus, "train", config.model.context)
    phases.mark("data")

    # -- model, optimiser, and where an earlier start of this run left them --------------------------------
    trained = Trainable(config, mesh, ranks)
    phases.mark("model")
    checkpoints = Checkpoints(
        run.folder / "checkpoints",
        keep=config.checkpoint.keep,
        facts={**config.trajectory(), "data": corpus.name},
        ranks=ranks,
        say=run.say,
        may_change=configuration.MAY_CHANGE,
    )
    step = checkpoints.load(trained)
    votes = Votes(config, ranks, warnings, checkpoints, nodes=len(run.hosts), joules=run.watch.meter.joules)
    run.open(corpus, len(training), trained, checkpoints, votes, step)
    batches = Batches(
        training,
        shards.Order(len(training), config.train.seed),
        config.train.batch,
        step,
        part=mesh.data_rank(ranks.rank),
        parts=mesh.data,
        device=ranks.device,
    )

    # -- the loop ------------------------------------------------------------------------------------------
    agreed = Agreed()
    while step < config.train.steps and not agreed.ends:
        run.begin()
        batch = batches.next()
        optim.set_rate(trained.optimizer, config.train, step)
        loss = trained.step_loss(batch.rows)
        norm = trained.clip(config.train.clip)
        step += 1
        agreed = votes.agree(step, loss, norm)  # the step's one reduction; the same answer on all ranks
        trained.step() if agreed.go else trained.skip()
        run.note(step, agreed, batch)  # record, ledger, exporter, progress
        if agreed.save:
            run.save(step, trained)

    # -- the end, or a pause -------------------------------------------------------------------------------
    from jobs.tools import report  # here: nothing that is not needed comes before the first step

    batches.close()
    run.rest()
    whole = step >= config.train.steps
    run.end(agreed, _validate(config, corpus, training, trained, ranks) if whole else {}, report.write)
    everyone.end()
    return whole


def _validate(
    config: Config, corpus: Path, training: shards.Split, trained: Any, ranks: Any
) -> dict[str, float]:
    """Bits per byte on held-out files, of the model and of counting, on the same windows. On all ranks.

    The windows come in whole batches, because on some meshes all ranks have to call the model equally often;
    a held-out part with less than one is gone through again.
    """
    import numpy as np
    import torch

    mesh, batch = trained.mesh, config.train.batch
    held_out = shards.Split(corpus, "validation", config.model.context)
    batches = max(1, min(config.run.validate, len(held_out)) // batch)
    numbers = [
        index * len(held_out) // (batches * batch) for index in range(batches * batch)
    ]  # spread evenly
    mine = held_out.windows(numbers[mesh.data_rank(ranks.rank) :: mesh.data])
    total = 0.0
    for rows in np.split(mine, batches):
        total += trained.evaluate(torch.from_numpy(rows).to(ranks.device).long()).item()
    (nats,) = ranks.agree([total])
    if not ranks.first:
        return {}
    unigram, bigram = ngrams.bits_per_byte(training.shards, held_out.windows(numbers))
    return {
        "validation": nats / batches / ranks.size / math.log(2),
        "bigram": bigram,
        "unigram": unigram,
    }


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return configuration.main(arguments)
    warnings = signals.Warnings()
    warnings.listen()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
    first = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"
    elastic = "SLIPWAY_ELASTIC" in os.environ
    try:
        whole = train(configuration.load(arguments), warnings, Phases(STARTED))
    except (Mistake, Failure) as error:
        if isinstance(error, Mistake):
            heartbeat.silence()
        # All ranks meet the same mistake and one says it; a failure may be one rank's own.
        if first or isinstance(error, Failure):
            print(error, file=sys.stderr, flush=True)
        if isinstance(error, Failure):
            heartbeat.last_words(str(error))
        # Without Python's orderly end, which would wait for a thread whose save waits for the other ranks.
        os._exit(error.exit_code)
    except Exception as error:
        if heartbeat.from_a_peer(
            error
        ):  # names the rank whose end broke this one's collective, and ends here
            heartbeat.explain(lambda: signals.STOP in warnings.got)
            print(f"a peer is gone: {str(error).strip().splitlines()[0]}", file=sys.stderr, flush=True)
        else:
            traceback.print_exc()
            heartbeat.last_words(f"{type(error).__name__}: {error}".splitlines()[0])
        os._exit(1)
    if whole or not (kubernetes.inside() or (elastic and signals.REQUEUE not in warnings.got)):
        return 0
    return kubernetes.AGAIN  # an agent whose worker ends so meets the others again


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
