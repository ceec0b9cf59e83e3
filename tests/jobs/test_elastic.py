"""An elastic run: two nodes, one dies, one goes on alone, a new one comes; the global batch stays the same.

Two agents on this machine stand for two nodes, as each has a torchrun of its own.
"""

import os
import signal
import socket
import statistics
import time
from typing import Any

from jobs.telemetry import metrics
from jobs.tools import samples
from tests.jobs.conftest import Trainer

TESTED = {"real": ["training on one node"]}

STEPS = 20_000  # more than it comes to: it ends by SIGUSR2, once it has grown back


def attempts(trainer: Trainer) -> list[dict[str, Any]]:
    return metrics.read(trainer.folder / "attempts.jsonl")


def wait_for(trainer: Trainer, count: int, step: int, agent: Any) -> None:
    """Until start number `count` is past `step`."""
    end = time.monotonic() + 240
    while True:
        steps = metrics.read(trainer.folder / "metrics.jsonl")
        if len(attempts(trainer)) >= count and steps and steps[-1]["step"] > step:
            return
        assert agent.poll() is None, agent.communicate()[0]
        assert time.monotonic() < end, "waited for 240 s"
        time.sleep(0.2)


def until_it_listens(port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            assert time.monotonic() < end, "nobody listens after 60 s"
            time.sleep(0.1)


def test_it_goes_on_with_fewer_nodes_and_grows_back(trainer: Trainer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    launcher = [
        *("--nnodes=1:2", "--max-restarts=5", "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}"),
        "--rdzv-id=elastic",
        # A dead agent is given up after 3 s; a round of one node waits 5 s for a second one.
        "--rdzv-conf=last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3",
        "--local-addr=127.0.0.1",
    ]
    first = trainer.start(1, *launcher, train__steps=STEPS)
    until_it_listens(port)  # the node that all meet at must be the one that stays
    second = trainer.start(1, *launcher, train__steps=STEPS)
    agents = [first, second]
    try:
        wait_for(trainer, 1, 60, first)
        victims = [*trainer.workers(second), second.pid]
        for victim in victims:  # as when its node loses power
            os.kill(victim, signal.SIGKILL)
        second.communicate()
        wait_for(trainer, 2, attempts(trainer)[0]["resumed_from"] + 100, first)

        third = trainer.start(1, *launcher, train__steps=STEPS)
        agents.append(third)
        wait_for(trainer, 3, 150, first)
        reached = len(metrics.read(trainer.folder / "metrics.jsonl"))
        wait_for(trainer, 3, reached + 50, first)
        for agent in (first, third):
            os.kill(agent.pid, signal.SIGUSR2)
        output, _ = first.communicate(timeout=120)
        third.communicate(timeout=120)
    finally:
        for agent in agents:
            for worker in trainer.workers(agent):
                os.kill(worker, signal.SIGKILL)
            agent.kill()
    assert (first.returncode, third.returncode) == (0, 0), output
    assert [line["world_size"] for line in attempts(trainer)] == [2, 1, 2]

    # The first node's own worker was told to end for the third: nothing was computed twice for that.
    assert attempts(trainer)[2]["waterfall"]["again"] == 0
    assert "on 2, then 1, then 2 ranks: none lost, none repeated" in samples.prove(trainer.folder)
    losses = trainer.losses()
    for start in attempts(trainer)[1:]:  # the batch is the same for any number of nodes, so the loss goes on
        at = start["resumed_from"]
        assert statistics.mean(losses[at : at + 20]) < statistics.mean(losses[max(0, at - 20) : at]) + 0.3
