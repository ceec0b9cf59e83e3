"""How long a step waits for gradients and weights of other ranks: `allreduce_share` in metrics.jsonl.

The share of a step in which something is on its way and nothing is computed: what hides behind the backward pass
costs nothing and is not counted. Two ways to measure it, neither in every step:

DDP       its reducer takes the times anyway. Every EVERY steps the last sample is read: 0.1 ms, nothing is slowed.
profile   any mesh, with run.profile_every=N: every N-th step runs under torch.profiler, which makes that one
          slower (0.1 s for a small model): collectives' intervals (gloo's threads, NCCL's kernels) less those in
          which operators (on CPU) or kernels (on GPU) compute.

Steps that were not measured have null, and so has a run on one rank.
"""

from collections.abc import Iterable
from typing import Any

EVERY = 10  # steps between two readings of DDP's own times


def uncovered(these: Iterable[tuple[float, float]], by: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (begin, end) that lies in none of the others."""
    cover, total, at = merged(by), 0.0, 0
    for begin, end in merged(these):
        while at < len(cover) and cover[at][1] <= begin:
            at += 1
        inside, here = begin, at
        while here < len(cover) and cover[here][0] < end:
            total += max(0.0, cover[here][0] - inside)
            inside = max(inside, cover[here][1])
            here += 1
        total += max(0.0, end - inside)
    return total


def merged(intervals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The same points in order, in intervals that do not touch."""
    found: list[tuple[float, float]] = []
    for begin, end in sorted(intervals):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found


class Exchange:
    """`begin` before and `end` after each step of this process."""

    def __init__(self, ddp: Any, ranks: int, profile_every: int = 0) -> None:
        """ddp: the DistributedDataParallel that trains, None where the mesh has none."""
        self._ddp = ddp if ranks > 1 and not profile_every else None
        self._profile_every = profile_every if ranks > 1 else 0
        self._profiler: Any = None
        self._steps, self._before_s = 0, 0.0
        if self._ddp is not None:
            self._ddp._set_ddp_runtime_logging_sample_rate(EVERY)

    def begin(self) -> None:
        self._steps += 1
        if self._profile_every and self._steps % self._profile_every == 0:
            from torch.profiler import ProfilerActivity, profile

            self._profiler = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
            self._profiler.__enter__()

    def end(self, step_s: float) -> float | None:
        """The share, None where it was not measured. step_s: seconds of this step. DDP's is that of the step before."""
        if self._profiler is not None:
            profiler, self._profiler = self._profiler, None
            profiler.__exit__(None, None, None)
            return min(1.0, waiting_s(profiler.events()) / step_s)
        share = None
        if self._ddp is not None and self._steps > 1 and self._steps % EVERY == 1:
            # DDP takes over the sample of every tenth step when the next one begins.
            found = self._ddp._get_ddp_logging_data()
            exposed = int(found["backward_comm_time"]) - int(found["backward_compute_comm_overlap_time"])
            share = min(1.0, max(0.0, exposed / 1e9 / self._before_s))
        self._before_s = step_s
        return share


def waiting_s(events: Iterable[Any]) -> float:
    """Seconds in a profile in which a collective was on its way and nothing was computed."""
    exchange, operators, kernels = [], [], []
    for event in events:
        span = (float(event.time_range.start), float(event.time_range.end))
        if event.name.startswith(("gloo:", "nccl")) and "c10d" not in event.name:
            exchange.append(span)
        elif str(event.device_type).endswith("CUDA"):
            kernels.append(span)
        elif event.name.startswith("aten::"):
            operators.append(span)
    return uncovered(exchange, kernels or operators) / 1e6
