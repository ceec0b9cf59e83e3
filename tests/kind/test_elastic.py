"""Kubernetes: an elastic job goes on with the pods that are left, and grows back when there is room again."""

from collections.abc import Iterator

import pytest

from tests.kind.conftest import TEAM, Trial, until
from tests.training import at_step, history

TESTED = {"real": ["Kubernetes", "training on two nodes"]}

pytestmark = pytest.mark.more
STEPS = 300


@pytest.fixture
def cordoned(kind: Trial) -> Iterator[None]:
    """Nodes take no new pod; afterwards they do again."""
    yield
    kind.ok(f"kubectl uncordon {' '.join(kind.kind.workers.values())}")


def test_it_goes_on_with_fewer_pods_and_grows_back(kind: Trial, cordoned: None) -> None:
    def most() -> int:
        return max([line["step"] for line in run.metrics()], default=0)

    run = kind.apply(
        "elastic",
        f"--train.steps={STEPS}",
        "--checkpoint.every=20",
        like="k8s/pytorchjob-elastic.yaml",
    )
    until("step 30", at_step(run, 30))
    kind.ok(f"kubectl cordon {' '.join(kind.kind.workers.values())}")
    kind.ok(f"kubectl -n {TEAM} delete pod elastic-worker-1 --grace-period=0 --force")
    until("a start with one pod", lambda: run.attempts()[-1]["world_size"] == 1, timeout_s=180)
    alone = run.attempts()[-1]
    until("it to go on", lambda: most() > alone["resumed_from"] + 5)
    kind.ok(f"kubectl uncordon {' '.join(kind.kind.workers.values())}")
    until("a start with two pods", lambda: run.attempts()[-1]["world_size"] == 2, timeout_s=240)
    kind.finish(run, timeout_s=900)
    assert [step for step, _ in history(run)] == list(range(1, STEPS + 1))  # none lost, none twice
    assert alone["resumed_from"] >= 20, "it began again at a checkpoint"
    assert run.summary["world_size"] == 2
