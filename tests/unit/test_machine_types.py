"""What ships in hardware/, images/stacks/ and schemas/: right, complete, and chosen by facts."""

import json
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from infra.model import stacks
from infra.model.check import check
from infra.model.hardware import Accelerators
from infra.model.load import load_profile, profile_names
from infra.model.schema import COMMAND, schemas
from tests.checkout import checkout, own_hardware
from tests.unit.test_render import UNSEEN

FIRST_LINE = "# yaml-language-server: $schema=../schemas/{}.schema.json"


def test_everything_that_ships_is_right() -> None:
    found = check()
    assert set(found) >= {f"hardware/{name}.yaml" for name in profile_names(CHECKOUT)} | {"clusters/lab.yaml"}


@pytest.mark.parametrize(
    ("kind", "files"),
    [("hardware", "hardware/*.yaml"), ("cluster", "clusters/*.yaml"), ("job", "jobs/*.job.yaml")],
)
def test_editors_find_the_schema(kind: str, files: str) -> None:
    for path in CHECKOUT.glob(files):
        assert path.read_text().splitlines()[0] == FIRST_LINE.format(kind), path.name


def test_committed_schemas_are_those_of_the_model() -> None:
    for name, text in schemas().items():
        assert (CHECKOUT / "schemas" / name).read_text() == text, f"run {COMMAND}"


def accelerated() -> list[str]:
    return [name for name in profile_names(CHECKOUT) if load_profile(name).accelerators]


@pytest.mark.parametrize("name", accelerated())
def test_peaks_are_in_order(name: str) -> None:
    """A typing error of a power of ten, or a figure with sparsity, would show between neighbours."""
    gpus = load_profile(name).accelerators
    assert isinstance(gpus, Accelerators)
    peaks = json.loads(gpus.peak_tflops.model_dump_json(exclude_none=True))
    narrowing = ("fp64", "fp32", "tf32", "bf16", "fp8", "fp4")
    order = [peaks[precision] for precision in narrowing if precision in peaks]
    assert order == sorted(order)
    for narrow, wide in (("bf16", "tf32"), ("fp8", "bf16"), ("fp4", "fp8")):
        if narrow in peaks and wide in peaks:
            assert 1.9 <= peaks[narrow] / peaks[wide] <= 2.1, f"{narrow} is not twice {wide}"
    # Bytes and operations per second of one chip stay in proportion.
    fastest = peaks.get("bf16") or peaks.get("fp16") or peaks["fp32"]
    assert 0.5 <= gpus.memory_bandwidth_gb_per_s / fastest <= 50


@pytest.mark.parametrize("name", profile_names(CHECKOUT))
def test_thresholds_are_below_the_peaks(name: str) -> None:
    profile = load_profile(name)
    gpus, accept = profile.accelerators, profile.acceptance
    if gpus and accept.memory_gb_per_s:
        assert accept.memory_gb_per_s.at_least < gpus.memory_bandwidth_gb_per_s
    if gpus and accept.gemm_bf16_tflops:
        assert gpus.peak_tflops.bf16 and accept.gemm_bf16_tflops.at_least < gpus.peak_tflops.bf16
    if gpus and gpus.link and accept.all_reduce_bus_gb_per_s:
        assert accept.all_reduce_bus_gb_per_s.at_least < gpus.link.bandwidth_gb_per_s / 2
    fabric = [network.bandwidth_gbps for network in profile.network if network.use == "fabric"]
    if accept.network_gbps:
        assert accept.network_gbps.at_least < min(fabric)


def chosen(name: str) -> str:
    """The stack of machine type `name` among those that ship; the reason when there is none."""
    profile = load_profile(name)
    try:
        return stacks.choose(profile, stacks.read_stacks(CHECKOUT), {profile.architecture}).name
    except ValueError as error:
        return str(error)


def test_facts_choose_the_stack() -> None:
    new = {
        "a100-sxm-8x",
        "h100-sxm-8x",
        "b200-8x",
        "gb200-nvl72-tray",
        "l4-8x",
        "l40s-8x",
        "cpu-epyc-2s",
        "lab-cpu",
    }
    assert {chosen(name) for name in new} == {"cuda13"}
    assert chosen("v100-sxm-8x") == "cuda12"
    assert "drives nvidia devices, not amd" in chosen("mi300x-8x")
    assert "theirs is 540.4.0" in chosen("jetson-orin")


def test_a_kernel_runs_on_later_minor_versions_of_its_major_one() -> None:
    [stack] = [stack.file for stack in stacks.read_stacks(CHECKOUT) if stack.name == "cuda13"]
    profile = load_profile("l4-8x")
    assert profile.accelerators
    for capability, fits in (("8.9", True), ("10.3", True), ("7.0", False), ("11.0", False), ("13.0", False)):
        gpus = profile.accelerators.model_copy(update={"compute_capability": capability})
        reason = stacks.misfit(stack, profile.model_copy(update={"accelerators": gpus}), {"x86_64"})
        assert (reason is None) == fits, capability


# What such machines were seen to show (free, lscpu, /proc/meminfo), in GiB of those that are sold
SHOWN = [(64, 62.1), (64, 61.4), (16, 15.0), (8, 7.4)]


@pytest.mark.parametrize(("sold", "shown"), SHOWN)
def test_slurm_is_told_less_memory_than_machines_show(sold: int, shown: float) -> None:
    profile = load_profile("lab-cpu")
    memory = profile.memory.model_copy(update={"capacity_gib": sold})
    told = profile.model_copy(update={"memory": memory}).usable_mib
    assert sold * 1024 * 0.8 < told < shown * 1024


# Virtual CPUs and GiB of what clouds rent, by their own pages (sources ec2 and gce of the profiles)
RENTED = {
    ("h100-sxm-8x", "aws"): (192, 2048),
    ("h100-sxm-8x", "gcp"): (208, 1872),
    ("a100-sxm-8x", "aws"): (96, 1152),
    ("a100-sxm-8x", "gcp"): (96, 1360),
    ("b200-8x", "aws"): (192, 2048),
    ("b200-8x", "gcp"): (224, 3968),
    ("gb200-nvl72-tray", "aws"): (144, 960),
    ("gb200-nvl72-tray", "gcp"): (140, 884),
    ("v100-sxm-8x", "aws"): (96, 768),
    ("l4-8x", "aws"): (192, 768),
    ("l4-8x", "gcp"): (96, 384),
    ("l40s-8x", "aws"): (192, 1536),
    ("cpu-epyc-2s", "aws"): (192, 768),
    ("cpu-epyc-2s", "gcp"): (360, 1440),
    ("cloud-services", "aws"): (4, 16),
    ("cloud-services", "gcp"): (4, 16),
}


def test_a_cloud_rents_other_cores_and_memory_than_the_vendor_sells() -> None:
    """A node with fewer CPUs than Slurm is told gets no job."""
    types = {name: load_profile(name) for name in profile_names(CHECKOUT)}
    rented = {
        (name, place) for name, each in types.items() for place in each.instances if place in ("aws", "gcp")
    }
    rented.discard(("tpu-v5e-8", "gcp"))  # Slurm has none
    assert rented == set(RENTED)
    for (name, place), (threads, memory) in RENTED.items():
        there = types[name].at(place)
        assert (there.cpu.threads, there.memory.capacity_gib) == (threads, memory), (name, place)
        assert types[name].at("metal") == types[name]


@pytest.mark.parametrize("name", accelerated())
def test_the_fabric_manager_is_for_switches_of_the_machine(name: str) -> None:
    """A DGX-1 has NVLink and no switch, a GB200 tray has its rack's: the service would fail there."""
    gpus = load_profile(name).accelerators
    assert gpus and gpus.fabric_manager == (name in ("a100-sxm-8x", "h100-sxm-8x", "b200-8x"))


def test_check_says_when_nothing_can_tell_of_accelerators(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    data = {key: value for key, value in UNSEEN.items() if key != "not_applicable"}
    (own_hardware(root) / "quokka-3x.yaml").write_text(json.dumps(data))
    [said] = check([Path("hardware/quokka-3x.yaml")], root).values()
    end = "no accelerators of 'marsupial': say why in not_applicable, or it is for Kubernetes only"
    assert said.endswith(end)
