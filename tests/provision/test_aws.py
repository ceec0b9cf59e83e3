"""What the AWS program promises, read off its resource graph."""

from pathlib import Path
from typing import Any

import pytest

from infra.model import shape
from infra.model.cluster import Cluster
from infra.model.load import load_profile
from infra.model.shape import machines
from infra.provision.aws import instance, network, place
from infra.provision.graph import AUTHORIZED, KEY, Resource, graph, record
from infra.provision.program import Inputs, program
from tests.provision.clouds import SHAPES, load, made

TESTED = {"mocks": ["place aws", "EFA, InfiniBand, RoCE", "shared disk: FSx, Filestore, Lustre"]}

INSTANCE = "aws:ec2/instance:Instance"
TEMPLATE = "aws:ec2/launchTemplate:LaunchTemplate"


def of(resources: list[Resource], kind: str) -> dict[str, dict[str, Any]]:
    """Inputs of all resources of a type, by name without the cluster's."""
    return {r.name.split("-", 2)[2]: r.inputs for r in resources if r.type == kind}


def test_h100_machines_have_32_fabric_interfaces_without_addresses() -> None:
    resources = made("aws-h100")[1]
    (template,) = of(resources, TEMPLATE).values()
    first, *fabric = template["networkInterfaces"]
    assert first["interfaceType"] == "interface" and first["networkCardIndex"] == 0
    assert [nic["networkCardIndex"] for nic in fabric] == list(range(32))
    assert {nic["interfaceType"] for nic in fabric} == {"efa-only"}
    assert [nic["deviceIndex"] for nic in fabric] == [1] + [0] * 31
    nodes = {name: i for name, i in of(resources, INSTANCE).items() if name.startswith("gpu-")}
    assert set(nodes) == {"gpu-1", "gpu-2"}
    assert {i["instanceType"] for i in nodes.values()} == {"p5.48xlarge"}
    assert {i["placementGroup"] for i in nodes.values()} == {"slipway-small-gpu-us-east-1a"}


@pytest.mark.parametrize(
    ("hardware", "cards"),
    [
        ("h100-sxm-8x", list(range(32))),
        ("gb200-nvl72-tray", [1, 3, 5, 7, 9, 11, 13, 15]),
        ("l40s-8x", [0, 1, 2, 3]),  # the machine is AWS's own: its network block says it
        ("cpu-epyc-2s", []),
        ("cloud-services", []),
    ],
)
def test_efa_follows_the_facts_of_the_machine_type(hardware: str, cards: list[int]) -> None:
    assert instance.fabric_cards(load_profile(hardware)) == cards


def test_two_racks_of_gb200() -> None:
    resources = made("aws-gb200")[1]
    nodes = {name: i for name, i in of(resources, INSTANCE).items() if name.startswith("gpu-")}
    assert len(nodes) == 36
    assert {i["instanceType"] for i in nodes.values()} == {"p6e-gb200.36xlarge"}
    assert {i["ami"] for i in nodes.values()} == {"ami-debian-13-arm64-20*"}
    assert {i["instanceMarketOptions"]["marketType"] for i in nodes.values()} == {"capacity-block"}
    target = nodes["gpu-1"]["capacityReservationSpecification"]["capacityReservationTarget"]
    assert target == {"capacityReservationId": "cr-0123456789abcdef0"}
    assert not of(resources, "aws:ec2/placementGroup:PlacementGroup"), "the block has its own"


def test_spot_in_another_zone_is_placed_there() -> None:
    resources = made("aws-cpu")[1]
    node = of(resources, INSTANCE)["gpu-1"]
    assert node["instanceMarketOptions"]["marketType"] == "spot"
    assert node["subnetId"] == "id-slipway-small-private-us-east-1b"
    assert {s["cidrBlock"] for s in of(resources, "aws:ec2/subnet:Subnet").values()} == {
        "10.77.0.0/25",
        "10.77.0.128/25",
        "100.64.0.0/28",
    }
    services = of(resources, INSTANCE)["slurmctld"]
    assert "instanceMarketOptions" not in services, "the controller must outlive the spot market"


def test_a_plain_reservation_is_no_market(root: Path) -> None:
    data = SHAPES["aws-h100"] | {
        "pools": {"gpu": SHAPES["aws-h100"]["pools"]["gpu"] | {"reservation": "cr-1"}}
    }
    node = of(graph(load(root, data)), INSTANCE)["gpu-1"]
    assert node["capacityReservationSpecification"]["capacityReservationTarget"] == {
        "capacityReservationId": "cr-1"
    }
    assert "instanceMarketOptions" not in node


def test_no_machine_has_a_role() -> None:
    resources = made("aws-h100")[1]
    assert not [r for r in resources if r.type.startswith("aws:iam/")]
    assert not [i for i in of(resources, INSTANCE).values() if "iamInstanceProfile" in i]


def test_ssh_enters_by_the_endpoint_or_by_the_named_networks() -> None:
    endpoint = "aws:ec2transitgateway/instanceConnectEndpoint:InstanceConnectEndpoint"
    closed, named = made("aws-h100")[1], made("aws-cpu")[1]
    assert of(closed, endpoint) and not of(named, endpoint)
    assert of(closed, INSTANCE)["bastion"]["associatePublicIpAddress"] is False
    assert of(named, INSTANCE)["bastion"]["associatePublicIpAddress"] is True
    rules = of(named, "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")
    (outside,) = [rule for rule in rules.values() if "cidrIpv4" in rule]
    assert (outside["cidrIpv4"], outside["fromPort"], outside["toPort"]) == ("203.0.113.0/24", 22, 22)
    assert outside["securityGroupId"] == "id-slipway-small-admin"


def test_groups_are_the_rows_of_the_port_table() -> None:
    rules = of(made("aws-h100")[1], "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule")
    found = {
        (r["fromPort"], r["securityGroupId"].split("-")[-1], r["referencedSecurityGroupId"].split("-")[-1])
        for r in rules.values()
        if r.get("fromPort", -1) > 0
    }
    assert {
        (3306, "db", "slurmdbd"),
        (6817, "slurmctld", "all"),
        (22, "all", "admin"),
        (988, "storage", "all"),
    } <= found
    assert (22, "compute", "login") not in found
    assert not [row for row in found if row[0] == 3306 and row[2] != "slurmdbd"]


@pytest.mark.parametrize(
    ("asked", "sold"), [(1, 1200), (1200, 1200), (1201, 2400), (2400, 2400), (5000, 7200)]
)
def test_lustre_comes_in_the_sizes_that_are_sold(asked: int, sold: int) -> None:
    assert place.lustre_gib(asked) == sold


@pytest.mark.parametrize(
    ("count", "parts"), [(1, ["10.0.0.0/24"]), (2, ["10.0.0.0/25", "10.0.0.128/25"]), (3, 3)]
)
def test_zones_share_the_network(count: int, parts: Any) -> None:
    found = network.split("10.0.0.0/24", count)
    assert (len(found) if isinstance(parts, int) else found) == parts


def test_outputs_say_how_each_machine_is_reached(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = load(root, SHAPES["aws-h100"])
    outputs = exported(cluster, monkeypatch)
    names = [entry["name"] for entry in outputs["machines"]]
    assert names == [spec.name for spec in machines(cluster)]
    assert outputs["machines"][-1]["address"] == "private-slipway-small-gpu-2"
    assert outputs["machines"][-1]["host_key"] == KEY.public
    assert outputs["storage"]["source"] == "dns-slipway-small-shared@tcp:/mount"
    assert outputs["bastion"]["command"].startswith(
        "aws ec2-instance-connect open-tunnel --region us-east-1 "
    )


def exported(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the program hands to the rest of the tooling."""
    import pulumi

    from infra.provision import cloudinit

    found: dict[str, Any] = {}

    def export(name: str, value: Any) -> None:
        pulumi.Output.from_input(value).apply(lambda known: found.__setitem__(name, known))

    monkeypatch.setattr(cloudinit, "host_key", lambda cluster, machine: KEY)
    monkeypatch.setattr(pulumi, "export", export)
    record(program(cluster, Inputs(authorized_key=AUTHORIZED)))
    return found


def test_every_resource_is_named_after_the_cluster(root: Path) -> None:
    cluster = load(root, SHAPES["aws-h100"])
    resources = [r for r in graph(cluster) if r.type != "pulumi:pulumi:Stack"]
    assert all(r.name.startswith(shape.resource_name(cluster, "")) for r in resources)
