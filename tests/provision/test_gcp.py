"""What the Google Cloud program promises, read off its resource graph."""

from pathlib import Path

import pytest

from infra.model.places import PLACES
from infra.provision.gcp import network, place
from infra.provision.graph import graph
from tests.provision.clouds import SHAPES, load, made
from tests.provision.test_aws import exported, of

TESTED = {"mocks": ["place gcp", "TPU", "shared disk: FSx, Filestore, Lustre"]}

INSTANCE = "gcp:compute/instance:Instance"
POLICY = "gcp:compute/resourcePolicy:ResourcePolicy"


def test_h100_machines_have_a_network_for_each_fabric_interface() -> None:
    resources = made("gcp-h100")[1]
    node = of(resources, INSTANCE)["gpu-1"]
    assert node["machineType"] == "a3-highgpu-8g"
    networks = [nic["network"] for nic in node["networkInterfaces"]]
    assert len(set(networks)) == 5 and networks[0] == "id-slipway-small-vpc"
    assert {nic["nicType"] for nic in node["networkInterfaces"]} == {"GVNIC"}
    assert node["scheduling"]["onHostMaintenance"] == "TERMINATE"
    assert node["reservationAffinity"]["specificReservation"]["values"] == ["ours"]
    assert node["resourcePolicies"] == "id-slipway-small-gpu-close"


def test_each_rack_of_gb200_is_placed_as_one_domain() -> None:
    resources = made("gcp-gb200")[1]
    policies = of(resources, POLICY)
    assert {p["groupPlacementPolicy"]["gpuTopology"] for p in policies.values()} == {"1x72"}
    nodes = {name: i for name, i in of(resources, INSTANCE).items() if name.startswith("gpu-")}
    racks = [nodes[f"gpu-{n}"]["resourcePolicies"] for n in (1, 18, 19, 36)]
    assert racks[0] == racks[1] != racks[2] == racks[3]
    nics = nodes["gpu-1"]["networkInterfaces"]
    assert [nic["nicType"] for nic in nics] == ["GVNIC", *["MRDMA"] * 4]
    assert len({nic["network"] for nic in nics[1:]}) == 1
    assert nodes["gpu-1"]["bootDisk"]["initializeParams"]["image"] == "debian-cloud/debian-13-arm64"
    assert nodes["gpu-1"]["bootDisk"]["initializeParams"]["type"] == "hyperdisk-balanced"


def test_spot_is_not_started_again_and_services_are_not_spot() -> None:
    instances = of(made("gcp-cpu")[1], INSTANCE)
    assert instances["gpu-1"]["scheduling"]["provisioningModel"] == "SPOT"
    assert instances["gpu-1"]["scheduling"]["automaticRestart"] is False
    assert instances["db"]["scheduling"] == {
        "provisioningModel": "STANDARD",
        "preemptible": False,
        "automaticRestart": True,
        "onHostMaintenance": "MIGRATE",
    }


def test_tpus_are_google_s_own_machines() -> None:
    resources = made("gcp-tpu")[1]
    tpu = of(resources, "gcp:tpu/v2Vm:V2Vm")["gpu-1"]
    assert (tpu["acceleratorType"], tpu["runtimeVersion"]) == ("v5litepod-8", "v2-alpha-tpuv5-lite")
    assert tpu["networkConfig"]["enableExternalIps"] is False
    assert tpu["schedulingConfig"] == {"spot": True}
    assert "gpu-1" not in of(resources, INSTANCE)


def test_no_account_has_a_role() -> None:
    resources = made("gcp-h100")[1]
    assert not [r for r in resources if "iam" in r.type.lower()]
    assert of(resources, INSTANCE)["gpu-1"]["serviceAccount"]["email"] == "slipway-small-node@project"


def test_ssh_enters_by_the_proxy_or_by_the_named_networks(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = "gcp:compute/firewall:Firewall"
    closed, named = made("gcp-h100")[1], made("gcp-cpu")[1]
    assert of(closed, kind)["ssh-to-bastion"]["sourceRanges"] == list(PLACES["gcp"].tunnels)
    assert of(named, kind)["ssh-to-bastion"]["sourceRanges"] == ["203.0.113.0/24"]
    assert "accessConfigs" not in of(closed, INSTANCE)["bastion"]["networkInterfaces"][0]
    assert "accessConfigs" in of(named, INSTANCE)["bastion"]["networkInterfaces"][0]
    bastion = exported(load(root, SHAPES["gcp-h100"]), monkeypatch)["bastion"]
    assert bastion["command"].startswith("gcloud compute start-iap-tunnel slipway-small-bastion 22 ")


def test_egress_ends_with_a_closed_door() -> None:
    rules = of(made("gcp-h100")[1], "gcp:compute/firewall:Firewall")
    last = rules["out-closed"]
    assert last["denies"] == [{"protocol": "all"}] and last["priority"] == 65000
    assert rules["out-storage"]["allows"] == [{"protocol": "tcp", "ports": ["2049"]}]


def test_machines_know_their_key_from_the_metadata_and_no_other(root: Path) -> None:
    cluster = load(root, SHAPES["gcp-h100"])
    node = next(r for r in graph(cluster) if r.name == "slipway-small-gpu-1")
    assert "metadata" in node.secret
    assert node.inputs["metadata"]["enable-oslogin"] == "FALSE"
    assert node.inputs["metadata"]["block-project-ssh-keys"] == "TRUE"


@pytest.mark.parametrize(("asked", "sold"), [(1, 1024), (1024, 1024), (1025, 1280), (1200, 1280)])
def test_filestore_comes_in_the_sizes_that_are_sold(asked: int, sold: int) -> None:
    assert place.filestore_gib(asked) == sold


def test_names_fit_what_google_takes() -> None:
    long = network.short("slipway-" + "x" * 32 + "-" + "gpu.example" * 6)
    assert len(long) <= 63 and long == network.short("slipway-" + "x" * 32 + "-" + "gpu.example" * 6)
    assert network.short("slipway-a-gpu.1") == "slipway-a-gpu-1"
