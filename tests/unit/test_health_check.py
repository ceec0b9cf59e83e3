"""Every check of a node, shown green and red on a small made-up root; and what Slurm is told."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from infra.model.hardware import JUDGED
from slurm import health_check
from slurm.health_check import Node

TESTED = {"stand-in": ["NVIDIA GPU", "AMD GPU"]}

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
        "fabric_manager": False,
    },
    "stack": "cuda13-0123456789ab",
    "shared": "/shared",
    "not_applicable": {},
}
# As `nvidia-smi --query-gpu=uuid,ecc.errors.uncorrected.volatile.total --format=csv,noheader,nounits` prints them
SMI = "GPU-5a1c8bd6-3d2e-41f5-9f4c-7c8f1b1a9d10, 0\nGPU-e7b0a3c2-0f5d-4d8e-8a53-2b6cb7d0f4aa, 0\n"
OFF = SMI.replace(", 0", ", [N/A]")
GONE = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
    "Make sure that the latest NVIDIA driver is installed and running.\n\n"
)
LOST = "Unable to determine the device handle for GPU0000:4E:00.0: Unknown Error\n"
RENDER = ["/dev/dri/renderD128", "/dev/dri/renderD129"]


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

    def fabric(command: list[str]) -> str:
        state = (tmp_path / "fabric").read_text()
        if state != "active\n":
            raise subprocess.CalledProcessError(3, command, output=state)
        return state

    def make(answer: str | Exception = SMI, cpus: int = 4, **facts: Any) -> Node:
        def run(command: list[str], seconds: float = 0) -> str:
            if command[0] == "systemctl":
                return fabric(command)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return Node({**FACTS, **facts}, root=tmp_path, run=run, cpus=lambda: cpus)

    return make


def told(node: Node) -> str:
    return "; ".join(str(verdict) for verdict in health_check.verdicts(node) if not verdict.well)


def kinds(node: Node) -> dict[str, str]:
    return {verdict.what: verdict.kind for verdict in health_check.verdicts(node)}


def test_a_node_that_is_as_stated_is_healthy(node: Callable[..., Node]) -> None:
    assert told(node()) == ""
    assert told(node(simulated=False)) == ""


def test_each_check_has_a_verdict_and_says_which(node: Callable[..., Node]) -> None:
    assert kinds(node()) == {
        "CPUs": "pass",
        "memory": "pass",
        "device files of accelerators": "pass",
        "accelerators": "not applicable",
        "stack": "pass",
        "free space on /tmp": "pass",
        "free space on /shared": "pass",
        "clock": "not applicable",
    }
    real = kinds(node(simulated=False))
    assert real["GPUs that answer nvidia-smi"] == "pass" and real["nvidia-fabricmanager"] == "not applicable"
    assert "accelerators" not in real


def test_a_node_without_accelerators_is_healthy_because_its_profile_has_none(
    node: Callable[..., Node],
) -> None:
    none: dict[str, Any] = {
        "kind": None,
        "vendor": None,
        "type": None,
        "count": 0,
        "device_files": [],
        "fabric_manager": False,
    }
    cpu = node(gpus=none, simulated=False)
    assert told(cpu) == ""
    assert kinds(cpu)["accelerators"] == "not applicable"


def test_a_check_that_says_nothing_is_not_judged(
    node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(health_check.VENDORS, "nvidia", lambda node, gpus: iter(()))
    assert told(node(simulated=False)) == "accelerators not judged: its check said nothing"


def test_accelerators_that_no_check_knows_are_not_judged(node: Callable[..., Node]) -> None:
    unknown = node(simulated=False, gpus={**FACTS["gpus"], "vendor": "marsupial"})
    assert told(unknown) == "accelerators not judged: no check knows those of marsupial"
    why = {"accelerators": "the site watches them"}
    assert told(node(simulated=False, gpus=unknown.facts["gpus"], not_applicable=why)) == ""


def test_the_checks_that_profiles_may_count_on_are_there() -> None:
    assert tuple(health_check.VENDORS) == JUDGED


def amd(
    node: Callable[..., Node], errors: str | None, vendor: str = "0x1002", driver: str = "amdgpu"
) -> Node:
    """Two devices as Linux 6.12 shows an MI300X: sysfs of amdgpu, with RAS counters unless `errors` is None."""
    gpus = {**FACTS["gpus"], "vendor": {"0x8086": "intel"}.get(vendor, "amd"), "device_files": RENDER}
    made = node(simulated=False, gpus=gpus)
    (made.path("/dev/dri")).mkdir(parents=True)
    for name in RENDER:
        made.path(name).symlink_to("/dev/null")
        device = made.path(health_check.sysfs(name))
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (made.root / "drivers" / driver).mkdir(parents=True, exist_ok=True)
        (device / "driver").symlink_to(made.root / "drivers" / driver)
        if errors is not None:
            (device / "ras").mkdir()
            for block in ("gfx", "mmhub", "sdma", "umc", "xgmi_wafl"):
                (device / "ras" / f"{block}_err_count").write_text("ue: 0\nce: 2\n")
            (device / "ras" / "umc_err_count").write_text(errors)
    return made


def test_an_amd_node_is_judged_by_its_driver(node: Callable[..., Node]) -> None:
    well = amd(node, "ue: 0\nce: 17\nde: 0\n")
    assert told(well) == ""
    assert kinds(well)["/dev/dri/renderD128"] == "pass"


@pytest.mark.parametrize(
    ("errors", "vendor", "driver", "says"),
    [
        (
            "ue: 3\nce: 0\n",
            "0x1002",
            "amdgpu",
            "uncorrected ECC errors of /dev/dri/renderD128: 3, expected 0",
        ),
        (
            None,
            "0x1002",
            "amdgpu",
            "uncorrected ECC errors of /dev/dri/renderD128 not judged: the driver does not",
        ),
        (
            "ue: 0\n",
            "0x1002",
            "vfio-pci",
            "/dev/dri/renderD128: driver vfio-pci of vendor 0x1002, expected driver",
        ),
        (
            "ue: 0\n",
            "0x1a03",
            "ast",
            "/dev/dri/renderD128: driver ast of vendor 0x1a03, expected driver amdgpu",
        ),
        (None, "0x8086", "xe", "uncorrected ECC errors of /dev/dri/renderD128 not judged"),
    ],
)
def test_an_amd_or_intel_node_that_is_not_well(
    node: Callable[..., Node], errors: str | None, vendor: str, driver: str, says: str
) -> None:
    assert told(amd(node, errors, vendor, driver)).startswith(says)


def test_an_amd_device_without_any_driver_is_not_judged(node: Callable[..., Node]) -> None:
    made = amd(node, "ue: 0\n")
    shutil.rmtree(made.path("/sys"))
    assert told(made).startswith("accelerators not judged: FileNotFoundError")


def test_missing_ecc_counts_are_excused_by_the_profile_only(node: Callable[..., Node]) -> None:
    says = "uncorrected ECC errors of GPU-5a1c8bd6-3d2e-41f5-9f4c-7c8f1b1a9d10 not judged"
    assert told(node(OFF, simulated=False)).startswith(says)
    assert told(node(OFF, simulated=False, not_applicable={"ecc": "this memory has none"})) == ""


@pytest.mark.parametrize("state", ["active", "inactive", "failed", "activating", ""])
def test_the_fabric_manager_runs_where_the_profile_has_switches(
    node: Callable[..., Node], state: str
) -> None:
    switched = node(simulated=False, gpus={**FACTS["gpus"], "fabric_manager": True})
    (switched.root / "fabric").write_text(f"{state}\n")
    wrong = "" if state == "active" else f"nvidia-fabricmanager: {state or 'exit code 3'}, expected active"
    assert told(switched).startswith(wrong) and bool(told(switched)) == bool(wrong)


def test_missing_cores_are_told(node: Callable[..., Node]) -> None:
    assert told(node(cpus=3)).startswith("CPUs: 3, expected 4; look for offline cores")


def test_missing_memory_is_told(node: Callable[..., Node]) -> None:
    assert told(node(memory_mib=16000)).startswith(
        "memory: 8000 MiB, expected 16000 MiB; look for a failed DIMM"
    )


def test_a_missing_device_file_is_told(node: Callable[..., Node]) -> None:
    (node().root / "dev/zero").unlink()
    assert "device files of accelerators: 1 (/dev/zero missing), expected 2" in told(node())


def test_a_plain_file_is_no_device(node: Callable[..., Node]) -> None:
    (node().root / "dev/zero").unlink()
    (node().root / "dev/zero").write_text("")
    assert "device files of accelerators: 1" in told(node())


def test_a_gpu_that_the_driver_lost_is_told(node: Callable[..., Node]) -> None:
    lost = node(SMI.splitlines()[0], simulated=False)
    assert told(lost).startswith("GPUs that answer nvidia-smi: 1, expected 2")


@pytest.mark.parametrize("errors", ["3", "[Unknown Error]", "[GPU requires reset]", "ERR!"])
def test_uncorrected_memory_errors_are_told(node: Callable[..., Node], errors: str) -> None:
    bad = node(SMI.replace("aa, 0", f"aa, {errors}"), simulated=False)
    assert told(bad).startswith(
        f"uncorrected ECC errors of GPU-e7b0a3c2-0f5d-4d8e-8a53-2b6cb7d0f4aa: {errors}, expected 0"
    )


@pytest.mark.parametrize(
    ("rc", "printed", "says"),
    [
        (9, GONE, "couldn't communicate"),
        (255, LOST, "device handle"),
        (6, "No devices were found\n", "No devices"),
    ],
)
def test_a_broken_driver_is_not_judged_and_never_simulated(
    node: Callable[..., Node], rc: int, printed: str, says: str
) -> None:
    broken = node(subprocess.CalledProcessError(rc, "nvidia-smi", output=printed, stderr=""), simulated=False)
    assert told(broken).startswith("accelerators not judged: CalledProcessError: ") and says in told(broken)


@pytest.mark.parametrize(
    "error", [FileNotFoundError("nvidia-smi"), subprocess.TimeoutExpired("nvidia-smi", 20), ValueError("?")]
)
def test_a_tool_that_is_missing_or_hangs_is_not_healthy(node: Callable[..., Node], error: Exception) -> None:
    assert told(node(error, simulated=False)).startswith("accelerators not judged: ")


def test_nonsense_from_a_tool_is_not_healthy(node: Callable[..., Node]) -> None:
    assert told(node("Unable to determine the device handle\nagain\n", simulated=False)).startswith(
        "accelerators not judged"
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
    assert told(node()).startswith("stack not judged: JSONDecodeError")


def test_a_current_stack_that_is_another_is_told(node: Callable[..., Node]) -> None:
    current = node().root / "opt/stack/current"
    current.unlink()
    current.symlink_to("cuda12-aaaaaaaaaaaa")
    assert told(node()).startswith("/opt/stack/current: ")


def test_a_full_or_missing_disk_is_told(node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_check, "FREE_GIB", 1e9)
    assert "free space on /tmp" in told(node())
    monkeypatch.setattr(health_check, "FREE_GIB", 0)
    (node().root / "shared").rmdir()
    assert told(node()).startswith("/shared: not there")
    assert told(node(shared="/tmp")) == ""  # the cluster file says where


@pytest.mark.parametrize(
    ("tracking", "says"),
    [
        ("A1,host,2,1795409483.9,0.000010,0,0,0,0,0,0,0,0,Normal\n", ""),
        ("00,,0,0.0,0.000000,0,0,0,0,0,0,0,0,Not synchronised\n", "clock: not synchronised"),
        ("A1,host,2,1795409483.9,-3.5,0,0,0,0,0,0,0,0,Normal\n", "clock: -3.500 s off"),
        ("", "clock not judged"),
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
    assert told(Node(facts, healthy.root, healthy.run, healthy.cpus))


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_unreadable_facts_are_not_healthy(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.json"
    file.write_text(text)
    assert health_check.read_facts(file)[1]
    assert health_check.read_facts(tmp_path / "none")[1]


class Slurm:
    """Stands in for scontrol: a node's state and reason, and what was asked to change."""

    def __init__(self, state: str, reason: str = "") -> None:
        self.said = json.dumps({"nodes": [{"name": "c1", "state": state.split("+"), "reason": reason}]})
        self.asked: list[list[str]] = []
        self.calls = 0

    def __call__(self, command: list[str]) -> str:
        self.calls += 1
        if command[1] == "update":
            self.asked.append(command[2:])
        return self.said


FOUND = [health_check.fails("memory", "1 MiB", "2 MiB", "look")]


def test_a_node_is_drained_with_what_a_person_can_act_on(monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = Slurm("IDLE")
    monkeypatch.setattr(health_check, "run", slurm)
    health_check.drain("c1", FOUND, *health_check.state_of("c1"))
    assert slurm.asked == [
        ["NodeName=c1", "State=DRAIN", "Reason=health: memory: 1 MiB, expected 2 MiB; look"]
    ]


@pytest.mark.parametrize("reason", ["health: memory: 1 MiB", "Anna changes a fan [top = left]"])
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


@pytest.mark.parametrize(
    ("well", "words", "calls"),
    [
        (True, [], 0),
        (True, ["--under-load"], 1),
        (True, ["--print"], 0),
        (False, [], 2),
        (False, ["--print"], 0),
    ],
)
def test_the_controller_is_asked_only_where_something_changes(
    well: bool, words: list[str], calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand healthy nodes that ask every few minutes are a load; one that is not well tells it."""
    slurm = Slurm("IDLE")
    monkeypatch.setattr(health_check, "run", slurm)
    found = [health_check.passes("CPUs", 4)] if well else FOUND
    monkeypatch.setattr(health_check, "verdicts", lambda node: found)
    monkeypatch.setattr(health_check, "under_load", lambda node: [])
    (tmp_path / "node.json").write_text(json.dumps(FACTS))
    done = health_check.main(["--facts", str(tmp_path / "node.json"), "--name", "c1", *words])
    assert (done, slurm.calls) == (0 if well else 1, calls)


def test_print_tells_every_verdict(node: Callable[..., Node], tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text(json.dumps({**FACTS, "cpus": 100_000}))
    command = [
        sys.executable,
        str(CHECKOUT / "slurm/health_check.py"),
        "--print",
        "--facts",
        str(tmp_path / "node.json"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/nonexistent"})
    assert done.returncode == 1
    said = done.stdout.splitlines()
    assert said[0].startswith("fail            CPUs: ")
    assert "not applicable  accelerators: simulated: no driver is behind their device files" in said


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
    assert all(verdict.well for verdict in health_check.under_load(node(cpus=1), seconds=0.05))
    monkeypatch.setattr(health_check, "burn", wrong)
    assert "1 cores wrong" in str(health_check.under_load(node(cpus=1), seconds=0.05)[0])


def wrong(seconds: float) -> bool:
    return False


def test_a_stack_that_does_not_multiply_is_told(node: Callable[..., Node]) -> None:
    failed = subprocess.CalledProcessError(
        1, "python", stderr="Traceback\nAssertionError: torch sees 0 GPUs\n"
    )
    assert "torch sees 0 GPUs" in str(health_check.gemm(node(failed, simulated=False)))
    slow = subprocess.TimeoutExpired(["python", "-c", health_check.GEMM], 180)
    assert str(health_check.gemm(node(slow))).startswith("matrix products with the stack: no answer in 180 s")


def prolog(tmp_path: Path, gpus: str, files: list[str]) -> "subprocess.CompletedProcess[str]":
    """slurm/prolog.sh before a job with these GPUs, on a node with these device files."""
    (tmp_path / "node.json").write_text(json.dumps({"gpus": {"device_files": files}}))
    told = tmp_path / "scontrol"
    told.write_text(f'#!/bin/bash\necho "$@" >>{tmp_path}/asked\n')
    told.chmod(0o755)
    job = f"prolog-{tmp_path.name}"
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLIPWAY_NODE": str(tmp_path / "node.json"),
        "SLURM_JOB_ID": job,
        "SLURM_JOB_UID": str(os.getuid()),
        "SLURM_JOB_GPUS": gpus,
        "SLURMD_NODENAME": "c1",
    }
    done = subprocess.run(
        ["bash", CHECKOUT / "slurm/prolog.sh"], env=environment, capture_output=True, text=True
    )
    assert Path(f"/tmp/slurm-{job}").is_dir()
    shutil.rmtree(f"/tmp/slurm-{job}")
    return done


@pytest.mark.parametrize(
    ("gpus", "files", "says"),
    [
        ("", [], ""),
        ("0,1", ["/dev/null", "/dev/zero"], ""),
        ("1", ["/dev/none128", "/dev/zero"], ""),
        ("0,1", ["/dev/null", "/dev/none"], "GPU 1 was given to job {}, but /dev/none is missing"),
        ("0,2", ["/dev/null", "/dev/zero"], "GPU 2 was given to job {}, but this node is stated to have 2"),
        ("0-1", ["/dev/null", "/dev/zero"], "GPU 0-1 was given to job {}, but this node is stated to have 2"),
        ("0", [], "GPU 0 was given to job {}, but this node is stated to have 0"),
    ],
)
def test_the_prolog_looks_for_the_files_of_the_profile(
    tmp_path: Path, gpus: str, files: list[str], says: str
) -> None:
    """By their place in gres.conf, as Slurm counts them: AMD's are /dev/dri/renderD128 and on."""
    done = prolog(tmp_path, gpus, files)
    said = says.format(f"prolog-{tmp_path.name}")
    assert (done.returncode, done.stderr) == ((1, f"prolog: {said}\n") if says else (0, ""))
    asked = (tmp_path / "asked").read_text() if says else ""
    assert asked == (f"update NodeName=c1 State=DRAIN Reason=health: prolog: {said}\n" if says else "")


def test_it_is_quick_because_it_runs_beside_jobs(tmp_path: Path) -> None:
    """It must not import what only the load needs. In processor time: other tests run too."""
    command = [sys.executable, "-I", str(CHECKOUT / "slurm/health_check.py"), "--print"]
    used = []
    for _ in range(3):
        before = os.times()
        subprocess.run([*command, "--facts", str(tmp_path / "none")], capture_output=True)
        after = os.times()
        used.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert min(used) < 0.3
