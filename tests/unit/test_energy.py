"""Joules from counters that wrap around and vanish, or estimated; and what a node says that it draws and costs."""

import json
import platform
from pathlib import Path

import pytest

from jobs.cli.errors import Failure
from jobs.cluster import node
from jobs.telemetry import energy, flops


def zone(root: Path, zone: str, name: str, microjoules: int, wraps: int = 1_000_000) -> Path:
    folder = root / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages, one with memory, as Linux shows them: zones in zones are links beside each other as well."""
    root = tmp_path / "powercap"
    zone(root, "intel-rapl:0", "package-0", 900_000)
    zone(root, "intel-rapl:0:0", "core", 500_000)
    zone(root, "intel-rapl:0:1", "dram", 100_000)
    zone(root, "intel-rapl:1", "package-1", 0)
    zone(root, "intel-rapl:2", "psys", 7)
    zone(root, "intel-rapl-mmio:0", "package-0", 900_000)
    return root


def test_packages_and_memory_are_summed_and_nothing_twice(powercap: Path) -> None:
    counters = energy.rapl(powercap)
    for number, name in enumerate(("0", "0:0", "0:1", "1", "2"), 1):
        file = powercap / f"intel-rapl:{name}" / "energy_uj"
        file.write_text(str(int(file.read_text()) + 10_000 * 10**number // 10))
    grown = sum(counter.look() for counter in counters)
    assert grown == pytest.approx((10_000 + 1_000_000 + 10_000_000) / 1e6)  # package 0, its memory, package 1


def test_a_counter_that_wraps_around_goes_on(powercap: Path) -> None:
    file = powercap / "intel-rapl:0" / "energy_uj"
    counter = energy.rapl(powercap)[0]
    for microjoules in (950_000, 30_000, 999_999, 5):  # of a range of 1 J
        file.write_text(str(microjoules))
        counter.look()
    assert counter.joules == pytest.approx(0.05 + 0.08 + 0.969999 + 0.000006, abs=1e-5)


def test_a_counter_that_vanishes_keeps_what_it_had(powercap: Path) -> None:
    file = powercap / "intel-rapl:1" / "energy_uj"
    counter = energy.rapl(powercap)[2]
    file.write_text("400000")
    assert counter.look() == pytest.approx(0.4)
    file.unlink()
    assert counter.look() == pytest.approx(0.4)


def test_a_counter_that_may_not_be_read_is_none(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root may read them since 2020; root in a test may read all, so a folder stands in the file's place."""
    for name in ("0", "0:1", "1"):
        file = powercap / f"intel-rapl:{name}" / "energy_uj"
        file.unlink()
        file.mkdir()
    assert energy.rapl(powercap) == []
    meter = energy.meter(first_here=True, gpu=None, watts=None, began=0.0, powercap=powercap)
    assert (meter.source, meter.joules(now=100.0)) == (None, 0.0)


def test_without_counters_it_is_estimated_and_says_so(tmp_path: Path) -> None:
    meter = energy.meter(first_here=True, gpu=None, watts=65.0, began=1000.0, powercap=tmp_path)
    assert (meter.source, meter.joules(now=1010.0)) == ("estimated", 650.0)


def test_one_rank_of_a_node_answers_for_its_cpus(powercap: Path) -> None:
    first = energy.meter(first_here=True, gpu=None, watts=65.0, began=0.0, powercap=powercap)
    second = energy.meter(first_here=False, gpu=None, watts=65.0, began=0.0, powercap=powercap)
    assert (first.source, second.source) == ("rapl", None)
    assert second.joules(now=100.0) == 0.0


def test_a_meter_reads_counters_now_and_then(powercap: Path) -> None:
    meter = energy.meter(first_here=True, gpu=None, watts=None, began=0.0, powercap=powercap)
    file = powercap / "intel-rapl:1" / "energy_uj"
    file.write_text("100000")
    assert meter.joules(now=10.0) == pytest.approx(0.1)
    file.write_text("200000")
    assert meter.joules(now=10.0 + energy.READ_S / 2) == pytest.approx(0.1)
    assert meter.joules(now=10.0 + energy.READ_S) == pytest.approx(0.2)


class FakeNvml:
    """NVML with one GPU, in millijoules."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.millijoules, self.broken = 5_000_000, False

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        if uuid != "GPU-1":
            raise self.NVMLError("Not Found")
        return uuid

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if self.broken:
            raise self.NVMLError("GPU is lost")
        return self.millijoules


def test_each_gpu_is_read_by_its_own_rank(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml()
    monkeypatch.setitem(__import__("sys").modules, "pynvml", nvml)
    assert energy.nvml("GPU-2") == []
    meter = energy.meter(first_here=False, gpu="GPU-1", watts=10.0, began=0.0, powercap=powercap)
    nvml.millijoules += 7_500
    assert (meter.source, meter.joules(now=10.0)) == ("nvml", 7.5)
    nvml.broken = True
    assert meter.joules(now=20.0) == 7.5
    nvml.broken, nvml.millijoules = False, 500  # the driver was loaded again
    assert meter.joules(now=30.0) == 8.0


def test_a_job_of_several_kinds_is_as_good_as_its_worst() -> None:
    assert energy.joined(["rapl + nvml", "nvml", None]) == "rapl + nvml"
    assert energy.joined(["rapl", "estimated"]) == "estimated"
    assert energy.joined([None, None]) is None


FACTS = {
    "cpus": 16,
    "simulated": False,
    "gpus": {"count": 8, "peak_tflops": {"bf16": 989.4}},
    "cost": {"hardware": "h100-sxm-8x", "idle_w": 2500.0, "maximum_w": 10200.0, "usd_per_hour": 55.04},
}


def test_a_job_learns_of_its_node_what_the_profile_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "node.json"
    file.write_text(json.dumps(FACTS))
    monkeypatch.setenv("SLIPWAY_NODE", str(file))
    found = node.read()
    assert (found.hardware, found.usd_per_hour, found.gpus) == ("h100-sxm-8x", 55.04, 8)
    assert found.share(cpus=2, gpus=4) == 0.5  # the greater part: nobody else can have those GPUs
    assert found.watts(0.5) == 5100


def test_simulated_gpus_make_no_share(tmp_path: Path) -> None:
    file = tmp_path / "node.json"
    file.write_text(json.dumps(FACTS | {"simulated": True}))
    assert node.read(file).share(cpus=4, gpus=8) == 0.25


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cost": 1}'])
def test_a_file_that_cannot_be_read_is_broken_and_not_missing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "node.json"
    file.write_text(text)
    with pytest.raises(Failure, match=r"node\.json: what this node is cannot be read"):
        node.read(file)


@pytest.mark.parametrize("devices", ["0", "0,1,2,3,4,5,6,7", "GPU-7", ""])
@pytest.mark.parametrize("asked", ["0", "8"])
@pytest.mark.parametrize("simulated", [True, False, None])
@pytest.mark.parametrize("seen", [0, 1, 8])
def test_gpus_that_are_simulated_absent_or_broken_are_three_things(
    monkeypatch: pytest.MonkeyPatch, devices: str, asked: str, simulated: bool | None, seen: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", devices)
    monkeypatch.setenv("SLIPWAY_GPUS", asked)
    here, given = node.Node(simulated=simulated), bool(devices) or asked != "0"

    def choose() -> bool:
        return node.simulates(here, seen, 8, lambda: "driver 580.95 is broken")

    if 0 < seen < 8:
        with pytest.raises(Failure, match="1 GPUs can be used, and 8 ranks here need one each"):
            choose()
    elif seen or not given:
        assert not choose()  # on GPUs, or on the CPU because nobody asked for any
    elif simulated:
        assert choose()
    else:
        with pytest.raises(Failure) as caught:
            choose()
        said = str(caught.value)
        assert platform.node() in said and "driver 580.95 is broken" in said and "\n" not in said


@pytest.mark.parametrize("text", [None, "{}"])
def test_without_facts_nothing_is_guessed(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "node.json"
    if text is not None:
        file.write_text(text)
    found = node.read(file)
    assert (found.watts(1.0), found.usd_per_hour, found.share(cpus=1, gpus=1)) == (None, None, 1.0)


@pytest.mark.parametrize(
    ("device", "precision", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989.4),
        ("NVIDIA A100-SXM4-40GB", "tf32", 156),
        ("Tesla V100-SXM2-32GB", "fp16", 125),
        ("NVIDIA L40S", "bf16", 362),
        ("NVIDIA L4", "bf16", 121),
        ("NVIDIA H100 PCIe", "bf16", None),  # another card, whose peak the table does not have
        ("Tesla V100-SXM2-32GB", "bf16", None),
        ("cpu", "fp32", None),
    ],
)
def test_a_peak_is_known_or_it_is_not(device: str, precision: str, tflops: float | None) -> None:
    assert flops.peak(device, precision, {}) == (None if tflops is None else tflops * 1e12)


def test_the_profile_s_peak_is_taken_before_the_table_s() -> None:
    peak = flops.peak("NVIDIA L4", "bf16", {"bf16": 1000})
    assert peak == 1e15
    assert flops.mfu(1e6, 5e6, peak, devices=4) == pytest.approx(1e6 * 5e6 / 4e15)


def test_the_table_has_the_profiles_figures() -> None:
    """One truth: hardware/*.yaml. The table is for machines that no profile describes."""
    from infra.base.paths import CHECKOUT
    from infra.model.load import load_profile, profile_names

    known = {}
    for name in profile_names(CHECKOUT):
        gpus = load_profile(name).accelerators
        if gpus:
            model = gpus.model.replace("H100 SXM5 80GB", "H100 80GB HBM3").replace("SXM2", "-SXM2")
            known[model.replace(" -", "-").replace(" SXM", "-SXM")] = gpus.peak_tflops.model_dump(
                exclude_none=True
            )
    for table, peaks in flops.DEVICES.items():
        if table == "H200":  # of which there is no profile: the same chip as H100
            assert peaks == flops.DEVICES["H100 80GB HBM3"]
            continue
        (figures,) = (figures for model, figures in known.items() if f"{model} ".startswith(f"{table} "))
        assert peaks == {name: figures[name] for name in peaks}
