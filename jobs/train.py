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
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from jobs import config as configuration
from jobs.cli.errors import Failure, Mistake
from jobs.cluster import kubernetes, slurm
from jobs.config import Config
from jobs.data import ngrams, samples, shards
from jobs.parallel.mesh import Mesh
from jobs.resilience import again, heartbeat, signals
from jobs.resilience.guard import Act, Guard
from jobs.resilience.guard import signs as guard_signs
from jobs.resilience.interval import Interval
from jobs.telemetry import folder as runfolder
from jobs.telemetry import metrics, restart
from jobs.telemetry.phases import Phases, before_worker
from jobs.telemetry.watch import Watch


def train(config: Config, warnings: signals.Warnings, phases: Phases) -> bool:
    """Whether the run reached its last step; False when a warning ended it before."""
    import torch

    from jobs.model import optim
    from jobs.parallel import ranks as everyone
    from jobs.resilience.checkpoint import Checkpoints
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
    # On CPU all that is used here is deterministic, and this call imports for 3 s.
    if ranks.device.type == "cuda" and config.compute.deterministic:
        torch.use_deterministic_algorithms(True)
    torch.manual_seed(config.train.seed % 2**64)
    folder = Path(ranks.told(str(runfolder.choose(config.run.folder)) if ranks.first else None))
    watch = Watch(ranks, phases.began)
    hosts = watch.meet(ranks.gathered(watch.place))
    starts = runfolder.starts(folder)
    if ranks.first:
        (folder / "config.yaml").write_text(configuration.to_yaml(config))
        runfolder.link_latest(folder)
    heart = heartbeat.begin(ranks, config.run.heartbeat_s, folder)
    say(_headline(folder, ranks, mesh, len(hosts), starts))

    # -- data: rank 0 prepares it; where the folder is each node's own, so does the first rank there -------
    where = Path(config.data.folder)
    for turn in (ranks.first, ranks.local_rank == 0):
        if turn:
            prepared = shards.prepare(
                where, shard_bytes=config.data.shard_bytes, validation=config.data.validation
            )
        ranks.wait()
    corpus = where / ranks.told(prepared.name if ranks.first else None)
    shards.check(corpus, part=ranks.local_rank, parts=ranks.local_size)
    training = shards.Split(corpus, "train", config.model.context)
    order = shards.Order(len(training), config.train.seed)
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
    before = restart.left(folder) if ranks.first else None
    record = metrics.Metrics(folder / "metrics.jsonl", step) if ranks.first else None
    guard = Guard(config.guard, ranks.size)
    if resumed:  # rank 0 has cut the record, and all judge by the same past
        past = metrics.read(folder / "metrics.jsonl") if ranks.first else []
        guard.remember(ranks.told([_past(line) for line in past[-guard.reaches_back :]]))
    ledger = _ledger(config, mesh, ranks, folder, step, len(training))
    schedule = Interval(config.checkpoint.every, config.checkpoint.node_mtbf_h, len(hosts))
    watch.open(folder, config, step, trained.ddp, phases.began)
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
        watch.exchange.begin()
        numbers = order.batch(step, sample[0], rank=sample[1], ranks=sample[2])
        bytes_ = torch.from_numpy(training.windows(numbers)).to(ranks.device).long()
        data_s = time.perf_counter() - step_start

        optim.set_rate(trained.optimizer, config.train, step)
        loss = trained.step_loss(bytes_)
        norm = trained.clip(config.train.clip)
        step += 1

        # One reduction, before the update: the mean loss, the warnings, whether rank 0 finds a save due, and what is
        # wrong with loss or gradient (fp16's scaler deals with the latter). All ranks act on it after the same step.
        mine = loss.item()
        total, requeues, stops, dues, joules, *signs = ranks.agree(
            [
                mine,
                signals.REQUEUE in warnings.got,
                signals.STOP in warnings.got,
                ranks.first and schedule.due(step),
                watch.meter.joules(),
                *guard_signs(ranks.rank, mine, 0.0 if trained.scaler.enabled else norm.item()),
            ]
        )
        requeue, stop, due = requeues > 0, stops > 0, dues > 0
        verdict = guard.judge(total / ranks.size, signs)
        if verdict.act is Act.STOP:
            raise Mistake(_stopped(step, verdict.why, folder, checkpoints.finish))
        if verdict.act is Act.GO:
            trained.step()
        else:
            trained.optimizer.zero_grad(set_to_none=True)
            say(f"step {step} skipped: {verdict.why}")
        if ledger:
            ledger.write(step, numbers)
        step_s = time.perf_counter() - step_start
        line: dict[str, Any] = {
            "step": step,
            "loss": total / ranks.size,
            "time": time.time(),
            "tokens_per_s": round(tokens / step_s, 1),
            "step_s": round(step_s, 6),
            "data_s": round(data_s, 6),
            "memory_mib": round(metrics.memory_mib(), 1),
        }
        if verdict.why:
            line["skipped"] = verdict.why
        line |= watch.step(line, joules, sum(checkpoints.stall_s))
        if record:
            record.write(**line)
        watch.tell(line)
        if step == resumed + 1:
            first_step_unix = float(line["time"])
            phases.mark("first_step")
            if ranks.first:
                _tell_start(
                    folder, config, watch, corpus, hosts, starts, resumed, phases, first_step_unix, before
                )
        elif before and step == before.step:
            say(restart.caught_up(folder / "attempts.jsonl", time.time() - first_step_unix))
        if step % config.run.log_every == 0 or step == config.train.steps or step == resumed + 1:
            say(metrics.progress(line, config.train.steps, watch.allreduce_share))
        if (requeue or stop) and ranks.first:
            name = "SIGUSR2" if requeue else "SIGTERM"
            heartbeat.note_end(folder, name, 0, hosts[0].partition(":")[0], step, 0.0)
        if due or requeue or stop or step == config.train.steps:
            with heart.long("save"):
                if record:
                    record.sync()
                if ledger:
                    ledger.sync()
                checkpoints.save(step, trained)
            schedule.saved(checkpoints.stall_s, checkpoints.write_s)
        heart.step(step)
    if requeue:
        warnings.got.add(signals.REQUEUE)  # for the exit code, on the ranks that heard it from others
    train_s = time.perf_counter() - loop_start
    phases.mark("train")

    # -- the end, or a pause -------------------------------------------------------------------------------
    wait = time.perf_counter()
    heart.rest("end")
    saved = checkpoints.finish()
    checkpoints.close()
    if ledger:
        ledger.close()
    phases.mark("last_checkpoint")
    interrupted = step < config.train.steps
    bits = {} if interrupted else _validate(config, corpus, training, trained, ranks)
    phases.mark("validation")
    (joules,) = ranks.agree([watch.meter.joules()])
    if ranks.first:
        cost = watch.end("interrupted" if interrupted else "completed", joules)
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
            **cost,
            "checkpoint": {
                "bytes": checkpoints.bytes,
                "saves": len(checkpoints.stall_s),
                "stall_s": [round(each, 4) for each in checkpoints.stall_s],
                "write_s": [round(each, 4) for each in checkpoints.write_s],
                "interval_s": schedule.seconds and round(schedule.seconds, 1),  # null where steps are given
            },
            "skipped": guard.skipped,
            "phases": {**phases.rounded(), "checkpoint": round(sum(checkpoints.stall_s), 3)},
        }
        runfolder.write_json(folder / "summary.json", summary)
        if interrupted:
            names = {signals.REQUEUE: "SIGUSR2", signals.STOP: "SIGTERM"}
            name = names[signals.REQUEUE if requeue else signals.STOP]
            took = f"saved in {time.perf_counter() - wait:.1f} s" if saved else "NOT saved"
            say(f"{name}: all {ranks.size} ranks agreed to stop after step {step}; {took}")
        else:
            from jobs.tools import report

            report.write(folder)
            say(_verdict(summary, folder))
    ranks.wait()
    heart.stop()
    if interrupted and ranks.first:
        again.ask(folder, leave=not requeue and "SLIPWAY_ELASTIC" in os.environ)
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
    watch: Watch,
    corpus: Path,
    hosts: list[str],
    starts: int,
    resumed: int,
    phases: Phases,
    first_step_unix: float,
    before: restart.Left | None,
) -> None:
    """What the run stands on and how long the way here took. After the first step, which need not wait."""
    import numpy
    import torch

    ranks = watch.ranks
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda), "numpy": numpy.__version__}
    found = runfolder.environment(
        hosts,
        str(ranks.device),
        config.train.seed,
        versions,
        gpu=watch.place["gpu"],
        gpus_simulated=ranks.simulated,
        world_size=ranks.size,
        data=corpus.name,
        data_sha256=shards.checksums(corpus),
        diff=runfolder.keep_diff(folder / "code.diff"),
    )
    runfolder.write_json(folder / "environment.json", found)
    earlier = before_worker(STARTED)
    phases.seconds = {**earlier, **phases.seconds}
    attempt: dict[str, Any] = {
        "attempt": starts,
        "resumed_from": resumed,
        "world_size": ranks.size,
        "first_step_unix": first_step_unix,
        "phases": phases.rounded(),
        "stack": found["stack"],
        "code": found["code"],
        **watch.held,
    }
    watch.submitted(attempt)
    if before:
        requeued = slurm.times().get("SubmitTime")
        attempt["waterfall"] = restart.waterfall(before, phases.seconds, STARTED, resumed, requeued)
    with (folder / "attempts.jsonl").open("a") as file:
        file.write(json.dumps(attempt) + "\n")
    if before:
        print(restart.line(starts, attempt["waterfall"]), flush=True)
    else:
        print(f"first step: {phases.line()}", flush=True)


def _past(line: dict[str, Any]) -> dict[str, Any]:
    """What the guard wants to know of a step."""
    return {"loss": line["loss"], "skipped": line.get("skipped", "")}


def _ledger(
    config: Config, mesh: Mesh, ranks: Any, folder: Path, step: int, windows: int
) -> samples.Ledger | None:
    """The ledger of this rank's samples, cut at `step`; of ranks that read the same ones the first keeps it."""
    if not config.run.samples:
        return None
    if ranks.first:
        samples.drop(folder / "samples", step)
    ranks.wait()
    at = mesh.coordinates(ranks.rank)
    if at["tensor"] or at["context"] or at["pipeline"]:
        return None
    facts = {"samples": windows, "seed": config.train.seed, "batch": config.train.batch}
    return samples.Ledger(folder / "samples", mesh.data_rank(ranks.rank), mesh.data, facts)


def _stopped(step: int, why: str, folder: Path, finish: Callable[[], bool]) -> str:
    """What the guard says when it ends the run. A save that is under way is finished first."""
    finish()
    return (
        f"step {step}: {why}; nothing of it is in the weights, the last checkpoint in {folder} is from before. "
        "Lower train.learning_rate, or leave such steps out by --guard.nonfinite=skip or --guard.spike=skip"
    )


def _validate(
    config: Config, corpus: Path, training: shards.Split, trained: Any, ranks: Any
) -> dict[str, float]:
    """Bits per byte on held-out files, of the model and of counting, on the same windows. On all ranks.

    The windows come in whole batches, because on some meshes all ranks have to call the model equally often;
    a held-out part with less than one is gone through again.
    """
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


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(__doc__, configuration.help_text(), sep="\n")
        return 0
    warnings = signals.Warnings()
    warnings.listen()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic cuBLAS asks for
    first = os.environ.get("RANK", "0") == "0"
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
