"""Who this process is: the server, one of its workers, or both of them for this machine."""

import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobs import paramserver as package
from jobs.cli import options
from jobs.cli.errors import Failure, Mistake
from jobs.cluster import kubernetes, slurm
from jobs.config import MAY_CHANGE
from jobs.data import ngrams
from jobs.paramserver.config import Config, load
from jobs.resilience import again, signals
from jobs.telemetry import claim, metrics
from jobs.telemetry import folder as runfolder


def main(arguments: Sequence[str]) -> int:
    if "--help" in arguments or "-h" in arguments:
        print(package.__doc__, options.help_text(Config), sep="\n")
        return 0
    first = os.environ.get("RANK", "0") == "0"
    warnings = signals.Warnings()
    warnings.listen()  # workers, too: they go on until the server says that it is the end
    try:
        whole = _run(load(arguments), arguments, warnings)
    except (Mistake, Failure) as error:
        if first or isinstance(error, Failure):
            print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)
    return 0 if whole or not kubernetes.inside() else kubernetes.AGAIN


def _run(config: Config, arguments: Sequence[str], warnings: signals.Warnings) -> bool:
    """Whether the run reached its last step, as far as this process knows."""
    if config.server.address:
        host, _, port = config.server.address.rpartition(":")
        return _work(config, (host, int(port)))
    slurm.refuse_tasks()
    if "RANK" not in os.environ:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            here = f"--server.address=127.0.0.1:{listener.getsockname()[1]}"
            command = [sys.executable, "-m", "jobs.paramserver", *arguments, here]
            workers = [subprocess.Popen(command) for _ in range(config.server.workers)]
            try:
                return _serve(config, listener, "127.0.0.1", len(workers), warnings)
            finally:
                for worker in workers:
                    try:
                        worker.wait(timeout=10)
                    except subprocess.TimeoutExpired:  # it hangs, or computes for a server that is gone
                        worker.kill()
                        worker.wait()
    ranks = int(os.environ["WORLD_SIZE"])
    if ranks < 2:
        raise Mistake("paramserver: needs two ranks or more, a server and a worker; use --nproc-per-node=3")
    parts = config.server.parts or ranks - 1
    if config.train.batch % parts:
        raise Mistake(
            f"train.batch: {config.train.batch} sequences do not split evenly over {parts} workers; "
            "rank 0 is the server"
        )
    import torch.distributed as dist

    store, rank, _ = next(dist.rendezvous("env://"))
    if rank:
        host, _, port = store.get("paramserver").decode().rpartition(":")
        return _work(config, (host, int(port)))
    from jobs.cluster.address import address

    with socket.create_server(("", 0)) as listener:
        store.set("paramserver", f"{address()}:{listener.getsockname()[1]}")
        return _serve(config, listener, address(), ranks - 1, warnings)


def _work(config: Config, address: tuple[str, int]) -> bool:
    from jobs.paramserver import worker

    worker.work(config, address)
    return True


def _serve(
    config: Config, listener: socket.socket, host: str, workers: int, warnings: signals.Warnings
) -> bool:
    """Be the server, from the run folder to the summary."""
    import torch

    from jobs.data import shards as data
    from jobs.parallel import ranks as everyone
    from jobs.parallel.mesh import Mesh
    from jobs.paramserver import server, worker
    from jobs.resilience.checkpoint import Checkpoints
    from jobs.trainable import Trainable

    started = time.perf_counter()
    parts = config.server.parts or workers
    if config.train.batch % parts:
        raise Mistake(f"train.batch: {config.train.batch} sequences do not split evenly into {parts} parts")
    worker.alone()
    ranks = everyone.start(config.run.peer_timeout_s)
    torch.set_num_threads(config.train.threads)
    torch.manual_seed(config.train.seed % 2**64)
    config = replace(
        config, server=replace(config.server, parts=parts)
    )  # as many as it is, in what is written
    written, fixed = options.to_yaml(config), [*config.trajectory(), "server.staleness", "server.parts"]
    folder = claim.take(config.run.folder, written, fixed, MAY_CHANGE)
    starts = claim.starts(folder)
    versions = {"torch": torch.__version__, "cuda": str(torch.version.cuda)}
    found = runfolder.environment([runfolder.host()], str(ranks.device), config.train.seed, versions)
    runfolder.write_json(folder / "environment.json", found)
    claim.link_latest(folder)
    bound = {0: "synchronous", -1: "asynchronous"}.get(
        config.server.staleness, f"at most {config.server.staleness} steps apart"
    )
    print(f"{folder}: a parameter server for {workers} workers, {bound}, {parts} parts a step", flush=True)
    print(f"another worker: --server.address={host}:{listener.getsockname()[1]}", flush=True)
    corpus = worker.corpus(config)
    trained = Trainable(config, Mesh.of(config, 1), ranks)
    how = {"server.staleness": config.server.staleness, "server.parts": parts}
    checkpoints = Checkpoints(
        folder / "checkpoints",
        keep=config.checkpoint.keep,
        facts={**config.trajectory(), **how, "data": corpus.name},
        ranks=ranks,
        say=lambda line: print(line, flush=True),
        may_change=MAY_CHANGE,
    )
    resumed = checkpoints.load(trained)
    claim.keep_config(folder, written)
    if resumed:
        print(f"resumed from {folder}/checkpoints/step-{resumed:06d}", flush=True)
        for key, (was, now) in checkpoints.changed.items():
            print(f"from here on {key} is {now}; it was {was}", flush=True)
    record = metrics.Metrics(folder / "metrics.jsonl", resumed)
    serving = server.Server(
        config,
        trained,
        record,
        checkpoints,
        resumed,
        parts,
        worker.digest(config, corpus.name),
        expected=workers,
    )
    begin = time.perf_counter()
    reached = serving.run(listener, warnings)
    train_s = time.perf_counter() - begin
    saved = checkpoints.finish()
    checkpoints.close()
    interrupted = reached < config.train.steps
    bits = {} if interrupted else _bits_per_byte(config, data, corpus, trained)
    serving.goodbye(5 if interrupted else config.run.peer_timeout_s)
    tokens = (reached - resumed) * config.train.batch * config.model.context
    summary: dict[str, Any] = {
        "run": folder.name,
        "state": "interrupted" if interrupted else "completed",
        "step": reached,
        "steps": config.train.steps,
        "resumed_from": resumed,
        "restarts": starts,
        "world_size": parts,
        "hosts": [runfolder.host()],
        "device": ranks.device.type,
        "gpus_simulated": ranks.simulated,
        "stack": runfolder.stack(),
        "data": corpus.name,
        "bits_per_byte": bits,
        "tokens_per_s": round(tokens / train_s, 1),
        "first_step_unix": serving.first_step_unix,
        "server": serving.told.facts(serving.updates),
        "phases": {"start": round(begin - started, 3), "train": round(train_s, 3)},
    }
    runfolder.write_json(folder / "summary.json", summary)
    print(_verdict(summary, folder), flush=True)
    everyone.end()
    if interrupted:
        print(f"after a warning: {'saved' if saved else 'NOT saved'} at step {reached}", flush=True)
        again.ask(folder)
    return not interrupted


def _bits_per_byte(config: Config, data: Any, corpus: Path, trained: Any) -> dict[str, float]:
    """Of the model and of counting on held-out files, on the windows that jobs/train.py takes."""
    import torch

    split = data.Split(corpus, "validation", config.model.context)
    count = min(config.run.validate, len(split))
    windows = split.windows([index * len(split) // count for index in range(count)])
    nats = 0.0
    for start in range(0, count, 32):
        rows = torch.from_numpy(windows[start : start + 32]).long()
        nats += float(trained.evaluate(rows.to(trained.ranks.device))) * len(rows)
    training = data.Split(corpus, "train", config.model.context)
    unigram, bigram = ngrams.bits_per_byte(training.shards, windows)
    return {"validation": nats / count / math.log(2), "bigram": bigram, "unigram": unigram}


def _verdict(summary: dict[str, Any], folder: Path) -> str:
    told = summary["server"]
    bits = summary["bits_per_byte"].get("validation")
    good = (
        f"{bits:.2f} bits/byte on validation (bigram {summary['bits_per_byte']['bigram']:.2f}); "
        if bits
        else ""
    )
    return (
        f"{good}{metrics.short(summary['tokens_per_s'])} tok/s; {told['updates']} updates of weights that were "
        f"{told['staleness_mean']:.2f} updates old ({told['staleness_max']} at most); workers up to "
        f"{told['lead_max']} steps apart. Record: {folder}/metrics.jsonl"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
