"""Pulumi on this host's Docker: machines are made, looked at, put right and removed, whatever happens meanwhile.

Everything is real: the engine, its state, the containers. The cluster has a name and a network of its own.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.base import lock
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT, build
from infra.base.process import output
from infra.base.progress import Step
from infra.model.load import load_cluster
from infra.provision.events import Change
from infra.provision.provisioner import Outputs, Provisioner

TESTED = {"real": ["place docker", "shared disk: a volume"]}

NAME = "prov"
CLUSTER: dict[str, Any] = {
    "name": NAME,
    "description": "machines of the provisioning tests",
    "place": "docker",
    "schedulers": ["slurm"],
    "services": {
        "hardware": "cpu-epyc-2s",
        "controller": "ctl",
        "accounting": "ctl",
        "database": "ctl",
        "login": "ctl",
    },
    "machines": {"cidr": "10.79.0.0/24"},
    "pools": {"gpu": {"hardware": "h100-sxm-8x", "count": 2, "nodes": "c[1-2]", "partition": "gpu"}},
    "partitions": {"gpu": {"default": True}},
    "qos": {"normal": {"priority": 100}},
    "accounts": {"research": {"description": "Research", "qos": ["normal"]}},
    "users": {"ml": {"accounts": ["research"]}},
}
FILE = CHECKOUT / "build" / f"{NAME}.yaml"
EVERYTHING = f"label=slipway:cluster={NAME}"


def provisioner(**pool: Any) -> Provisioner:
    """Pulumi for the cluster file as it is, or with some keys of its pool and machines changed."""
    machines = {key: pool.pop(key) for key in ("image", "backend") if key in pool}
    data = CLUSTER | {"pools": {"gpu": CLUSTER["pools"]["gpu"] | pool}}
    data["machines"] = CLUSTER["machines"] | machines
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(json.dumps(data))
    return Provisioner(load_cluster(FILE))


def up(**pool: Any) -> tuple[Outputs, str]:
    """What was made, and what the step's line says."""
    step = Step("machines", None)
    return provisioner(**pool).up(step), step.text


def said(changes: list[Change]) -> dict[str, tuple[str, str]]:
    return {change.name: (change.kind, change.reason) for change in changes}


def container(name: str) -> str:
    return f"slipway-{NAME}-{name}"


def ids() -> dict[str, str]:
    """Every container of the cluster, running or not, with its id."""
    listed = output(["docker", "ps", "-a", "--filter", EVERYTHING, "--format", "{{.Names}} {{.ID}}"])
    return dict(line.split() for line in listed.splitlines())


def started(name: str) -> str:
    return output(["docker", "inspect", "--format", "{{.State.StartedAt}}", container(name)])


def ssh(entry: dict[str, Any], *words: str) -> str:
    """Log in as Ansible does: with the cluster's key, to a host whose key was known before."""
    known = build(NAME) / "known_hosts"
    known.write_text(f"{entry['address']} {entry['host_key']}\n")
    options = ["UserKnownHostsFile=" + str(known), "StrictHostKeyChecking=yes", "IdentitiesOnly=yes"]
    flags = [word for option in options for word in ("-o", option)]
    key = build(NAME) / "secrets/admin"
    return output(["ssh", *flags, "-i", key, f"admin@{entry['address']}", *words])


def remove() -> None:
    if (build(NAME) / "state").exists():
        provisioner().destroy(Step("machines", None))
    output(["rm", "-rf", build(NAME), FILE])


@pytest.fixture(scope="module", autouse=True)
def nothing_stays() -> Iterator[None]:
    remove()
    yield
    remove()


@pytest.fixture
def made() -> Outputs:
    """The cluster as its file says, however the test before has left it."""
    return up()[0]


def test_machines_are_made_and_can_be_logged_in_to() -> None:
    assert said(provisioner().preview()) == dict.fromkeys(
        ("network", "shared", "ctl", "c1", "c2"), ("make", "")
    )
    first, text = up()
    assert [entry["name"] for entry in first.machines] == ["ctl", "c1", "c2"]
    assert sorted(re.findall(r"\bc\w+", text)) == ["c1", "c2", "ctl"]
    for entry in first.machines:
        assert re.fullmatch(r"10\.79\.0\.\d+", entry["address"])
        assert entry["host_key"].startswith("ssh-ed25519 AAAA")
        assert ssh(entry, "sudo -n hostname") == entry["name"]
    assert ssh(first.machines[0], "getent hosts c1").split()[0] == first.machines[1]["address"]
    assert ssh(first.machines[0], "sudo touch /shared/x && ls /shared") == "x"
    assert first.storage == {"kind": "volume", "source": f"slipway-{NAME}-shared", "options": None}


def test_an_unchanged_cluster_has_no_change_every_time(made: Outputs) -> None:
    before = ids()
    for _ in range(2):
        assert provisioner().preview() == []
    again, text = up()
    assert (again, text) == (made, "unchanged")
    assert ids() == before
    assert provisioner().outputs() == made


def test_no_secret_is_in_the_state_or_in_a_process_list(made: Outputs) -> None:
    passphrase = (build(NAME) / "secrets/pulumi-passphrase").read_text().strip()
    assert len(passphrase) > 30
    assert (build(NAME) / "secrets").stat().st_mode & 0o77 == 0
    private = (build(NAME) / "secrets/admin").read_text().splitlines()[1]
    seen, ended = set(), threading.Event()

    def watch() -> None:
        while not ended.is_set():
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(path.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    provisioner().preview()
    ended.set()
    watcher.join()
    assert any(b"pulumi" in line for line in seen), "the engine was not seen: the check can see nothing"
    files = [path for path in build(NAME).rglob("*") if path.is_file() and "secrets" not in path.parts]
    assert any("checkpoint" in path.read_text(errors="replace") for path in files)
    for secret in (passphrase, private):
        assert not [path for path in files if secret in path.read_text(errors="replace")]
        assert not [line for line in seen if secret.encode() in line]


def test_a_machine_asked_for_anew_is_another_one_and_no_other_is_touched(made: Outputs) -> None:
    before = ids()
    outputs = provisioner().up(Step("machines", None), anew="c2")
    after = ids()
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {container("c2")}
    assert len(outputs.machines) == len(made.machines)
    assert output(["docker", "inspect", "-f", "{{.State.Running}}", container("c2")]) == "true"
    assert provisioner().preview() == []


def test_what_was_done_outside_is_seen_and_put_right_and_nothing_else_is_touched(made: Outputs) -> None:
    before, since = ids(), started("ctl")
    output(["docker", "kill", container("c1")])
    output(["docker", "update", "--memory", "512m", "--memory-swap", "512m", container("c1")])
    output(["docker", "rm", "--force", container("c2")])
    outside = " (changed outside)"
    assert said(provisioner().preview()) == {
        "c1": ("drift", "memory 512 -> 4416 MiB, does not run (exited): is started again" + outside),
        "c2": ("drift", "was removed outside: made again"),
    }
    after, text = up()
    assert text in ("put right c1 c2", "put right c2 c1")
    assert ids()[container("c1")] == before[container("c1")]
    assert ids()[container("c2")] != before[container("c2")]
    assert started("ctl") == since
    keys = {entry["name"]: entry["host_key"] for entry in made.machines}
    for entry in after.machines:
        assert ssh(entry, "hostname") == entry["name"]
        assert (entry["host_key"] == keys[entry["name"]]) == (entry["name"] != "c2")
    assert provisioner().preview() == []


def test_a_machine_off_its_network_is_connected_again(made: Outputs) -> None:
    output(["docker", "network", "disconnect", f"slipway-{NAME}-network", container("c1")])
    changes = said(provisioner().preview())
    assert changes == {"c1": ("drift", "was disconnected from its network (changed outside)")}
    assert up()[0] == made  # the same machine under the same address
    assert ssh(made.machines[1], "hostname") == "c1"


def test_a_container_that_someone_made_anew_by_hand_is_replaced(made: Outputs) -> None:
    image = output(["docker", "inspect", "--format", "{{.Config.Image}}", container("c1")])
    output(["docker", "rm", "--force", container("c1")])
    label = f"slipway:cluster={NAME}"
    output(["docker", "create", "--name", container("c1"), "--label", label, image])
    kind, reason = said(provisioner().preview())["c1"]
    assert kind == "drift"
    assert "privileged False -> True" in reason and reason.endswith(": a new machine (changed outside)")
    up()
    assert provisioner().preview() == []


def test_memory_and_cores_change_in_place(made: Outputs) -> None:
    before, since = ids(), started("c1")
    changes = provisioner(lab_memory_gib=2).preview()
    assert said(changes) == dict.fromkeys(("c1", "c2"), ("change", "memory 4416 -> 2368 MiB"))
    assert {change.hardware for change in changes} == {"h100-sxm-8x"}
    assert up(lab_memory_gib=2)[1] in ("changed c1 c2", "changed c2 c1")
    assert (ids(), started("c1")) == (before, since)
    limit = output(["docker", "inspect", "--format", "{{.HostConfig.Memory}}", container("c1")])
    assert int(limit) == 2368 << 20


def test_a_pool_grows_and_shrinks_by_its_number(made: Outputs) -> None:
    before = ids()
    three: dict[str, Any] = {"count": 3, "nodes": "c[1-3]"}
    (change,) = provisioner(**three).preview()
    assert (change.kind, change.name, change.what, change.hardware) == (
        "make",
        "c3",
        "machine",
        "h100-sxm-8x",
    )
    assert up(**three)[1] == "made c3"
    (change,) = provisioner().preview()
    assert (change.kind, change.name, change.usd_per_hour) == ("remove", "c3", 55.04)
    assert up()[1] == "removed c3"
    assert ids() == before


def test_another_image_takes_a_new_machine_and_says_so(made: Outputs) -> None:
    changes = said(provisioner(image="debian-12").preview())
    assert changes.keys() == {"ctl", "c1", "c2"}
    for kind, reason in changes.values():
        assert kind == "replace"
        assert re.fullmatch(r"image machine:\w+ -> machine-debian-12:\w+: a new machine", reason)
    after, text = up(image="debian-12")
    assert text.startswith("replaced ")
    assert ssh(after.machines[1], ". /etc/os-release; echo $VERSION_ID") == "12"
    assert provisioner(image="debian-12").preview() == []


def test_a_second_run_at_the_same_time_is_told_whose_the_first_is(made: Outputs) -> None:
    with lock.held(build(NAME) / "provision.lock", NAME):
        for run in (lambda: provisioner().preview(), up):
            with pytest.raises(
                Failure, match=rf"{lock.person()} \(pid {os.getpid()} on .*\) since 20"
            ) as refused:
                run()
            assert "\n" not in str(refused.value)


def test_a_name_that_is_someone_elses_is_never_touched(made: Outputs) -> None:
    image = output(["docker", "inspect", "--format", "{{.Config.Image}}", container("c1")])
    output(["docker", "create", "--name", container("c3"), image])
    try:
        with pytest.raises(
            Failure, match=f"c3: container {container('c3')} is there already and is not this"
        ):
            up(count=3, nodes="c[1-3]")
        assert output(["docker", "inspect", "--format", "{{.State.Status}}", container("c3")]) == "created"
    finally:
        output(["docker", "rm", container("c3")])


def test_a_state_that_was_encrypted_otherwise_is_not_touched(made: Outputs) -> None:
    file = build(NAME) / "secrets/pulumi-passphrase"
    right = file.read_text()
    file.write_text("another\n")
    try:
        with pytest.raises(
            Failure, match=f"{file} is not the passphrase that this cluster's state"
        ) as refused:
            up()
        assert "\n" not in str(refused.value)
    finally:
        file.write_text(right)
    assert up() == (made, "unchanged")


def test_the_state_can_be_kept_elsewhere(tmp_path: Path) -> None:
    """Any backend of Pulumi's; here one that is a folder and is treated as any other."""
    remove()
    elsewhere: dict[str, Any] = {"backend": f"file://{tmp_path}", "count": 1, "nodes": "c1"}
    first, text = up(**elsewhere)
    assert text.startswith("made ") and list(tmp_path.rglob(f"{NAME}.json"))
    assert not (build(NAME) / "state").exists()
    assert provisioner(**elsewhere).preview() == []
    assert provisioner(**elsewhere).outputs() == first
    provisioner(**elsewhere).destroy(Step("machines", None))
    assert ids() == {}
    assert provisioner(**elsewhere).outputs() is None


UP = """
import sys
from infra.model.load import load_cluster
from infra.base.progress import Step
from infra.provision.provisioner import Provisioner
Provisioner(load_cluster(sys.argv[1])).up(Step("machines", None))
"""


@pytest.mark.parametrize(("victim", "moment"), [("command", "running"), ("everything", "created")])
def test_an_interrupted_run_goes_on_and_nothing_is_there_twice(victim: str, moment: str) -> None:
    """kill -9 of the command alone, whose engine then ends by itself; and of the engine with it."""
    provisioner().destroy(Step("machines", None))
    provisioner()
    run = subprocess.Popen(
        [sys.executable, "-c", UP, str(FILE)],
        cwd=CHECKOUT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    what = ["docker", "ps", "--filter", EVERYTHING, "-q", *(["-a"] if moment == "created" else [])]
    while not output(what):
        assert run.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.01)
    (os.killpg if victim == "everything" else os.kill)(run.pid, signal.SIGKILL)
    run.wait()
    after, _ = up()
    assert sorted(ids()) == [container(name) for name in ("c1", "c2", "ctl")]
    assert len({entry["address"] for entry in after.machines}) == 3
    for entry in after.machines:
        assert ssh(entry, "hostname") == entry["name"]
    assert provisioner().preview() == []
    networks = output(["docker", "network", "ls", "--filter", EVERYTHING, "-q"]).split()
    assert len(networks) == 1


def test_destroy_leaves_nothing(made: Outputs) -> None:
    step = Step("machines", None)
    provisioner().destroy(step)
    assert sorted(step.text.removeprefix("removed ").split()) == ["c1", "c2", "ctl"]
    assert ids() == {}
    for kind in ("volume", "network"):
        assert output(["docker", kind, "ls", "--filter", EVERYTHING, "-q"]) == ""
    assert provisioner().outputs() is None
    again = Step("machines", None)
    provisioner().destroy(again)
    assert again.text == "no machines" and not again.changed
