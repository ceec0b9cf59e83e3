#!/usr/bin/python3
"""Is this node what the cluster's files say it is? Fail-closed: unknown, missing or errored is not healthy.

    health-check               what slurmd runs every few minutes: drains the node when something is wrong
    health-check --under-load  the same, also under a load on every core; returns a node that we had drained
    health-check --print       tells what is wrong, and changes nothing

Compares this machine with /etc/slipway/node.json, which was rendered from the hardware profile: never with
what the machine says of itself. A reason that a person set is never touched. Exit code 0: healthy.
Only Python's standard library, and fast: it runs beside jobs.
"""

import argparse
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREFIX = "health: "  # how our reasons begin in Slurm; only a node drained with it is ever returned
MEMORY_SLACK = 0.97  # firmware and the kernel keep a part of a DIMM for themselves
FREE_GIB = {"/tmp": 1.0, "/shared": 1.0}  # noqa: S108 -- below this, jobs fail in ways that are hard to read
CLOCK_SECONDS = 0.1  # munge tolerates minutes; logs and traces of one job over many nodes do not
LOAD_SECONDS = 10.0
COMMAND_SECONDS = 20.0  # a driver that hangs makes nvidia-smi hang


@dataclass(frozen=True)
class Finding:
    """Something that is wrong, in words that a person can act on."""

    what: str
    found: str
    expected: str
    do: str

    def __str__(self) -> str:
        return f"{self.what}: {self.found}, expected {self.expected}; {self.do}"


def run(command: list[str]) -> str:
    """What `command` prints. Raises OSError or subprocess.SubprocessError."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_SECONDS)
    return done.stdout


def usable_cpus() -> int:
    """Of the whole node: slurmd starts us without a job's limits."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Node:
    """This machine as the checks see it; tests give another root and other answers of commands."""

    facts: dict[str, Any]
    root: Path = Path("/")
    run: Callable[[list[str]], str] = run
    cpus: Callable[[], int] = usable_cpus

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")


def check_cpus(node: Node) -> Iterator[Finding]:
    found, expected = node.cpus(), int(node.facts["cpus"])
    if found < expected:
        yield Finding(
            "CPUs", str(found), str(expected), "look for offline cores and SMT in the firmware's settings"
        )


def check_memory(node: Node) -> Iterator[Finding]:
    expected = int(node.facts["memory_mib"])
    lines = node.path("/proc/meminfo").read_text().splitlines()
    found = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:")) // 1024
    if found < expected * MEMORY_SLACK:
        yield Finding(
            "memory", f"{found} MiB", f"{expected} MiB", "look for a failed DIMM (ipmitool sel list)"
        )


def check_devices(node: Node) -> Iterator[Finding]:
    gpus = node.facts["gpus"]
    files = list(gpus["device_files"])
    missing = [name for name in files if not is_device(node.path(name))]
    if missing:
        found = f"{len(files) - len(missing)} ({', '.join(missing[:4])} missing)"
        yield Finding("device files of GPUs", found, str(len(files)), "look at dmesg and lspci")
    if gpus["vendor"] == "nvidia" and gpus["count"] and not node.facts["simulated"]:
        yield from check_nvidia(node, gpus)


def check_nvidia(node: Node, gpus: dict[str, Any]) -> Iterator[Finding]:
    query = "uuid,driver_version,ecc.errors.uncorrected.volatile.total"
    lines = (
        node.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"]).strip().splitlines()
    )
    if len(lines) != gpus["count"]:
        yield Finding(
            "GPUs that answer nvidia-smi", str(len(lines)), str(gpus["count"]), "drain, then reset or reboot"
        )
    for line in lines:
        uuid, _, errors = (word.strip() for word in line.split(","))
        if errors not in ("0", "[N/A]", "[Not Supported]"):
            yield Finding(
                f"uncorrected ECC errors of {uuid}", errors, "0", "reset the GPU; replace it if they return"
            )


def is_device(path: Path) -> bool:
    """A character device that is there."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode)


def check_stack(node: Node) -> Iterator[Finding]:
    stack = node.facts["stack"]
    if stack is None:
        return
    marker = node.path(f"/opt/stack/{stack}/stack.json")
    do = "mount or copy the stack (python -m infra images build)"
    if not marker.is_file():
        yield Finding("stack", f"no /opt/stack/{stack}", stack, do)
        return
    said = json.loads(marker.read_text())
    found = f"{said['stack']}-{said['lock']}"
    if found != stack:
        yield Finding("stack", f"one of lock {found}", stack, do)
    current = node.path("/opt/stack/current")
    if not current.is_symlink() or current.readlink().name != stack:
        yield Finding(
            "/opt/stack/current", "points elsewhere or is missing", stack, "systemd-tmpfiles --create"
        )


def check_disks(node: Node) -> Iterator[Finding]:
    for name, least in FREE_GIB.items():
        place = node.path(name)
        if not place.is_dir():
            yield Finding(name, "not there", "a directory", "mount it")
            continue
        free = shutil.disk_usage(place).free / 2**30
        if free < least:
            yield Finding(
                f"free space on {name}", f"{free:.1f} GiB", f"{least:.1f} GiB", "remove old files there"
            )


def check_clock(node: Node) -> Iterator[Finding]:
    """A container has its host's clock, and cannot set it: chrony is masked in the node image."""
    if node.path("/run/systemd/container").exists():
        return
    # csv of `tracking`: 5th is the offset in seconds, the last one the leap status
    fields = node.run(["chronyc", "-c", "-n", "tracking"]).strip().split(",")
    if fields[-1] == "Not synchronised":
        yield Finding("clock", "not synchronised", "synchronised", "look at chronyc sources")
    elif abs(float(fields[4])) > CLOCK_SECONDS:
        yield Finding(
            "clock", f"{float(fields[4]):.3f} s off", f"less than {CLOCK_SECONDS} s", "chronyc makestep"
        )


CHECKS = (check_cpus, check_memory, check_devices, check_stack, check_disks, check_clock)


def findings(node: Node) -> list[Finding]:
    """All that is wrong. A check that fails itself is a finding: what cannot be checked is not healthy."""
    found: list[Finding] = []
    for check in CHECKS:
        name = check.__name__.removeprefix("check_")
        try:
            found += check(node)
        except Exception as error:
            what = f"{type(error).__name__}: {error}".replace("\n", " ")
            found.append(
                Finding(f"check of {name}", what, "an answer", "run health-check --print on the node")
            )
    return found


def read_facts(path: Path) -> tuple[dict[str, Any], list[Finding]]:
    """The node's facts, or why there are none."""
    try:
        facts = json.loads(path.read_text())
        if not isinstance(facts, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        return {}, [Finding(str(path), str(error), "the facts of this node", "render and configure it again")]
    return facts, []


# --- under load ---


def burn(seconds: float) -> bool:
    """Keep one core busy with arithmetic whose result is known; False when it ever comes out wrong."""
    import hashlib

    expected = None
    block = bytes(range(256)) * 4096
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        digest = hashlib.sha256(block).digest()
        expected = expected or digest
        if digest != expected:
            return False
    return True


def load_findings(node: Node, seconds: float = LOAD_SECONDS) -> list[Finding]:
    """All that goes wrong while every core hashes, memory is written and read, and the stack multiplies."""
    import concurrent.futures  # here, because the quick check need not wait for it

    cores = node.cpus()
    with concurrent.futures.ProcessPoolExecutor(cores) as pool:
        right = list(pool.map(burn, [seconds] * cores))
    found = []
    if not all(right):
        found.append(
            Finding("arithmetic under load", f"{right.count(False)} cores wrong", "none", "replace the CPU")
        )
    found += memory_findings()
    found += gemm_findings(node)
    return found


def memory_findings(part: float = 0.05) -> list[Finding]:
    """Write and read back a part of the memory that is free."""
    block = bytes(range(256)) * 4096  # 1 MiB
    count = max(1, int(available_mib() * part))
    blocks = bytearray(block * count)
    wrong = sum(blocks[at : at + len(block)] != block for at in range(0, len(blocks), len(block)))
    return [Finding("memory under load", f"{wrong} MiB wrong", "0", "replace the DIMM")] if wrong else []


def available_mib() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) // 1024


GEMM = """
import sys, torch
devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())] or ["cpu"]
assert torch.cuda.device_count() >= int(sys.argv[1]), f"torch sees {torch.cuda.device_count()} GPUs"
for device in devices:
    a = torch.randint(-8, 8, (1024, 1024), generator=torch.Generator().manual_seed(1)).float().to(device)
    first = a @ a
    for _ in range(20):
        assert torch.equal(a @ a, first), f"{device}: two products of the same matrices differ"
"""


def gemm_findings(node: Node) -> list[Finding]:
    """Multiply matrices of small whole numbers with the stack, on each GPU that it sees, else on the CPU."""
    stack = node.facts.get("stack")
    if stack is None:
        return []
    gpus = 0 if node.facts.get("simulated", True) else node.facts["gpus"]["count"]
    try:
        node.run([f"/opt/stack/{stack}/bin/python", "-c", GEMM, str(gpus)])
    except (OSError, subprocess.SubprocessError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        return [Finding("matrix products with the stack", last, "the same each time", "run it by hand")]
    return []


# --- Slurm ---


def state_of(name: str) -> tuple[set[str], str]:
    """The flags of this node's state in Slurm (`IDLE`, `DRAIN`), and its reason."""
    text = run(["scontrol", "show", "node", name, "--oneliner"])
    words = dict(word.split("=", 1) for word in text.split() if "=" in word)
    reason = text.split(" Reason=", 1)[1].split(" [", 1)[0] if " Reason=" in text else ""
    return set(words["State"].split("+")), reason.strip()


def drain(name: str, found: list[Finding], flags: set[str], reason: str) -> None:
    """Drain this node, unless it is drained already: the first reason says more, and a person's most."""
    if "DRAIN" in flags and reason:
        return
    text = PREFIX + "; also ".join(str(finding) for finding in found)
    run(["scontrol", "update", f"NodeName={name}", "State=DRAIN", f"Reason={text[:400]}"])


def resume(name: str, flags: set[str], reason: str) -> bool:
    """Return this node to work, if it was we who drained it."""
    if "DRAIN" not in flags or not reason.startswith(PREFIX):
        return False
    run(["scontrol", "update", f"NodeName={name}", "State=RESUME"])
    return True


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--under-load", action="store_true", help="load the node first; return it if it passes"
    )
    parser.add_argument(
        "--print", action="store_true", dest="show", help="tell what is wrong, change nothing"
    )
    parser.add_argument("--facts", type=Path, default=Path("/etc/slipway/node.json"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--name", default=os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]
    )
    options = parser.parse_args(arguments)

    facts, found = read_facts(options.facts)
    node = Node(facts)
    if facts:
        found = findings(node)
        if options.under_load and not found:
            found = load_findings(node) or findings(node)
    for finding in found:
        print(finding, file=sys.stderr)
    if not options.show:
        try:
            flags, reason = state_of(options.name)
            if found:
                drain(options.name, found, flags, reason)
            elif options.under_load and resume(options.name, flags, reason):
                print(f"{options.name} passed under load and is back")
        except (OSError, subprocess.SubprocessError, KeyError) as error:
            print(f"Slurm's controller could not be told: {error}", file=sys.stderr)
            return 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
