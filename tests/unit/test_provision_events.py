"""A preview says exactly what differs, from what to what, and who changed it."""

from types import SimpleNamespace
from typing import Any

import pytest

from infra.provision.docker.difference import machine_differences
from infra.provision.events import Report, differences, kind_of, plain

MACHINE = "pulumi-python:dynamic/slipway:Machine"
ASKED: dict[str, Any] = {
    "container": "slipway-x-c1",
    "hostname": "c1",
    "image": "slipway/machine:aaa",
    "mounts": [["volume", "slipway-x-shared", "/shared", "rw"]],
    "tmpfs": {"/run": ""},
    "privileged": True,
    "labels": {"slipway:cluster": "x"},
    "environment": {},
    "network": "slipway-x-network",
    "network_id": "n1",
    "connected": True,
    "cpuset": "0",
    "memory_mib": 4096.0,
    "authorized_key": "ssh-ed25519 AAAA",
    "state": "running",
}
THERE = ASKED | {"address": "10.0.0.10", "host_key": "ssh-ed25519 BBBB", "memory_mib": 4096}


def test_a_machine_that_is_as_asked_has_no_difference() -> None:
    assert machine_differences(THERE, ASKED) == []


@pytest.mark.parametrize(
    ("key", "there", "text", "replaces"),
    [
        ("memory_mib", 512, "memory 512 -> 4096 MiB", False),
        ("cpuset", "1", "cores 1 -> 0", False),
        ("state", "exited", "does not run (exited): is started again", False),
        ("state", "dead", "does not run (dead): is started again", True),
        ("connected", False, "was disconnected from its network", False),
        ("network_id", "gone", "its network is made anew", True),
        ("image", "slipway/machine-debian-12:bbb", "image machine-debian-12:bbb -> machine:aaa", True),
        ("labels", {"slipway:cluster": "y"}, "labels slipway:cluster: y -> x", True),
        ("environment", {"A": "1"}, "environment A: 1 -> none", True),
        ("mounts", [], "mounts none -> slipway-x-shared:/shared:rw", True),
        ("privileged", False, "privileged False -> True", True),
    ],
)
def test_each_property_that_can_change_outside_is_noticed(
    key: str, there: Any, text: str, replaces: bool
) -> None:
    found = machine_differences(THERE | {key: there}, ASKED)
    assert [(item.key, item.text, item.replaces) for item in found] == [(key, text, replaces)]


def test_a_limit_cannot_be_taken_away_in_place() -> None:
    assert machine_differences(THERE, ASKED | {"memory_mib": 0})[0].replaces


def event(op: str, *, old: Any = None, new: Any = None, name: str = "c1") -> Any:
    """An engine's event about one machine, as the Automation API hands it over."""
    step = SimpleNamespace(
        op=op,
        urn=f"urn:pulumi:x::slipway::{MACHINE}::{name}",
        type=MACHINE,
        old=old and SimpleNamespace(id=name, inputs=old[0], outputs=old[1]),
        new=new and SimpleNamespace(id=name, inputs=new, outputs={}),
        diffs=None,
        detailed_diff=None,
        keys=None,
    )
    return SimpleNamespace(
        diagnostic_event=None,
        resource_pre_event=SimpleNamespace(metadata=step),
        res_outputs_event=None,
        res_op_failed_event=None,
    )


def changes(*events: Any) -> list[tuple[str, str, str, str]]:
    report = Report("x", {})
    for each in events:
        report.event(each)
    return [(change.kind, change.name, change.what, change.reason) for change in report.changes()]


def test_a_change_of_the_cluster_file_is_told_from_one_made_outside() -> None:
    asked = ASKED | {"memory_mib": 8192}
    assert changes(event("update", old=(ASKED, THERE), new=asked)) == [
        ("change", "c1", "machine", "memory 4096 -> 8192 MiB")
    ]
    stopped = THERE | {"state": "exited"}
    assert changes(event("update", old=(ASKED, stopped), new=ASKED)) == [
        ("drift", "c1", "machine", "does not run (exited): is started again (changed outside)")
    ]


def test_a_replacement_is_one_change_with_its_reason() -> None:
    asked = ASKED | {"image": "slipway/machine-debian-12:bbb"}
    steps = [
        event(op, old=(ASKED, THERE), new=asked)
        for op in ("delete-replaced", "replace", "create-replacement")
    ]
    assert changes(*steps) == [
        ("replace", "c1", "machine", "image machine:aaa -> machine-debian-12:bbb: a new machine")
    ]


def test_what_refresh_misses_is_drift_and_what_is_new_is_not() -> None:
    missing = event("refresh", old=(ASKED, THERE))
    missing.res_outputs_event, missing.resource_pre_event = missing.resource_pre_event, None
    assert changes(missing, event("create", new=ASKED)) == [
        ("drift", "c1", "machine", "was removed outside: made again")
    ]
    assert changes(event("create", new=ASKED)) == [("make", "c1", "machine", "")]
    assert changes(event("delete", old=(ASKED, THERE))) == [("remove", "c1", "machine", "")]
    assert changes(event("same", old=(ASKED, THERE), new=ASKED)) == []


def test_a_clouds_resource_names_the_properties_that_differ() -> None:
    step = SimpleNamespace(
        type="aws:ec2/instance:Instance",
        old=SimpleNamespace(inputs={"instanceType": "a"}, outputs={"instanceType": "a"}),
        new=SimpleNamespace(inputs={"instanceType": "b"}, outputs={}),
        diffs=None,
        detailed_diff={"instanceType": object()},
        keys=None,
    )
    assert [item.text for item in differences(step)] == ["instance type a -> b"]
    assert kind_of(step.type) == "machine"
    assert kind_of("aws:ec2/securityGroup:SecurityGroup") == "security group"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("error: the stack is locked", "the stack is locked"),
        ("Traceback (most recent call last):\n  File x\nException: no room\n", "no room"),
        (
            'Exception calling application: 400 Client Error for http+docker://x: Bad Request ("bad mtu")',
            "bad mtu",
        ),
    ],
)
def test_an_error_is_one_line(message: str, line: str) -> None:
    assert plain(message) == line


def test_a_newer_image_of_the_same_system_replaces_no_machine() -> None:
    assert machine_differences(ASKED, ASKED | {"image": "slipway/machine:bbb"}) == []
