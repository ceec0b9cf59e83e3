"""Time that ranks spend on exchange and on nothing else: intervals, without torch."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.telemetry.exchange import EVERY, Exchange, merged, uncovered, waiting_s

intervals = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: (min(ends), max(ends)))
)


@given(intervals, intervals)
def test_what_is_not_covered_is_counted_point_by_point(
    these: list[tuple[int, int]], by: list[tuple[int, int]]
) -> None:
    def inside(at: float, among: list[tuple[int, int]]) -> bool:
        return any(begin < at < end for begin, end in among)

    middles = [each + 0.5 for each in range(30)]
    assert uncovered(these, by) == sum(inside(at, these) and not inside(at, by) for at in middles)


def test_intervals_that_touch_are_one() -> None:
    assert merged([(3, 4), (1, 2), (2, 3), (6, 7)]) == [(1, 4), (6, 7)]


def event(name: str, start: float, end: float, device: str = "DeviceType.CPU") -> Any:
    return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start, end=end), device_type=device)


def test_on_cpu_operators_hide_what_is_on_its_way() -> None:
    events = [
        event("gloo:all_reduce", 0, 4e6),
        event("aten::mm", 1e6, 2e6),
        event("c10d::allreduce_", 0, 9e6),
        event("autograd::engine", 0, 9e6),
    ]
    assert waiting_s(events) == 3


def test_on_a_gpu_kernels_hide_it_and_operators_that_only_launch_them_do_not() -> None:
    events = [
        event("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", 0, 4e6, "DeviceType.CUDA"),
        event("sm90_xmma_gemm", 1e6, 2e6, "DeviceType.CUDA"),
        event("aten::mm", 0, 4e6),
    ]
    # The collective's own kernel computes nothing.
    assert waiting_s(events) == 3


class Reducer:
    """DDP's own times: half a second on its way, of which three tenths hide."""

    def _set_ddp_runtime_logging_sample_rate(self, steps: int) -> None:
        self.rate = steps

    def _get_ddp_logging_data(self) -> dict[str, str]:
        return {"backward_comm_time": "500000000", "backward_compute_comm_overlap_time": "300000000"}


def test_ddp_s_sample_is_a_share_of_the_step_that_it_is_of() -> None:
    ddp = Reducer()
    exchange = Exchange(ddp, ranks=2)
    assert ddp.rate == EVERY
    shares = []
    for step in range(1, 2 * EVERY + 2):
        exchange.begin()
        shares.append(exchange.end(2.0 if step % EVERY == 0 else 1.0))
    measured = {number: share for number, share in enumerate(shares, 1) if share is not None}
    assert measured == {EVERY + 1: pytest.approx(0.1), 2 * EVERY + 1: pytest.approx(0.1)}


@pytest.mark.parametrize(("ddp", "ranks"), [(None, 2), (Reducer(), 1)])
def test_what_is_not_measured_is_not_zero(ddp: Any, ranks: int) -> None:
    exchange = Exchange(ddp, ranks)
    for _ in range(2 * EVERY):
        exchange.begin()
        assert exchange.end(1.0) is None
