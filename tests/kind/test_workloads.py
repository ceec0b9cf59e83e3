"""The other jobs of k8s/ in pods: collectives that are measured, and a parameter server that trains."""

import json

import pytest

from tests.kind.conftest import Trial
from tests.training import history

pytestmark = pytest.mark.more
TESTED = {"real": ["Kubernetes", "training on two nodes"]}


def test_collectives_are_measured_beside_the_link_between_the_pods(kind: Trial) -> None:
    run = kind.finish(kind.apply("measures", "--sweep.sizes=64KiB,1MiB", like="k8s/collectives.yaml"))
    found = json.loads((run.folder / "collectives.json").read_text())
    assert (found["ranks"], len(set(found["hosts"]))) == (2, 2)
    assert found["links_gb_per_s"], "the link was measured in the same run"
    measured = {(each["operation"], each["bytes"]) for each in found["results"]}
    assert len(measured) == len(found["results"]) == 2 * len(found["factors"])
    assert all(each["seconds"] > 0 and each["link_gb_per_s"] for each in found["results"])


def test_a_parameter_server_trains_with_workers_in_both_pods(kind: Trial) -> None:
    run = kind.finish(kind.apply("serves", "--train.steps=20", like="k8s/paramserver.yaml"))
    steps, losses = zip(*history(run), strict=True)
    assert list(steps) == list(range(1, 21))
    assert losses[-1] < losses[0]
    assert run.summary["state"] == "completed"
