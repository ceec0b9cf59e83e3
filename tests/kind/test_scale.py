"""Kubernetes: fifty jobs wait for a hundred nodes that kwok plays; they are admitted in order, and each is whole."""

import time
from collections.abc import Callable, Sequence

import pytest

from infra.base.progress import Step
from infra.bench import fake, scale
from infra.bench.watch import Event, watching
from infra.places.kind.objects import PODS, WORKLOADS
from tests.kind.conftest import Trial, until

TESTED = {"real": ["Kubernetes"]}

pytestmark = pytest.mark.more
NODES, JOBS, AT_ONCE = 100, 50, 10
Seen = Callable[[Sequence[Event]], list[scale.Admission]]
OF_A_JOB = fake.PODS * fake.GPUS


def test_jobs_are_admitted_by_priority_then_by_time_and_whole(kind: Trial) -> None:
    """The queue may use more and more, always by half a job more than what it can give."""
    here = kind.kind
    with (
        fake.played(here, NODES, Step("", None)) as cluster,
        watching(here, WORKLOADS, fake.NAME) as workloads,
        watching(here, PODS, fake.NAME) as pods,
    ):

        def wait_for(count: int, seen: Seen) -> None:
            until(f"{count} jobs", lambda: len(seen(workloads.events())) >= count)

        fake.allow(here, cluster, OF_A_JOB // 2)
        for first in range(0, JOBS, AT_ONCE):
            fake.create(here, fake.jobs(first, first + AT_ONCE))
            wait_for(first + AT_ONCE, scale.admissions)
            time.sleep(1.1)  # what came within one second has no order
        assert scale.admitted(workloads.events()) == []

        expected: set[str] = set()
        for group in groups():
            expected |= group
            fake.allow(here, cluster, len(expected) * OF_A_JOB + OF_A_JOB // 2)
            wait_for(len(expected), scale.admitted)
            assert {each.job for each in scale.admitted(workloads.events())} == expected
        until("their pods", lambda: len(scale.running(pods.events())) == JOBS * fake.PODS, timeout_s=300)
        assert scale.wrongs(workloads.events(), pods.events()) == []


def groups() -> list[set[str]]:
    """The jobs in the right order; those of one priority that came together are one group."""
    names = [each["metadata"] for each in fake.jobs(0, JOBS)]
    found: dict[tuple[int, int], set[str]] = {}
    for number, each in enumerate(names):
        priority = fake.PRIORITIES.index(each["labels"]["kueue.x-k8s.io/priority-class"])
        found.setdefault((-priority, number // AT_ONCE), set()).add(each["name"])
    return [found[key] for key in sorted(found)]
