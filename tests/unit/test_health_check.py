"""Every check of a node, shown green and red on a small made-up root; and what Slurm is told."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from slurm import health_check
from slurm.health_check import Node

TESTED = {"stand-in": ["NVIDIA GPU"]}

FACTS: dict[str, Any] = {
    "cpus": 4,
    "memory_mib": 8000,
    "simulated": True,
    "gpus": {
        "kind": "gpu",
        "vendor": "nvidia",
        "type": "h100",
        "count": 2,
        "device_files": ["/dev/null", "/dev/zero"],
    },
    "stack": "cuda13-0123456789ab",
}
SMI = "GPU-1, 580.95.05, 0\nGPU-2, 580.95.05, 0\n"


@pytest.fixture
def node(tmp_path: Path) -> Callable[..., Node]:
    """A node on which all is well; the keywords are its facts that differ."""
    for name in ("dev", "proc", "tmp", "shared", "run/systemd", "opt/stack/cuda13-0123456789ab"):
        (tmp_path / name).mkdir(parents=True)
    for device in ("null", "zero"):  # character devices that every machine has
        (tmp_path / "dev" / device).symlink_to(f"/dev/{device}")
    (tmp_path / "proc/meminfo").write_text("MemTotal:        8192000 kB\n")
    (tmp_path / "run/systemd/container").write_text("docker")
    marker = {"stack": "cuda13", "lock": "0123456789ab"}
    (tmp_path / "opt/stack/cuda13-0123456789ab/stack.json").write_text(json.dumps(marker))
    (tmp_path / "opt/stack/current").symlink_to("cuda13-0123456789ab")

    def make(answer: str | Exception = SMI, cpus: int = 4, **facts: Any) -> Node:
        def run(command: list[str]) -> str:
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Node({**FACTS, **facts}, root=tmp_path, run=run, cpus=lambda: cpus)

    return make


def told(node: Node) -> str:
    return "; ".join(str(finding) for finding in health_check.findings(node))


def test_a_node_that_is_as_stated_is_healthy(node: Callable[..., Node]) -> None:
    assert told(node()) == ""
    assert told(node(simulated=False)) == ""


def test_missing_cores_are_told(node: Callable[..., Node]) -> None:
    assert told(node(cpus=3)).startswith("CPUs: 3, expected 4; look for offline cores")


def test_missing_memory_is_told(node: Callable[..., Node]) -> None:
    assert told(node(memory_mib=16000)).startswith(
        "memory: 8000 MiB, expected 16000 MiB; look for a failed DIMM"
    )


def test_a_missing_device_file_is_told(node: Callable[..., Node]) -> None:
    (node().root / "dev/zero").unlink()
    assert "device files of GPUs: 1 (/dev/zero missing), expected 2" in told(node())


def test_a_plain_file_is_no_device(node: Callable[..., Node]) -> None:
    (node().root / "dev/zero").unlink()
    (node().root / "dev/zero").write_text("")
    assert "device files of GPUs: 1" in told(node())


def test_a_gpu_that_the_driver_lost_is_told(node: Callable[..., Node]) -> None:
    lost = node("GPU-1, 580.95.05, 0\n", simulated=False)
    assert told(lost).startswith("GPUs that answer nvidia-smi: 1, expected 2")


def test_uncorrected_memory_errors_are_told(node: Callable[..., Node]) -> None:
    bad = node("GPU-1, 580.95.05, 0\nGPU-2, 580.95.05, 3\n", simulated=False)
    assert told(bad).startswith("uncorrected ECC errors of GPU-2: 3, expected 0")


@pytest.mark.parametrize(
    "error", [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 20), ValueError("?")]
)
def test_a_tool_that_is_missing_or_hangs_is_not_healthy(node: Callable[..., Node], error: Exception) -> None:
    assert told(node(error, simulated=False)).startswith("check of devices: ")


def test_nonsense_from_a_tool_is_not_healthy(node: Callable[..., Node]) -> None:
    assert told(node("Unable to determine the device handle\nagain\n", simulated=False)).startswith(
        "check of devices"
    )


def test_a_missing_stack_is_told(node: Callable[..., Node]) -> None:
    shutil.rmtree(node().root / "opt/stack/cuda13-0123456789ab")
    assert told(node()).startswith("stack: no /opt/stack/cuda13-0123456789ab, expected cuda13-0123456789ab")


def test_another_lock_under_the_right_name_is_told(node: Callable[..., Node]) -> None:
    marker = node().root / "opt/stack/cuda13-0123456789ab/stack.json"
    marker.write_text(json.dumps({"stack": "cuda13", "lock": "ffffffffffff"}))
    assert told(node()).startswith("stack: one of lock cuda13-ffffffffffff")


def test_a_torn_marker_is_not_healthy(node: Callable[..., Node]) -> None:
    (node().root / "opt/stack/cuda13-0123456789ab/stack.json").write_text('{"stack": "cu')
    assert told(node()).startswith("check of stack: JSONDecodeError")


def test_a_current_stack_that_is_another_is_told(node: Callable[..., Node]) -> None:
    current = node().root / "opt/stack/current"
    current.unlink()
    current.symlink_to("cuda12-aaaaaaaaaaaa")
    assert told(node()).startswith("/opt/stack/current: ")


def test_a_full_or_missing_disk_is_told(node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(health_check.FREE_GIB, "/tmp", 1e9)
    assert "free space on /tmp" in told(node())
    monkeypatch.setitem(health_check.FREE_GIB, "/tmp", 0)
    (node().root / "shared").rmdir()
    assert told(node()).startswith("/shared: not there")


@pytest.mark.parametrize(
    ("tracking", "says"),
    [
        ("A1,host,2,1795409483.9,0.000010,0,0,0,0,0,0,0,0,Normal\n", ""),
        ("00,,0,0.0,0.000000,0,0,0,0,0,0,0,0,Not synchronised\n", "clock: not synchronised"),
        ("A1,host,2,1795409483.9,-3.5,0,0,0,0,0,0,0,0,Normal\n", "clock: -3.500 s off"),
        ("", "check of clock"),
    ],
)
def test_a_machine_that_is_no_container_keeps_its_own_time(
    node: Callable[..., Node], tracking: str, says: str
) -> None:
    (node().root / "run/systemd/container").unlink()
    assert told(node(tracking)).startswith(says)
    assert bool(told(node(tracking))) is bool(says)


@pytest.mark.parametrize("missing", sorted(FACTS))
def test_a_fact_that_is_not_stated_is_not_healthy(node: Callable[..., Node], missing: str) -> None:
    healthy = node(simulated=False)
    facts = {key: value for key, value in healthy.facts.items() if key != missing}
    assert health_check.findings(Node(facts, healthy.root, healthy.run, healthy.cpus))


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_unreadable_facts_are_not_healthy(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.json"
    file.write_text(text)
    assert health_check.read_facts(file)[1]
    assert health_check.read_facts(tmp_path / "none")[1]


class Slurm:
    """Stands in for scontrol: a node's state and reason, and what was asked to change."""

    def __init__(self, state: str, reason: str = "") -> None:
        self.said = f"NodeName=c1 State={state} CPUTot=1" + (
            f" Reason={reason} [root@2026-01-01T00:00:00]" if reason else ""
        )
        self.asked: list[list[str]] = []

    def __call__(self, command: list[str]) -> str:
        if command[1] == "update":
            self.asked.append(command[2:])
        return self.said


FOUND = [health_check.Finding("memory", "1 MiB", "2 MiB", "look")]


def test_a_node_is_drained_with_what_a_person_can_act_on(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = Slurm("IDLE")
    monkeypatch.setattr(health_check, "run", slurm)
    health_check.drain("c1", FOUND, *health_check.state_of("c1"))
    assert slurm.asked == [
        ["NodeName=c1", "State=DRAIN", "Reason=health: memory: 1 MiB, expected 2 MiB; look"]
    ]


@pytest.mark.parametrize("reason", ["health: memory: 1 MiB", "Anna changes a fan"])
def test_a_drained_node_is_not_drained_again(monkeypatch: pytest.MonkeyPatch, reason: str) -> None:
    slurm = Slurm("IDLE+DRAIN", reason)
    monkeypatch.setattr(health_check, "run", slurm)
    health_check.drain("c1", FOUND, *health_check.state_of("c1"))
    assert slurm.asked == []


@pytest.mark.parametrize(
    ("state", "reason", "back"),
    [
        ("IDLE+DRAIN", "health: memory: 1 MiB", True),
        ("IDLE+DRAIN", "Anna changes a fan", False),
        ("IDLE", "", False),
        ("DOWN+NOT_RESPONDING", "health: memory", False),
    ],
)
def test_only_a_node_that_we_drained_is_returned(
    monkeypatch: pytest.MonkeyPatch, state: str, reason: str, back: bool
) -> None:
    slurm = Slurm(state, reason)
    monkeypatch.setattr(health_check, "run", slurm)
    assert health_check.resume("c1", *health_check.state_of("c1")) is back
    assert slurm.asked == ([["NodeName=c1", "State=RESUME"]] if back else [])


def test_a_node_that_cannot_tell_its_controller_is_not_healthy(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, CHECKOUT / "slurm/health_check.py", "--facts", tmp_path / "none", "--name", "c1"],
        env={"PATH": "/nonexistent"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "the facts of this node" in done.stderr


def test_the_load_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch, node: Callable[..., Node]) -> None:
    assert health_check.load_findings(node(cpus=1), seconds=0.05) == []
    monkeypatch.setattr(health_check, "burn", wrong)
    assert "1 cores wrong" in str(health_check.load_findings(node(cpus=1), seconds=0.05)[0])


def wrong(seconds: float) -> bool:
    return False


def test_a_stack_that_does_not_multiply_is_told(node: Callable[..., Node]) -> None:
    failed = subprocess.CalledProcessError(
        1, "python", stderr="Traceback\nAssertionError: torch sees 0 GPUs\n"
    )
    assert "torch sees 0 GPUs" in str(health_check.gemm_findings(node(failed, simulated=False))[0])


def test_it_is_quick_because_it_runs_beside_jobs(tmp_path: Path) -> None:
    """It must not import what only the load needs. The best of three counts, since other tests run too."""
    best = 9.0
    for _ in range(3):
        start = time.monotonic()
        command = [
            sys.executable,
            "-I",
            str(CHECKOUT / "slurm/health_check.py"),
            "--print",
            "--facts",
            str(tmp_path / "none"),
        ]
        subprocess.run(command, capture_output=True)
        best = min(best, time.monotonic() - start)
    assert best < 0.3
