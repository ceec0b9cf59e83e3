#!/usr/bin/python3
"""Is this node what the cluster's files say it is? Fail-closed: unknown, missing or errored is not healthy.

    health-check               what slurmd runs every few minutes: drains the node when something is wrong
    health-check --under-load  the same, also under a load on every core; returns a node that we had drained
    health-check --print       tells every verdict, and changes nothing

Compares this machine with /etc/slipway/node.json, which was rendered from the hardware profile: never with
what the machine says of itself. Each check passes, fails, is not judged (what should tell does not: as bad as a
failure) or does not apply (by the profile's word, or by that of the place). A reason that a person set is never
touched, and a healthy node asks the controller nothing. Exit code 0: healthy.
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
FREE_GIB = 1.0  # on /tmp and the shared disk; below this, jobs fail in ways that are hard to read
CLOCK_SECONDS = 0.1  # munge tolerates minutes; logs and traces of one job over many nodes do not
LOAD_SECONDS = 10.0
COMMAND_SECONDS = 20.0  # a driver that hangs makes nvidia-smi hang
STACK_SECONDS = (
    180.0  # importing the stack from a shared disk and starting eight GPUs, on a node that is loaded
)
PASS, FAIL, NOT_JUDGED, NOT_APPLICABLE = "pass", "fail", "not judged", "not applicable"


@dataclass(frozen=True)
class Verdict:
    """What a check says, in words that a person can act on."""

    kind: str
    what: str
    said: str = ""

    @property
    def well(self) -> bool:
        return self.kind in (PASS, NOT_APPLICABLE)

    def __str__(self) -> str:
        kind = "" if self.kind in (PASS, FAIL) else f" {self.kind}"
        return f"{self.what}{kind}: {self.said}"


def passes(what: str, found: object) -> Verdict:
    return Verdict(PASS, what, str(found))


def fails(what: str, found: object, expected: object, do: str) -> Verdict:
    return Verdict(FAIL, what, f"{found}, expected {expected}; {do}")


def run(command: list[str], seconds: float = COMMAND_SECONDS) -> str:
    """What `command` prints. Raises OSError or subprocess.SubprocessError."""
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds)
    return done.stdout


def usable_cpus() -> int:
    """Of the whole node: slurmd starts us without a job's limits."""
    return len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Node:
    """This machine as the checks see it; tests give another root and other answers of commands."""

    facts: dict[str, Any]
    root: Path = Path("/")
    run: Callable[..., str] = run
    cpus: Callable[[], int] = usable_cpus

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def text(self, name: str) -> str:
        """A file's words. Raises OSError."""
        return self.path(name).read_text().strip()


def check_cpus(node: Node) -> Iterator[Verdict]:
    found, expected = node.cpus(), int(node.facts["cpus"])
    if found < expected:
        yield fails("CPUs", found, expected, "look for offline cores and SMT in the firmware's settings")
    else:
        yield passes("CPUs", found)


def check_memory(node: Node) -> Iterator[Verdict]:
    expected = int(node.facts["memory_mib"])
    lines = node.text("/proc/meminfo").splitlines()
    found = next(int(line.split()[1]) for line in lines if line.startswith("MemTotal:")) // 1024
    if found < expected * MEMORY_SLACK:
        yield fails("memory", f"{found} MiB", f"{expected} MiB", "look for a failed DIMM (ipmitool sel list)")
    else:
        yield passes("memory", f"{found} MiB")


def check_devices(node: Node) -> Iterator[Verdict]:
    """The device files that Slurm binds jobs by."""
    gpus = node.facts["gpus"]
    what, files = "device files of accelerators", list(gpus["device_files"])
    if not gpus["count"]:
        yield Verdict(NOT_APPLICABLE, what, "this machine type has none")
        return
    missing = [name for name in files if not is_device(node.path(name))]
    if missing or len(files) != gpus["count"]:
        found = f"{len(files) - len(missing)} ({', '.join(missing[:4])} missing)"
        yield fails(what, found, gpus["count"], "look at dmesg and lspci")
    else:
        yield passes(what, len(files))


def check_accelerators(node: Node) -> Iterator[Verdict]:
    """What their driver says of them; whose driver, the profile says."""
    gpus, simulated = node.facts["gpus"], node.facts["simulated"]
    excused = node.facts["not_applicable"]
    if not gpus["count"]:
        yield Verdict(NOT_APPLICABLE, "accelerators", "this machine type has none")
    elif simulated:
        yield Verdict(NOT_APPLICABLE, "accelerators", "simulated: no driver is behind their device files")
    elif "accelerators" in excused:
        yield Verdict(NOT_APPLICABLE, "accelerators", excused["accelerators"])
    elif gpus["vendor"] not in VENDORS:
        yield Verdict(NOT_JUDGED, "accelerators", f"no check knows those of {gpus['vendor']}")
    else:
        yield from VENDORS[gpus["vendor"]](node, gpus)


def check_nvidia(node: Node, gpus: dict[str, Any]) -> Iterator[Verdict]:
    query = "uuid,ecc.errors.uncorrected.volatile.total"
    text = node.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits"])
    lines = text.strip().splitlines()
    what = "GPUs that answer nvidia-smi"
    if len(lines) != gpus["count"]:
        yield fails(what, len(lines), gpus["count"], "drain, then reset or reboot")
    else:
        yield passes(what, len(lines))
    for line in lines:
        uuid, errors = (word.strip() for word in line.split(","))
        do = "write why under not_applicable: ecc in its profile, or switch it on (nvidia-smi --ecc-config=1)"
        yield ecc(node, uuid, None if errors in ("[N/A]", "N/A", "[Not Supported]") else errors, do)
    what = "nvidia-fabricmanager"
    if not gpus["fabric_manager"]:
        yield Verdict(NOT_APPLICABLE, what, "this machine type has no switches of its own")
        return
    try:
        state = node.run(["systemctl", "is-active", f"{what}.service"]).strip()
    except subprocess.CalledProcessError as error:
        state = (error.stdout or "").strip() or f"exit code {error.returncode}"
    if state == "active":
        yield passes(what, state)
    else:
        yield fails(what, state, "active", f"journalctl -u {what}")


def check_amd(node: Node, gpus: dict[str, Any]) -> Iterator[Verdict]:
    """By what the kernel shows of each device (Linux: amdgpu_ras.c); ROCm's own tools are not needed."""
    for name in gpus["device_files"]:
        yield bound(node, name, "0x1002", ("amdgpu",))
        counts = sorted(node.path(f"{sysfs(name)}/ras").glob("*_err_count"))
        lines = [line for file in counts for line in file.read_text().splitlines()]
        errors = [int(line.removeprefix("ue:")) for line in lines if line.startswith("ue:")]
        do = "load amdgpu with ras_enable=1, or write why under not_applicable: ecc in its profile"
        yield ecc(node, name, str(sum(errors)) if errors else None, do)


def check_intel(node: Node, gpus: dict[str, Any]) -> Iterator[Verdict]:
    for name in gpus["device_files"]:
        yield bound(node, name, "0x8086", ("i915", "xe"))
        yield ecc(node, name, None, "write why under not_applicable: ecc in its profile")


def sysfs(name: str) -> str:
    """Where the kernel shows the device behind a render node: /dev/dri/renderD128."""
    return f"/sys/class/drm/{Path(name).name}/device"


def bound(node: Node, name: str, vendor: str, drivers: tuple[str, ...]) -> Verdict:
    """Whether a render node is a device of this vendor, with its driver."""
    found, link = node.text(f"{sysfs(name)}/vendor"), node.path(f"{sysfs(name)}/driver")
    driver = link.resolve().name if link.is_symlink() else "none"
    if found == vendor and driver in drivers:
        return passes(name, driver)
    expected = f"driver {' or '.join(drivers)} of vendor {vendor}"
    return fails(name, f"driver {driver} of vendor {found}", expected, "look at dmesg and lspci -k")


def ecc(node: Node, name: str, errors: str | None, do: str) -> Verdict:
    """Errors of memory that could not be corrected; None: nobody counts them."""
    what, excused = f"uncorrected ECC errors of {name}", node.facts["not_applicable"]
    if errors == "0":
        return passes(what, 0)
    if errors is not None:
        return fails(what, errors, 0, "reset the GPU; replace it if they return")
    if "ecc" in excused:
        return Verdict(NOT_APPLICABLE, what, excused["ecc"])
    return Verdict(NOT_JUDGED, what, f"the driver does not count them; {do}")


VENDORS: dict[str, Callable[[Node, dict[str, Any]], Iterator[Verdict]]] = {
    "nvidia": check_nvidia,
    "amd": check_amd,
    "intel": check_intel,
}


def is_device(path: Path) -> bool:
    """A character device that is there."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return stat.S_ISCHR(mode)


def check_stack(node: Node) -> Iterator[Verdict]:
    stack = node.facts["stack"]
    if stack is None:
        yield Verdict(NOT_APPLICABLE, "stack", "none is stated")
        return
    marker = node.path(f"/opt/stack/{stack}/stack.json")
    do = "mount or copy the stack (python -m infra images build)"
    if not marker.is_file():
        yield fails("stack", f"no /opt/stack/{stack}", stack, do)
        return
    said = json.loads(marker.read_text())
    found = f"{said['stack']}-{said['lock']}"
    if found != stack:
        yield fails("stack", f"one of lock {found}", stack, do)
    current = node.path("/opt/stack/current")
    if not current.is_symlink() or current.readlink().name != stack:
        yield fails(
            "/opt/stack/current", "points elsewhere or is missing", stack, "systemd-tmpfiles --create"
        )
    elif found == stack:
        yield passes("stack", stack)


def check_disks(node: Node) -> Iterator[Verdict]:
    for name in ("/tmp", node.facts["shared"]):  # noqa: S108
        place = node.path(name)
        if place.is_dir():
            free = shutil.disk_usage(place).free / 2**30
            what = f"free space on {name}"
            if free < FREE_GIB:
                yield fails(what, f"{free:.1f} GiB", f"{FREE_GIB:.1f} GiB", "remove old files there")
            else:
                yield passes(what, f"{free:.1f} GiB")
        else:
            yield fails(name, "not there", "a directory", "mount it")


def check_clock(node: Node) -> Iterator[Verdict]:
    """A container has its host's clock, and cannot set it: chrony is masked in the node image."""
    if node.path("/run/systemd/container").exists():
        yield Verdict(NOT_APPLICABLE, "clock", "a container has that of its host")
        return
    # csv of `tracking`: 5th is the offset in seconds, the last one the leap status
    fields = node.run(["chronyc", "-c", "-n", "tracking"]).strip().split(",")
    offset = float(fields[4])
    if fields[-1] == "Not synchronised":
        yield fails("clock", "not synchronised", "synchronised", "look at chronyc sources")
    elif abs(offset) > CLOCK_SECONDS:
        yield fails("clock", f"{offset:.3f} s off", f"less than {CLOCK_SECONDS} s", "chronyc makestep")
    else:
        yield passes("clock", f"{offset:.6f} s off")


CHECKS = (
    check_cpus,
    check_memory,
    check_devices,
    check_accelerators,
    check_stack,
    check_disks,
    check_clock,
)


def verdicts(node: Node) -> list[Verdict]:
    """Every check's. One that fails itself is not judged: what cannot be checked is not healthy."""
    found: list[Verdict] = []
    for check in CHECKS:
        name, before = check.__name__.removeprefix("check_"), len(found)
        try:
            found += check(node)
        except Exception as error:
            found.append(Verdict(NOT_JUDGED, name, f"{cause(error)}; run health-check --print on the node"))
        if len(found) == before:
            found.append(Verdict(NOT_JUDGED, name, "its check said nothing"))
    return found


def cause(error: Exception) -> str:
    """One line of an exception; of a program that failed, what it printed."""
    printed = [getattr(error, "stderr", None) or "", getattr(error, "stdout", None) or ""]
    said = next((text.strip() for text in printed if isinstance(text, str) and text.strip()), str(error))
    return f"{type(error).__name__}: {said}".replace("\n", " ")


def read_facts(path: Path) -> tuple[dict[str, Any], list[Verdict]]:
    """The node's facts, or why there are none."""
    try:
        facts = json.loads(path.read_text())
        if not isinstance(facts, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError) as error:
        return {}, [fails(str(path), str(error), "the facts of this node", "render and configure it again")]
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


def under_load(node: Node, seconds: float = LOAD_SECONDS) -> list[Verdict]:
    """What is found while every core hashes, memory is written and read, and the stack multiplies."""
    import concurrent.futures  # here, because the quick check need not wait for it

    cores = node.cpus()
    with concurrent.futures.ProcessPoolExecutor(cores) as pool:
        right = list(pool.map(burn, [seconds] * cores))
    wrong = right.count(False)
    if wrong:
        found = [fails("arithmetic under load", f"{wrong} cores wrong", "none", "replace the CPU")]
    else:
        found = [passes("arithmetic under load", f"{cores} cores")]
    return [*found, memory(), gemm(node)]


def memory(part: float = 0.05) -> Verdict:
    """Write and read back a part of the memory that is free."""
    block = bytes(range(256)) * 4096  # 1 MiB
    count = max(1, int(available_mib() * part))
    blocks = bytearray(block * count)
    wrong = sum(blocks[at : at + len(block)] != block for at in range(0, len(blocks), len(block)))
    if wrong:
        return fails("memory under load", f"{wrong} MiB wrong", "0", "replace the DIMM")
    return passes("memory under load", f"{count} MiB")


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


def gemm(node: Node) -> Verdict:
    """Multiply matrices of small whole numbers with the stack, on each GPU that it sees, else on the CPU."""
    what, stack, gpus = "matrix products with the stack", node.facts["stack"], node.facts["gpus"]
    if stack is None:
        return Verdict(NOT_APPLICABLE, what, "none is stated")
    count = gpus["count"] if gpus["kind"] == "gpu" and not node.facts["simulated"] else 0
    try:
        node.run([f"/opt/stack/{stack}/bin/python", "-c", GEMM, str(count)], STACK_SECONDS)
    except subprocess.TimeoutExpired as error:
        return fails(what, f"no answer in {error.timeout:.0f} s", "the same each time", "run it by hand")
    except (OSError, subprocess.SubprocessError) as error:
        last = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        return fails(what, last, "the same each time", "run it by hand")
    return passes(what, f"{count} GPUs" if count else "CPU")


# --- Slurm ---


def state_of(name: str) -> tuple[set[str], str]:
    """The flags of this node's state in Slurm (`IDLE`, `DRAIN`), and its reason."""
    [node] = json.loads(run(["scontrol", "show", "node", name, "--json"]))["nodes"]
    return set(node["state"]), node["reason"]


def drain(name: str, bad: list[Verdict], flags: set[str], reason: str) -> None:
    """Drain this node, unless it is drained already: the first reason says more, and a person's most."""
    if "DRAIN" in flags and reason:
        return
    text = PREFIX + "; also ".join(str(verdict) for verdict in bad)
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
        "--print", action="store_true", dest="show", help="tell every verdict, change nothing"
    )
    parser.add_argument("--facts", type=Path, default=Path("/etc/slipway/node.json"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--name", default=os.environ.get("SLURMD_NODENAME") or socket.gethostname().split(".")[0]
    )
    options = parser.parse_args(arguments)

    facts, found = read_facts(options.facts)
    node = Node(facts)
    if facts:
        found = verdicts(node)
        if options.under_load and all(verdict.well for verdict in found):
            found += [*under_load(node), *verdicts(node)]
    bad = [verdict for verdict in found if not verdict.well]
    if options.show:
        for verdict in found:
            print(f"{verdict.kind:<15} {verdict.what}: {verdict.said}")
        return 1 if bad else 0
    for verdict in bad:
        print(verdict, file=sys.stderr)
    if (
        bad or options.under_load
    ):  # a healthy node changes nothing, so the controller of a thousand is not asked
        try:
            flags, reason = state_of(options.name)
            if bad:
                drain(options.name, bad, flags, reason)
            elif resume(options.name, flags, reason):
                print(f"{options.name} passed under load and is back")
        except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
            print(f"Slurm's controller could not be told: {cause(error)}", file=sys.stderr)
            return 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
