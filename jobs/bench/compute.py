"""What each key of `compute` does to a step and to the loss, beside fp32 with all others as they are by default.

Twenty steps of jobs/ddp.yaml's default model, each way with a model of its own; the ways take turns. What a device
cannot do is left out.
"""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs import config
from jobs.bench.figure import Figure
from jobs.cli.errors import Mistake

STEPS, WARM = 20, 3
FIRST = "fp32"
WAYS: dict[str, dict[str, Any]] = {
    FIRST: {},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "fp8": {"precision": "fp8"},
    "accumulate: 4": {"accumulate": 4},
    "recompute: true": {"recompute": True},
    "compile: true": {"compile": True},
    "fused: false": {"fused": False},
}


def compute(ranks: Any) -> list[Figure]:
    """Median time of a step, the loss after the last, and on a GPU the memory that a step takes for a while."""
    import torch

    from jobs.data import shards as data
    from jobs.model import optim, precision
    from jobs.parallel.mesh import Mesh
    from jobs.trainable import Trainable

    settings = config.Config()
    context, batch, seed = settings.model.context, settings.train.batch, settings.train.seed
    with tempfile.TemporaryDirectory() as folder:
        shards = dataclasses.asdict(settings.data) | {"folder": Path(folder)}
        training = data.Split(data.prepare(**shards), "train", context)
        order = data.Order(len(training), seed)
        batches = [
            torch.from_numpy(
                training.windows(order.batch(step, batch, rank=ranks.rank, ranks=ranks.size))
            ).long()
            for step in range(STEPS)
        ]
    used: dict[str, tuple[config.Config, Trainable]] = {}
    for name, changes in WAYS.items():
        chosen = dataclasses.replace(settings, compute=config.Compute(**changes))
        torch.manual_seed(seed)
        try:
            used[name] = chosen, Trainable(chosen, Mesh(replicate=ranks.size), ranks)
        except Mistake:
            continue
    took: dict[str, list[float]] = {name: [] for name in used}
    room: dict[str, float] = {}
    loss: dict[str, float] = {}
    gpu = ranks.device.type == "cuda"
    for step, rows in enumerate(batches):
        for name, (chosen, trained) in used.items():
            here = rows.to(ranks.device)
            precision.use(chosen.compute.precision)
            optim.set_rate(trained.optimizer, chosen.train, step)
            ranks.wait()
            if gpu:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
                before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            share = trained.step_loss(here)
            trained.clip(chosen.train.clip)
            trained.step()
            if gpu:
                torch.cuda.synchronize()
                room[name] = (torch.cuda.max_memory_allocated() - before) / 2**20
            took[name].append(time.perf_counter() - start)
            loss[name] = ranks.agree([share.item()])[0]
    figures: list[Figure] = []
    for name in used:
        first = name == FIRST
        time_s = statistics.median(took[name][WARM:])
        figures.append(
            Figure(f"step, {name}", time_s, "s", None if first else figures[0].value, "" if first else FIRST)
        )
        off = loss[name] if first else loss[name] - loss[FIRST]
        figures.append(Figure(f"  loss of step {STEPS}" + ("" if first else f" - {FIRST}'s"), off, ""))
        if gpu:
            figures.append(Figure("  memory of a step", room[name], "MiB"))
    return figures
