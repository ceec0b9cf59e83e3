"""Joules of a job, from the machine's own counters; estimated from its profile where it has none.

    rapl       CPU packages and their memory: /sys/class/powercap, microjoules that wrap around
    nvml       each GPU's board: NVML's total energy counter, millijoules, Volta and newer
    estimated  the most that the job's part of the machine may draw (jobs/cluster/node.py), times the time

A counter is one number that is read twice, so it is read directly: Zeus and its like put windows, polling of
power on GPUs without a counter, and optimisers of batch size on top, which no line here would use.

What a figure is of: RAPL counts whole packages, so on a machine that jobs share the neighbours count too. Counters
leave out fans, disks, network and losses of the power supply; the estimate, at the plug and at the most, does not.
Counters of CPUs are usually for root only (CVE-2020-8694), and in containers and virtual machines not there at all.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

POWERCAP = Path("/sys/class/powercap")
# A package of 400 W fills its counter of 65 kJ in 160 s: it is looked at often enough to see every wrap.
LOOK_S = 20.0
# So often at most is a counter read for a step's line; NVML's own changes every 20 to 100 ms.
READ_S = 1.0


class Counter:
    """Joules since the making of this object, of a counter that may wrap around."""

    def __init__(self, read: Callable[[], float], range_j: float | None = None) -> None:
        """read: the counter in joules, OSError when it cannot be read; range_j: where it starts again at 0."""
        self._read, self._range, self._last = read, range_j, read()
        self.joules = 0.0

    def look(self) -> float:
        """Read the counter. One that cannot be read any more stays where it was."""
        with contextlib.suppress(OSError, ValueError):
            now = self._read()
            if now >= self._last:
                self.joules += now - self._last
            elif self._range is not None:
                self.joules += self._range - self._last + now
            else:  # it was set to zero: a driver that was loaded again
                self.joules += now
            self._last = now
        return self.joules


def rapl(root: Path = POWERCAP) -> list[Counter]:
    """A counter for each CPU package and for its memory, where this process may read them.

    Package zones hold cores and uncore, and not the memory. `psys` holds packages again, and intel-rapl-mmio is
    another way to the same counter: both are left out.
    """
    counters = []
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package") and name != "dram":
                continue
            wraps = float((zone / "max_energy_range_uj").read_text()) / 1e6
            counters.append(Counter(lambda zone=zone: float((zone / "energy_uj").read_text()) / 1e6, wraps))  # type: ignore[misc]
        except (OSError, ValueError):
            continue
    return counters


def nvml(uuid: str | None) -> list[Counter]:
    """The counter of the GPU of that UUID (`GPU-...`, as NVML writes it); none without a GPU that has one."""
    if uuid is None:
        return []
    try:
        import pynvml  # type: ignore[import-not-found,import-untyped,unused-ignore]

        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)

        def read() -> float:
            try:
                return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
            except pynvml.NVMLError as error:
                raise OSError(str(error)) from error

        return [Counter(read)]
    except Exception:  # no library, no driver, an older GPU, a part of one (MIG): then it is not measured
        return []


@dataclass
class Meter:
    """Joules that this process answers for: its GPU's, and as the first on its node the CPUs' or the estimate."""

    counters: Sequence[Counter]
    watts: float | None  # of the estimate; None where counters are, or another process answers
    source: str | None
    began: float  # Unix time

    def __post_init__(self) -> None:
        self._lock, self._read_at, self._joules = threading.Lock(), 0.0, 0.0
        if any(counter._range for counter in self.counters):
            threading.Thread(target=self._watch, name="energy", daemon=True).start()

    def joules(self, now: float | None = None) -> float:
        """Joules since the beginning; 0 where nothing is known."""
        now = time.time() if now is None else now
        if self.watts is not None:
            return self.watts * (now - self.began)
        if self.counters and now - self._read_at >= READ_S:
            with self._lock:
                self._joules = sum(counter.look() for counter in self.counters)
            self._read_at = now
        return self._joules

    def _watch(self) -> None:
        while True:
            time.sleep(LOOK_S)
            with self._lock:
                for counter in self.counters:
                    counter.look()


def meter(
    *,
    first_here: bool,
    gpu: str | None,
    watts: float | None,
    began: float,
    powercap: Path = POWERCAP,
) -> Meter:
    """The meter of a rank. first_here: no other of its node has a lower rank; gpu: the UUID of its GPU."""
    cpu, board = rapl(powercap) if first_here else [], nvml(gpu)
    counters = [*cpu, *board]
    names = [name for name, found in (("rapl", cpu), ("nvml", board)) if found]
    if not counters and first_here and watts is not None:
        return Meter([], watts, "estimated", began)
    return Meter(counters, None, " + ".join(names) or None, began)


def joined(sources: Sequence[str | None]) -> str | None:
    """One name for what several ranks measured: estimated as soon as a part of it is."""
    found = [source for source in sources if source]
    if "estimated" in found:
        return "estimated"
    return " + ".join(sorted({part for each in found for part in each.split(" + ")}, reverse=True)) or None


def uuid(device: Any) -> str | None:
    """NVML's name of a torch device; None for a CPU."""
    if device.type != "cuda":
        return None
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"
