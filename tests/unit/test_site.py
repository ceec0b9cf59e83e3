"""What is decided about machines without one: what drifted, what Slurm runs with, how SSH is told of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.base.paths import CHECKOUT
from infra.model.load import load_cluster
from infra.places.site import copy, play, slurmconf, ssh
from infra.places.site.applied import Applied, _digest
from infra.places.site.plan import Item, Plan, Sums, explain, natural
from infra.places.site.play import Played, Result
from infra.places.site.site import Site, remote
from infra.render import render
from tests.checkout import LAPTOP

SITE = load_cluster(CHECKOUT / "clusters/site.yaml", host=LAPTOP)


def made(tmp_path: Path, **more: Any) -> Site:
    """The shipped cluster as if Pulumi had just made its machines, in a folder of the test's."""
    site = Site(SITE)
    object.__setattr__(site, "folder", tmp_path)
    machines = [
        {
            "name": name,
            "group": "services",
            "parts": ["compute"],
            "address": f"10.77.0.{number}",
            "host_key": f"ssh-ed25519 AAAA{number}",
            "id": name,
            "hardware": "lab-cpu",
            "usd_per_hour": 1.5,
            "watts": 100.0,
        }
        for number, name in enumerate(["controller", "gpu-1"], 2)
    ]
    site.file.write_text(json.dumps({"machines": machines, "storage": {}, "bastion": None} | more))
    return site


def test_ssh_knows_every_machine_and_its_key_before_the_first_connection(tmp_path: Path) -> None:
    site = made(tmp_path)
    ssh.write(site)
    config = site.ssh_config.read_text()
    assert "Host gpu-1\n  HostName 10.77.0.3\n" in config
    assert "StrictHostKeyChecking yes" in config and "ProxyJump" not in config
    known = (tmp_path / "ssh/known_hosts").read_text().splitlines()
    assert known == ["controller,10.77.0.2 ssh-ed25519 AAAA2", "gpu-1,10.77.0.3 ssh-ed25519 AAAA3"]
    assert site.ssh_config.stat().st_mode & 0o777 == 0o600


def test_a_machine_that_went_is_not_in_ssh_any_more(tmp_path: Path) -> None:
    ssh.write(made(tmp_path))
    site = made(tmp_path, machines=[])
    ssh.write(site)
    assert "gpu-1" not in site.ssh_config.read_text() + (tmp_path / "ssh/known_hosts").read_text()


def test_a_clouds_machines_are_reached_through_its_bastion(tmp_path: Path) -> None:
    way = {"address": "192.0.2.1", "host_key": "ssh-ed25519 BBBB", "command": "tunnel %h %p"}
    site = made(tmp_path, bastion=way)
    ssh.write(site)
    config = site.ssh_config.read_text()
    assert "Host bastion\n  HostName 192.0.2.1\n  ProxyJump none\n  ProxyCommand tunnel %h %p\n" in config
    assert config.rstrip().endswith("ProxyJump bastion")
    assert "bastion,192.0.2.1 ssh-ed25519 BBBB" in (tmp_path / "ssh/known_hosts").read_text()


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1), min_size=1))
def test_words_reach_the_command_on_the_machine_as_they_are(words: list[str]) -> None:
    import shlex

    outer = shlex.split(remote(["printf", *words], "ml", None))
    assert outer[:9] == ["sudo", "-n", "-H", "-u", "ml", "--", "sh", "-c", outer[8]][:9]
    assert shlex.split(outer[-1]) == ["printf", *words]


def event(kind: str, task: str, **results: dict[str, Any]) -> dict[str, Any]:
    return {
        "_event": kind,
        "_timestamp": "2026-01-01T10:00:00Z",
        "task": {"name": task},
        "hosts": {host.replace("_", "-"): result for host, result in results.items()},
    }


def test_a_machine_that_fails_is_named_with_its_first_reason_and_the_others_go_on() -> None:
    played = Played()
    for one in (
        event(
            "v2_runner_on_ok", "ssh : Set it", gpu_1={"changed": True, "diff": {"before": "a", "after": "b"}}
        ),
        event("v2_runner_on_failed", "time : Install", gpu_2={"msg": "no space left\nmore"}),
        event("v2_runner_on_unreachable", "ssh : Set it", gpu_3={"msg": "Connection refused"}),
        event("v2_runner_on_failed", "late", gpu_2={"msg": "second"}),
    ):
        play._take(one, played, None)
    assert played.broken == {
        "gpu-2": "time : Install: no space left",
        "gpu-3": "unreachable: Connection refused",
    }
    assert [(r.host, r.task) for r in played.changed] == [("gpu-1", "ssh : Set it")]
    assert played.hosts == {"gpu-1", "gpu-2", "gpu-3"}


def test_a_failed_command_is_told_by_what_it_said() -> None:
    result = {"msg": "non-zero return code", "stderr": "line\nslurmd: bad key\n"}
    assert play._message(result) == "slurmd: bad key"
    assert (
        play._message({"msg": "All items completed", "results": [{"failed": True, "msg": "b: no"}]})
        == "b: no"
    )


EDITED = Result("gpu-1", "ssh : Set it", "changed", "", (("/etc/ssh/x (content)", "by hand", "ours"),))


def test_a_difference_is_drift_when_nothing_of_ours_has_changed() -> None:
    kind, what, reason = explain(EDITED, Applied({"a": "1"}, current=True))
    assert (kind, what) == ("drift", "file")
    assert reason == "/etc/ssh/x was changed on the machine; would be put back"


def test_a_difference_is_a_change_when_the_machine_has_what_we_applied_last() -> None:
    ours = Applied({"a": _digest("by hand")}, current=False)
    assert explain(EDITED, ours)[0] == "change"
    assert explain(EDITED, Applied({"a": "other"}, current=False))[0] == "drift"


CONF = render(SITE)["slurm/slurm.conf"]
CONFIG = "KillWait                = 60 sec\nSlurmdTimeout           = 15 sec\nPriorityMaxAge = 1-00:00:00\n"
NODE = "NodeName={} CoresPerSocket=1 RealMemory=4096 Sockets=1 Weight=1\n"
PARTITION = "PartitionName=gpu DefaultTime=01:00:00 MaxTime=1-00:00:00 PriorityTier=1\n"


def differences(config: str = CONFIG, nodes: str = NODE.format("gpu-1") + NODE.format("gpu-2")) -> list[Any]:
    return list(slurmconf.differences(CONF, config, nodes, PARTITION))


def test_slurmctld_that_runs_as_rendered_has_no_differences() -> None:
    assert differences() == []


def test_what_was_changed_live_is_told_with_both_values() -> None:
    assert differences(CONFIG.replace("60 sec", "99 sec")) == [("slurmctld", "KillWait", "60", "99 sec")]
    assert differences(nodes=NODE.format("gpu-1") + NODE.format("gpu-2").replace("Weight=1", "Weight=7")) == [
        ("gpu-2", "Weight", "1", "7")
    ]
    assert differences(nodes=NODE.format("gpu-1")) == [
        ("gpu-2", "NodeName", "stated", "not known to slurmctld")
    ]
    extra = "".join(NODE.format(f"gpu-{n}") for n in (1, 2, 3))
    assert differences(nodes=extra) == [("gpu-3", "NodeName", "not stated", "known to slurmctld")]


@pytest.mark.parametrize(
    ("stated", "shown", "equal"),
    [
        ("7-0", "7-00:00:00", True),
        ("15", "15 sec", True),
        ("YES", "Yes", True),
        ("task/none", "(null)", True),
        ("a,b", "b,a", True),
        ("a,b", "a,c", False),
        ("gres/gpu", "cpu,mem,billing,gres/gpu", True),
        ("01:00:00", "02:00:00", False),
        ("30", "30000", False),
    ],
)
def test_values_are_compared_by_their_meaning(stated: str, shown: str, equal: bool) -> None:
    assert slurmconf.same(stated, shown) is equal


def test_the_copy_of_the_checkout_is_the_same_bytes_for_the_same_files() -> None:
    assert copy.archive() == copy.archive()
    names = {path.parts[0] for path in copy.files()}
    assert "jobs" in names and not names & set(copy.NOT)


def test_a_checkout_without_git_is_copied_as_well(tmp_path: Path) -> None:
    """An archive that somebody unpacked, even below another repository."""
    for name in (
        "jobs/train.py",
        "images/jobs",
        "jobs/__pycache__/train.pyc",
        "runs/1/out",
        ".venv/bin/python",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert sorted(map(str, copy.files(tmp_path))) == ["images/jobs", "jobs/train.py"]


def test_machines_are_sorted_as_people_count() -> None:
    assert sorted(["gpu-10", "gpu-2", "login"], key=natural) == ["gpu-2", "gpu-10", "login"]


def test_the_report_sums_up(capsys: pytest.CaptureFixture[str]) -> None:
    from infra.places.site.plan import show

    items = [
        Item("make", "machine", "gpu-3", "new in clusters/site.yaml", 55.04, 10200),
        Item("drift", "file", "login", "/etc/ssh/x was changed on the machine; would be put back"),
    ]
    show(Plan("site", items, Sums(4, 110.12, 20500), Sums(5, 165.16, 30700), {}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:3] == ["+", "machine", "gpu-3"] and "55.04 $/h" in lines[0]
    assert lines[1].lstrip().startswith("! file")
    assert lines[2] == ("4 machines -> 5    110.12 -> 165.16 $/h    20.5 -> 30.7 kW    1 to make, 1 drifted")
