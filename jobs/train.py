"""Train a byte-level GPT on any number of ranks. Reads from top to bottom.

python -m jobs.train                                                          # one process
python -m jobs.torchrun --standalone --nproc-per-node=2 -m jobs.train         # two, on this machine
sbatch jobs/ddp.sbatch                                                        # two nodes
kubectl apply -f k8s/pytorchjob.yaml                                          # two pods
"""

import time

STARTED = time.time()  # before torch is imported: that takes seconds, and they are reported

# ruff: noqa: E402
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jobs import config as configuration
from jobs import data, kubernetes, metrics, ngrams, runfolder, signals, slurm
from jobs.config import Config
from jobs.errors import Failure, Mistake
from jobs.exporter import Exporter
from jobs.mesh import Mesh
from jobs.phases import Phases, before_worker


def train(config: Config, warnings: signals.Warnings, phases: Phases) -> bool:
    """Whether the run reached its last step; False when a warning ended it before."""
    import torch

    from jobs import optim
    from jobs import ranks as everyone
    from jobs.checkpoint import Checkpoints
    from jobs.trainable import Trainable

    phases.mark("import")

    # -- who we are ----------------------------------------------------------------------------------------
    ranks = everyone.start(config.run.peer_timeout_s)
    phases.mark("rendezvous")

    def say(line: str) -> None:
        if ranks.first:
            print(line, flush=True)

    mesh = Mesh.of(config, ranks.size)
    torch.set_num_threads(config.train.threads)
    if (
        ranks.device.type == "cuda"
    ):  # on CPU all that is used here is deterministic, and this call imports for 3 s
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.train.seed % 2**64)
    folder = Path(ranks.told(str(runfolder.choose(config.run.folder)) if ranks.first else None))
    hosts = list(dict.fromkeys(ranks.gathered(runfolder.host())))  # each node once
    starts = runfolder.starts(folder)
    if ranks.first:
        (folder / "config.yaml").write_text(configuration.to_yaml(config))
        runfolder.link_latest(folder)
    say(_headline(folder, ranks, mesh, len(hosts), starts))

    # -- data: rank 0 prepares it; where the folder is each node's own, so does the first rank there -------
    where = Path(config.data.folder)
    for turn in (ranks.first, ranks.local_rank == 0):
        if turn:
            prepared = data.prepare(
                where, shard_bytes=config.data.shard_bytes, validation=config.data.validation
            )
        ranks.wait()
    corpus = where / ranks.told(prepared.name if ranks.first else None)
    data.check(corpus, part=ranks.local_rank, parts=ranks.local_size)
    training = data.Split(corpus, "train", config.model.context)
    order = data.Order(len(training), config.train.seed)
    phases.mark("data")

    # -- model, optimiser, and where an earlier start of this run left them --------------------------------
    trained = Trainable(config, mesh, ranks)
    phases.mark("model")
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep=config.checkpoint.keep,
        facts={**config.trajectory(), "data": corpus.name},
        ranks=ranks,
        say=say,
    )
    resumed = step = checkpoints.load(trained)
    record = metrics.Metrics(folder / "metrics.jsonl", step) if ranks.first else None
    exported = Exporter(folder.name) if ranks.local_rank == 0 else None
    if resumed:
        phases.mark("load")
        say(f"resumed from {folder}/checkpoints/step-{resumed:06d}")

    # -- the loop ------------------------------------------------------------------------------------------
    tokens = config.train.batch * config.model.context
    sample = (config.train.batch, mesh.data_rank(ranks.rank), mesh.data)
    requeue = stop = False
    first_step_unix = 0.0
    loop_start, loop_from = time.perf_counter(), step
    while step < config.train.steps and not (requeue or stop):
        step_start = time.perf_counter()
        numbers = order.batch(step, sample[0], rank=sample[1], ranks=sample[2])
        bytes_ = torch.from_numpy(training.windows(numbers)).to(ranks.device).long()
        data_s = time.perf_counter() - step_start

        optim.set_rate(trained.optimizer, config.train, step)
        loss = trained.step_loss(bytes_)
        trained.clip(config.train.clip)
        trained.step()
        step += 1

        # One reduction for the mean loss and the warnings: all ranks learn of a signal after the same step.
        total, requeues, stops = ranks.agree(
            [loss.item(), signals.REQUEUE in warnings.got, signals.STOP in warnings.got]
        )
        requeue, stop = requeues > 0, stops > 0
        step_s = time.perf_counter() - step_start
        line = {
            "step": step,
            "loss": total / ranks.size,
            "time": time.time(),
            "tokens_per_s": round(tokens / step_s, 1),
            "step_s": round(step_s, 6),
            "data_s": round(data_s, 6),
            "memory_mib": round(metrics.memory_mib(), 1),
        }
        if record:
            record.write(**line)
        if exported:
            exported.show(line)
        if step == resumed + 1:
            first_step_unix = float(line["time"])
            phases.mark("first_step")
            if ranks.first:
                _tell_start(folder, config, ranks, hosts, starts, resumed, phases, first_step_unix)
        if step % config.run.log_every == 0 or step == config.train.steps or step == resumed + 1:
            say(metrics.progress(line, config.train.steps))
        due = config.checkpoint.every and step % config.checkpoint.every == 0
        if due or requeue or stop or step == config.train.steps:
            if record:
                record.sync()
            checkpoints.save(step, trained)
    train_s = time.perf_counter() - loop_start
    phases.mark("train")

    # -- the end, or a pause -------------------------------------------------------------------------------
    wait = time.perf_counter()
    saved = checkpoints.finish()
    checkpoints.close()
    phases.mark("last_checkpoint")
    interrupted = step < config.train.steps
    bits = {} if interrupted else _validate(config, corpus, training, trained, ranks)
    phases.mark("validation")
    if ranks.first:
        summary: dict[str, Any] = {
            "run": folder.name,
            "state": "interrupted" if interrupted else "completed",
            "step": step,
            "steps": config.train.steps,
            "resumed_from": resumed,
            "restarts": starts,
            "world_size": ranks.size,
            "mesh": asdict(mesh),
            "hosts": hosts,
            "device": ranks.device.type,
            "gpus_simulated": ranks.simulated,
            "stack": runfolder.stack(),
            "data": corpus.name,
            "bits_per_byte": bits,
            "tokens_per_s": round((step - loop_from) * tokens / train_s, 1),
            "first_step_unix": first_step_unix,
            "checkpoint": {
                "bytes": checkpoints.bytes,
                "saves": len(checkpoints.stall_s),
                "stall_s": [round(each, 4) for each in checkpoints.stall_s],
                "write_s": [round(each, 4) for each in checkpoints.write_s],
            },
            "phases": {**phases.rounded(), "checkpoint": round(sum(checkpoints.stall_s), 3)},
        }
        runfolder.write_json(folder / "summary.json", summary)
        if interrupted:
            names = {signals.REQUEUE: "SIGUSR2", signals.STOP: "SIGTERM"}
            name = names[signals.REQUEUE if requeue else signals.STOP]
            took = f"saved in {time.perf_counter() - wait:.1f} s" if saved else "NOT saved"
            say(f"{name}: all {ranks.size} ranks agreed to stop after step {step}; {took}")
        else:
            from jobs import report

            report.write(folder, summary)
            say(_verdict(summary, folder))
    ranks.wait()
    if interrupted and ranks.first:
        _queue_again(folder)
    everyone.end()
    return not interrupted


def _headline(folder: Path, ranks: Any, mesh: Mesh, nodes: int, starts: int) -> str:
    where = "NCCL on GPUs" if ranks.device.type == "cuda" else "gloo on CPU"
    if ranks.simulated:
        where = "GPUs simulated: training on CPU, gloo"
    again = f", start {starts + 1}" if starts else ""
    many = "s" if ranks.size > 1 else ""
    how = f", {mesh.line()}" if mesh.line() else ""
    return f"{folder}: {ranks.size} rank{many} on {nodes} node{'s' if nodes > 1 else ''}, {where}{how}{again}"


def _tell_start(
    folder: Path,
    config: Config,
    ranks: Any,
    hosts: list[str],
    starts: int,
    resumed: int,
    phases: Phases,
    first_step_unix: float,
) -> None:
    """What the run stands on and how long the way here took. After the first step, which need not wait."""
    import numpy
    import torch

    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "numpy": numpy.__version__}
    found = runfolder.environment(hosts, str(ranks.device), config.train.seed, versions)
    runfolder.write_json(folder / "environment.json", found)
    earlier = before_worker(STARTED)
    phases.seconds = {**earlier, **phases.seconds}
    attempt = {
        "attempt": starts,
        "resumed_from": resumed,
        "world_size": ranks.size,
        "first_step_unix": first_step_unix,
        "phases": phases.rounded(),
    }
    with (folder / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(attempt) + "\n")
    name = f"restart {starts}" if starts else "first step"
    print(f"{name}: {phases.line()}", flush=True)


def _validate(
    config: Config, corpus: Path, training: data.Split, trained: Any, ranks: Any
) -> dict[str, float]:
    """Bits per byte on held-out files, of the model and of counting, on the same windows. On all ranks.

    The windows come in whole batches, because on some meshes all ranks have to call the model equally often;
    a held-out part with less than one is gone through again.
    """
    import torch

    mesh, batch = trained.mesh, config.train.batch
    held_out = data.Split(corpus, "validation", config.model.context)
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


def _verdict(summary: dict[str, Any], folder: Path) -> str:
    bits = summary["bits_per_byte"]
    learned = (
        "so it learned" if bits["validation"] < bits["bigram"] else "so it has NOT learned more than pairs"
    )
    return (
        f"{bits['validation']:.2f} bits/byte on validation; a bigram model has {bits['bigram']:.2f}, "
        f"{learned} (unigram {bits['unigram']:.2f})\n"
        f"{metrics.short(summary['tokens_per_s'])} tok/s; checkpoints kept the training waiting for "
        f"{summary['phases']['checkpoint']:.1f} s in all. Report: {folder}/report.html"
    )


def _queue_again(folder: Path) -> None:
    """Ask Slurm to start this job again; where nobody will, say how a person does.

    SIGTERM may come from scancel, and then Slurm does not count the job as running any more; or from a node
    that shuts down, and then it does: the job is wanted, elsewhere. In Kubernetes the exit code asks, of each pod.
    """
    if kubernetes.inside():
        print("to be started again, if the job is still wanted", flush=True)
    elif slurm.running():
        print("requeued", flush=True)  # before Slurm ends this process for it
        slurm.requeue()
    else:
        print(f"to go on: start the same command with --run.folder={folder}", flush=True)


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__, configuration.help_text(), sep="\n")
        return 0
    warnings = signals.Warnings()
    warnings.listen()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
    first = os.environ.get("RANK", "0") == "0"
    try:
        whole = train(configuration.load(arguments), warnings, Phases(STARTED))
    except (Mistake, Failure) as error:
        # All ranks meet the same mistake and one says it; a failure may be one rank's own.
        if first or isinstance(error, Failure):
            print(error, file=sys.stderr, flush=True)
        # Without Python's orderly end, which would wait for a thread whose save waits for the other ranks.
        os._exit(2 if isinstance(error, Mistake) else 1)
    return 0 if whole or not kubernetes.inside() else kubernetes.AGAIN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
