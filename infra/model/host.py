"""The machine that we run on, to which a cluster of place `lab` is scaled: rendering's only impure input."""

import os
import platform
import pwd
import re
from dataclasses import dataclass
from pathlib import Path

from infra.base import paths

ARCHITECTURES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}


@dataclass(frozen=True)
class Host:
    """Facts of one host, and of the person who typed the command."""

    cores: int  # logical CPUs that this process may use
    memory_mib: int
    arch: str  # as `uname -m` says it: x86_64 or aarch64
    cgroup: int  # version of the control groups: 1 (also the hybrid layout) or 2
    mtu: int  # bytes, of the interface with the default route
    user: str
    uid: int
    gid: int
    energy: bool  # whether Slurm's acct_gather_energy/rapl works here
    checkout: Path
    cache: Path


def read_host() -> Host:
    """The facts of this host. Reads /proc and /sys; changes nothing, asks no network."""
    user, uid, gid = _person()
    return Host(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_mib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20,
        arch=ARCHITECTURES.get(platform.machine(), platform.machine()),
        cgroup=2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        mtu=_mtu(),
        user=user,
        uid=uid,
        gid=gid,
        energy=_energy(),
        checkout=paths.CHECKOUT,
        cache=paths.cache(),
    )


def _person() -> tuple[str, int, int]:
    """Name, user and group of who typed the command, also behind sudo; a user id need not have a name."""
    asked = os.environ.get("SUDO_UID", "")
    uid = int(asked) if asked.isdigit() else os.getuid()
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        gid = os.environ.get("SUDO_GID", "")
        return str(uid), uid, int(gid) if gid.isdigit() else os.getgid()
    return found.pw_name, found.pw_uid, found.pw_gid


def _mtu() -> int:
    """1500 where there is no default route (an offline laptop): Docker's own default."""
    try:
        routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
        device = next(route[0] for route in routes if route[1] == "00000000")
        return int(Path(f"/sys/class/net/{device}/mtu").read_text())
    except (OSError, StopIteration):
        return 1500


def _energy(root: Path = Path("/")) -> bool:
    """Whether acct_gather_energy/rapl finds what it needs; without that it drains the node.

    The plugin takes the first CPU of each "physical id" in /proc/cpuinfo and reads Intel's registers (AMD's
    have other numbers) from its /dev/cpu/<n>/msr, which the kernel's module msr provides. That file is for
    root only; nodes are privileged containers, where root has it too, so that here it need only exist. That
    the processor has these registers at all, as few virtual ones do, shows in the kernel's driver for them.

    Source: src/plugins/acct_gather_energy/rapl in Slurm.
    """
    try:
        processors = (root / "proc/cpuinfo").read_text().split("\n\n")
    except OSError:
        return False
    first: dict[str, str] = {}
    for processor in processors:
        facts = dict(re.findall(r"^(processor|vendor_id|physical id)\s*: (.*)$", processor, re.MULTILINE))
        if facts.get("vendor_id") == "GenuineIntel" and "physical id" in facts:
            first.setdefault(facts["physical id"], facts["processor"])
    registers = [root / "dev/cpu" / cpu / "msr" for cpu in first.values()]
    driver = root / "sys/class/powercap/intel-rapl:0"
    return bool(registers) and all(path.exists() for path in registers) and driver.exists()
