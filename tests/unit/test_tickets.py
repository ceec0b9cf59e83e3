"""A parameter server's tickets: no worker is ever too far ahead, and every part is computed exactly once."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.cli.errors import Mistake
from jobs.paramserver import config
from jobs.paramserver.tickets import Ticket, Tickets

STEPS = 6


@given(
    workers=st.integers(1, 5),
    parts=st.integers(1, 4),
    staleness=st.integers(-1, 3),
    stop=st.integers(1, STEPS),
    deaths=st.floats(0, 0.4),
    seed=st.integers(0, 2**32),
)
def test_workers_are_never_further_apart_than_the_bound_and_nothing_is_lost(
    workers: int, parts: int, staleness: int, stop: int, deaths: float, seed: int
) -> None:
    """Whoever is fast, slow or dies (and is replaced): checked after every event of a random course."""
    chance = random.Random(seed)
    tickets = Tickets(0, stop, parts, staleness)
    updates = 0
    counted: list[Ticket] = []
    began: dict[str, int] = {}
    whole: list[int] = []
    while len(counted) < STEPS * parts:
        worker = f"worker {chance.randrange(workers)}"
        if worker in tickets.out:
            if chance.random() < deaths:
                assert tickets.lost(worker)
            else:
                counted.append(tickets.out[worker])
                age = updates - began[worker]
                if staleness >= 0:  # of other parts, no more than those of the steps that it may overlap with
                    assert age <= (2 * staleness + 1) * parts - 1
                updates += 1
                whole += tickets.done(worker)
        elif ticket := tickets.take(worker):
            began[worker] = updates
            assert ticket.step < tickets.last
        elif not tickets.out and tickets.oldest == tickets.last:  # a checkpoint's place: all is whole
            assert len(counted) == tickets.last * parts
            tickets.extend(min(STEPS, tickets.last + stop))
        steps = [each.step for each in tickets.out.values()]
        assert tickets.lead == (max(steps) - min(steps) if steps else 0)
        if staleness >= 0:
            assert tickets.lead <= staleness
    assert sorted((each.step, each.part) for each in counted) == [
        (s, p) for s in range(STEPS) for p in range(parts)
    ]
    assert whole == list(range(STEPS))
    assert tickets.take("anybody") is None


def test_without_a_bound_a_slow_worker_holds_up_nobody() -> None:
    tickets = Tickets(0, 100, parts=2, staleness=-1)
    slow = tickets.take("slow")
    for _ in range(199):
        tickets.take("fast")
        assert tickets.done("fast") == []
    assert (tickets.take("fast"), tickets.oldest, tickets.newest) == (None, 0, 100)
    assert slow and slow.step == 0
    assert tickets.done("slow") == list(range(100))


def test_what_a_dead_worker_had_is_the_next_to_be_given_out() -> None:
    tickets = Tickets(3, 10, parts=2, staleness=0)
    had = tickets.take("a")
    tickets.take("b")
    assert tickets.take("c") is None
    assert tickets.lost("a") == had
    assert tickets.lost("a") is None
    assert tickets.take("c") == had


def test_a_stop_comes_after_what_was_begun() -> None:
    tickets = Tickets(0, 100, parts=2, staleness=-1)
    for worker in "abc":
        tickets.take(worker)
    tickets.extend(0)
    assert tickets.last == 2  # the second part of step 1 is given out still
    assert tickets.take("d") and not tickets.take("e")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--mesh.tensor=2", "mesh.tensor: 2 does nothing with a parameter server; leave it out"),
        ("--run.heartbeat_s=1", "run.heartbeat_s: 1.0 does nothing with a parameter server"),
        ("--compute.precision=fp16", "compute.precision: fp16 needs one scale for all gradients"),
        ("--checkpoint.every=auto", "checkpoint.every: auto is not for a parameter server"),
        ("--server.parts=3", "server.parts: 32 sequences of train.batch do not split evenly into 3"),
        ("--server.staleness=-2", "--server.staleness: -2 is too small; the least is -1"),
        ("--server.address=here", "server.address: 'here' is not HOST:PORT, such as gpu-1:41234"),
        ("--model.heads=5", "model.heads: 5 heads do not split"),
    ],
)
def test_an_option_that_would_do_nothing_or_harm_is_a_mistake(argument: str, said: str) -> None:
    with pytest.raises(Mistake) as caught:
        config.load([argument])
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


def test_the_shipped_configuration_is_that_of_the_other_job_and_a_server() -> None:
    from dataclasses import asdict

    from infra.base.paths import CHECKOUT
    from jobs.config import load

    mine = asdict(config.load([f"--config={CHECKOUT}/jobs/paramserver.yaml"]))
    mine.pop("server")
    assert mine == asdict(load([f"--config={CHECKOUT}/jobs/ddp.yaml"]))
