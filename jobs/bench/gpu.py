"""One GPU beside its limits: products and memory beside the datasheet, training beside a plain loop, checkpoints.

    GEMM          square matrix products by precision, beside the peak of telemetry/flops.py or of the node's profile
    memory        a copy inside the device, bytes read and written, beside the profile's bandwidth
    training      jobs/train.py's step (jobs/trainable.py) of a GPT that fills the card, as model FLOPs utilisation
                  (telemetry/flops.py), and a plain PyTorch loop of the same model, batch and precision in the same run
    checkpoint    what an asynchronous save keeps the training waiting for, beside the device-to-host copy of the
                  same bytes into pinned memory

--device=cpu takes tiny sizes and fp32: it proves that this file runs, and its figures mean nothing.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jobs.bench.figure import Figure
from jobs.cli.errors import Mistake
from jobs.cluster import node
from jobs.config import Compute, Config, Train
from jobs.model import gpt, of
from jobs.model.contract import Shape
from jobs.telemetry import flops

# Bytes per second that a card's memory moves, by the name that the driver gives it; as in hardware/*.yaml.
MEMORY_GB_PER_S = {"A100-SXM4-40GB": 1555, "A100-SXM4-80GB": 2039, "H100 80GB HBM3": 3350, "H200": 4800}
GOAL_MFU = 0.5


@dataclass(frozen=True)
class Sizes:
    """What is measured, by device."""

    product: int  # rows and columns of the matrices
    copy: int  # bytes
    precisions: tuple[str, ...]
    precision: str  # of the training
    compile: bool
    model: Shape
    batch: int  # the first one that is tried; halved until it fits
    steps: int


# 1.2 billion weights: with Adam and fp32 weights 19 GB, and the activations of a batch fill what is left of 80.
CUDA = Sizes(
    8192,
    4 << 30,
    ("tf32", "bf16"),
    "bf16",
    True,
    gpt.Shape(layers=24, heads=16, width=2048, context=2048),
    16,
    10,
)
CPU = Sizes(128, 1 << 20, ("fp32",), "fp32", False, gpt.Shape(layers=2, heads=2, width=32, context=32), 4, 3)


def measure(device: str) -> list[Figure]:
    """Every figure of one device. Raises Mistake when there is no GPU."""
    import torch

    from jobs.parallel import ranks as everyone

    if device == "cuda" and not torch.cuda.is_available():
        raise Mistake(
            "gpu: torch finds no GPU here; run it on a node with one, or see that it runs with --device=cpu"
        )
    sizes = CUDA if device == "cuda" else CPU
    here = everyone.start(600)
    if device == "cpu" and here.device.type == "cuda":
        raise Mistake("gpu: --device=cpu on a machine with a GPU; hide it: CUDA_VISIBLE_DEVICES= ...")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    try:
        figures = [*products(sizes, name, here.device), *memory(sizes, name, here.device)]
        return figures + training(sizes, name, here) + checkpoint(sizes, here)
    finally:
        everyone.end()


def peak(name: str, precision: str) -> float | None:
    """Operations per second that the device could do, from the node's profile or the table."""
    return flops.peak(name, precision, node.read().peak_tflops)


def products(sizes: Sizes, name: str, device: Any) -> list[Figure]:
    """Square matrix products, by precision."""
    import torch

    from jobs.model import precision

    figures = []
    for each in sizes.precisions:
        precision.use(each)
        kind = torch.bfloat16 if each == "bf16" else torch.float32
        a, b = (torch.randn(sizes.product, sizes.product, device=device, dtype=kind) for _ in range(2))
        out = torch.empty_like(a)
        took = _median(partial(torch.mm, a, b, out=out), device, rounds=20)
        limit = peak(name, each)
        rate = 2 * sizes.product**3 / took / 1e12
        figures.append(
            Figure(
                f"product of {sizes.product} x {sizes.product}, {each}",
                rate,
                "TFLOP/s",
                limit / 1e12 if limit else None,
                "the dense peak" if limit else "",
            )
        )
    return figures


def memory(sizes: Sizes, name: str, device: Any) -> list[Figure]:
    """A copy inside the device's memory: each byte is read once and written once."""
    import torch

    source = torch.zeros(sizes.copy, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    took = _median(lambda: target.copy_(source), device, rounds=20)
    known = [rate for model, rate in MEMORY_GB_PER_S.items() if f"{name} ".find(f"{model} ") >= 0]
    limit = float(known[0]) if known else None
    rate = 2 * sizes.copy / took / 1e9
    return [Figure("memory, read and written", rate, "GB/s", limit, "the datasheet" if limit else "")]


def training(sizes: Sizes, name: str, here: Any) -> list[Figure]:
    """A step of training on one device, and the plain loop, in turns of a few steps."""
    import torch

    from jobs.parallel.mesh import Mesh
    from jobs.trainable import Trainable

    settings = Config(
        model=sizes.model,
        train=Train(batch=sizes.batch),
        compute=Compute(precision=sizes.precision, compile=sizes.compile),
    )
    torch.manual_seed(0)
    trained = Trainable(settings, Mesh(replicate=1), here)
    plain = _plain(sizes, here.device)

    def ours(rows: Any) -> None:
        trained.step_loss(rows)
        trained.clip(settings.train.clip)
        trained.step()

    # The plain one first: it can be tried again after it ran out of memory, DDP's reducer cannot.
    batch = _fitting(sizes, here.device, [plain, ours])
    rows = torch.randint(256, (batch, sizes.model.context + 1), device=here.device)
    times: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(sizes.steps):  # in turns: a card that gets hot slows both
        for way, step in {"ours": ours, "plain": plain}.items():
            times[way].append(_seconds(partial(step, rows), here.device))
    tokens = batch * sizes.model.context
    rate, other = (tokens / statistics.median(times[way]) for way in ("ours", "plain"))
    limit = peak(name, sizes.precision)
    weights = sum(each.numel() for each in trained.model.parameters())
    shape = f"{weights / 1e6:,.2f} M weights, {batch} x {sizes.model.context}"
    figures = [
        Figure(f"training, {shape}, {sizes.precision}", rate, "tokens/s", other, "a plain PyTorch loop")
    ]
    if limit:
        per_token = of(sizes.model).flops_per_token(sizes.model)
        for way, speed in {"MFU": rate, "  MFU of the plain loop": other}.items():
            share = flops.mfu(speed, per_token, limit, 1)
            figures.append(Figure(way, 100 * share, "%", 100 * GOAL_MFU, "goal"))
    if here.device.type == "cuda":
        total = torch.cuda.get_device_properties(here.device).total_memory
        used = torch.cuda.max_memory_allocated(here.device)
        figures.append(Figure("  memory of the card in use, for both", 100 * used / total, "%"))
    return figures


def _plain(sizes: Sizes, device: Any) -> Callable[[Any], None]:
    """The loop that one writes first: the same model and precision, compiled, AdamW fused; no mesh, no wrapper."""
    import torch

    model = of(sizes.model)
    network = model.build(sizes.model).to(device)
    forward = torch.compile(network) if sizes.compile else network
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    half = sizes.precision == "bf16"

    def step(rows: Any) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            loss = model.loss(forward(rows[:, :-1]), rows[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def _fitting(sizes: Sizes, device: Any, steps: list[Callable[[Any], None]]) -> int:
    """The first of batch, batch / 2, ... that every loop has the memory for; it has compiled and warmed up then."""
    import torch

    batch = sizes.batch
    while True:
        rows = torch.randint(256, (batch, sizes.model.context + 1), device=device)
        try:
            for step in steps:
                for _ in range(3):
                    step(rows)
            return batch
        except torch.OutOfMemoryError:
            if batch == 1:
                raise Mistake("gpu: not even one sequence of the model fits this card") from None
            batch //= 2
            torch.cuda.empty_cache()


def checkpoint(sizes: Sizes, here: Any) -> list[Figure]:
    """What a save keeps the training waiting for, beside copies of its tensors into memory of the host."""
    import torch

    from jobs.parallel.mesh import Mesh
    from jobs.resilience.checkpoint import Checkpoints
    from jobs.trainable import Trainable

    gpu = here.device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
    settings = Config(model=sizes.model, compute=Compute(precision=sizes.precision))
    trained = Trainable(settings, Mesh(replicate=1), here)
    trained.step_loss(torch.randint(256, (1, sizes.model.context + 1), device=here.device))
    trained.step()
    state = [p.detach() for p in trained.model.parameters()] * 3  # weights and two moments of Adam
    size = sum(each.numel() * each.element_size() for each in state)
    hosts = [torch.empty(each.shape, dtype=each.dtype, pin_memory=gpu) for each in state]

    def copy() -> None:
        for source, target in zip(state, hosts, strict=True):
            target.copy_(source, non_blocking=True)

    room = Path(tempfile.mkdtemp(prefix="bench-", dir="runs"))
    saves = Checkpoints(room, keep=1, facts={}, ranks=here, say=lambda line: print(line, flush=True))
    stalls, copies = [], []
    try:
        for number in range(1, 5):
            copies.append(_seconds(copy, here.device))
            stalls.append(_seconds(partial(saves.save, number, trained), here.device))
            if not saves.finish():
                raise Mistake(f"gpu: {room.resolve()} does not take a checkpoint of {size / 1e9:.1f} GB")
    finally:
        saves.close()
        shutil.rmtree(room, ignore_errors=True)
    stall, bound = statistics.median(stalls[1:]), statistics.median(copies[1:])  # the first ones allocate
    what = "device to host, pinned" if gpu else "a copy in memory"
    return [Figure(f"checkpoint of {size / 1e9:.2g} GB: stall of the training", stall, "s", bound, what)]


def _seconds(way: Callable[[], Any], device: Any) -> float:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    way()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _median(way: Callable[[], Any], device: Any, rounds: int) -> float:
    """Of `rounds` calls, after three to warm up."""
    times = [_seconds(way, device) for _ in range(rounds + 3)]
    return statistics.median(times[3:])
