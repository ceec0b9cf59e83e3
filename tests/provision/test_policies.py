"""No cluster in a cloud breaks a policy; and each policy is red for a program that deserves it."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pulumi
import pulumi_aws as aws
import pulumi_gcp as gcp
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from infra.base.errors import Failure
from infra.base.progress import step
from infra.model.cluster import Cluster
from infra.model.load import load_cluster, load_profile
from infra.provision import policies
from infra.provision.graph import graph, record
from infra.provision.provisioner import Provisioner
from tests.provision.clouds import SHAPES, in_cloud, load, made
from tests.strategies import clusters, schedulable

TESTED = {"mocks": ["place docker", "place aws", "place gcp", "place metal"]}

OWN = {"slipway:cluster": "small"}
LABELS = {"slipway-cluster": "small"}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_keep_every_policy(shape: str) -> None:
    assert policies.complaints(*made(shape)) == []


@pytest.mark.parametrize("name", ["aws", "gcp"])
def test_the_shipped_clusters_keep_every_policy(name: str) -> None:
    cluster = load_cluster(f"clusters/{name}.yaml")
    assert policies.complaints(cluster, graph(cluster)) == []


def test_what_is_rented_is_judged_before_anything_is_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: Pulumi's runtime here is as it was."""
    cluster = load_cluster("clusters/aws.yaml")
    policies.enforce(cluster)
    with pytest.raises(Failure) as stopped:
        policies.enforce(cluster, judge=of_an_open_port)
    said = str(stopped.value).splitlines()
    assert said[0].startswith("clusters/aws.yaml: nothing is made that breaks a policy")
    assert "  ingress: ssh: open to 0.0.0.0/0, ports 22-22" in said

    def stop(cluster: Cluster) -> None:
        raise Failure("judged")

    monkeypatch.setattr(policies, "enforce", stop)
    with step("machines") as this:
        for verb in (Provisioner(cluster, this).preview, partial(Provisioner(cluster, this).up, this)):
            with pytest.raises(Failure, match="judged"):
                verb()


def of_an_open_port(cluster: Cluster) -> list[str]:
    """What another process would say of a program that opens SSH to everybody."""
    return policies.complaints(cluster, record(open_ssh))


def rented(place: str) -> list[str]:
    return [name for name in schedulable() if place in load_profile(name).instances]


@pytest.mark.parametrize("place", ["aws", "gcp"])
def test_any_cluster_in_a_cloud_keeps_every_policy(place: str, root: Path) -> None:
    @settings(
        max_examples=6,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(clusters(rented(place)), st.just(place))
    def one(data: dict[str, Any], place: str) -> None:
        cluster = load(root, in_cloud(data, place))
        assert policies.complaints(cluster, graph(cluster)) == []

    one()


def policy(action: str, resource: str) -> str:
    statement = {"Effect": "Allow", "Action": [action], "Resource": [resource]}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def open_ssh() -> None:
    aws.vpc.SecurityGroupIngressRule(
        "ssh",
        security_group_id="sg-1",
        ip_protocol="tcp",
        from_port=22,
        to_port=22,
        cidr_ipv4="0.0.0.0/0",
        tags=OWN,
    )


def open_to_a_private_network() -> None:
    aws.vpc.SecurityGroupIngressRule(
        "web", security_group_id="sg-1", ip_protocol="-1", cidr_ipv4="10.0.0.0/8", tags=OWN
    )


def open_ipv6() -> None:
    aws.vpc.SecurityGroupIngressRule(
        "web", security_group_id="sg-1", ip_protocol="-1", cidr_ipv6="::/0", tags=OWN
    )


def open_group() -> None:
    rule = aws.ec2.SecurityGroupIngressArgs(
        protocol="tcp", from_port=80, to_port=80, cidr_blocks=["0.0.0.0/0"]
    )
    aws.ec2.SecurityGroup("web", ingress=[rule], tags=OWN)


def open_firewall() -> None:
    gcp.compute.Firewall("web", network="n", allows=[{"protocol": "tcp", "ports": ["80"]}])


def wide_proxy() -> None:
    gcp.compute.Firewall(
        "node",
        network="n",
        allows=[{"protocol": "tcp"}],
        source_ranges=["35.235.240.0/20"],
        target_tags=["all"],
    )


def instance(**changes: Any) -> None:
    good = {
        "ami": "ami-1",
        "instance_type": "t4g.nano",
        "metadata_options": {"http_tokens": "required", "http_put_response_hop_limit": 1},
        "root_block_device": {"encrypted": True, "kms_key_id": "k"},
        "tags": OWN,
    }
    aws.ec2.Instance("node", **(good | changes))


def public_address() -> None:
    instance(associate_public_ip_address=True)


def public_subnet() -> None:
    aws.ec2.Subnet("net", vpc_id="v", cidr_block="10.0.0.0/24", map_public_ip_on_launch=True, tags=OWN)


def public_template() -> None:
    nic = aws.ec2.LaunchTemplateNetworkInterfaceArgs(associate_public_ip_address="true")
    aws.ec2.LaunchTemplate("t", network_interfaces=[nic], tags=OWN)


def public_google() -> None:
    gcp.compute.Instance(
        "node",
        machine_type="e2-micro",
        boot_disk={},
        network_interfaces=[{"network": "n", "access_configs": [{}]}],
        labels=LABELS,
    )


def public_tpu() -> None:
    gcp.tpu.V2Vm("tpu", runtime_version="r", accelerator_type="v5litepod-8", labels=LABELS)


def plain_disk() -> None:
    instance(root_block_device={"volume_type": "gp3"})


def plain_volume() -> None:
    aws.ebs.Volume("data", availability_zone="us-east-1a", size=10, tags=OWN)


def plain_files() -> None:
    aws.fsx.LustreFileSystem("files", subnet_ids="s", storage_capacity=1200, tags=OWN)


def plain_bucket() -> None:
    aws.s3.Bucket("data", tags=OWN)


def key_for_ever() -> None:
    aws.kms.Key("key", tags=OWN)


def any_action() -> None:
    aws.iam.RolePolicy("p", role="r", policy=policy("s3:*", "arn:aws:s3:::data"))


def any_resource() -> None:
    aws.iam.RolePolicy("p", role="r", policy=policy("s3:GetObject", "*"))


def managed_policy() -> None:
    aws.iam.RolePolicyAttachment(
        "p", role="r", policy_arn="arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    )


def project_editor() -> None:
    gcp.projects.IAMMember("m", project="p", role="roles/editor", member="serviceAccount:x")


def everybody() -> None:
    gcp.storage.BucketIAMMember("m", bucket="b", role="roles/storage.objectViewer", member="allUsers")


def old_metadata() -> None:
    instance(metadata_options={"http_tokens": "optional", "http_put_response_hop_limit": 1})


def far_metadata() -> None:
    instance(metadata_options={"http_tokens": "required", "http_put_response_hop_limit": 2})


def key_in_clear() -> None:
    instance(user_data="-----BEGIN OPENSSH PRIVATE KEY-----")


def nobodys() -> None:
    instance(tags={"Name": "node"})


def nobodys_at_google() -> None:
    gcp.filestore.Instance("files", tier="ZONAL", file_shares={}, networks=[])


RED: dict[str, list[Callable[[], None]]] = {
    "ingress": [open_ssh, open_to_a_private_network, open_ipv6, open_group, open_firewall, wide_proxy],
    "addresses": [public_address, public_subnet, public_template, public_google, public_tpu],
    "encryption": [plain_disk, plain_volume, plain_files, plain_bucket, key_for_ever],
    "rights": [any_action, any_resource, managed_policy, project_editor, everybody],
    "metadata": [old_metadata, far_metadata],
    "secrets": [key_in_clear],
    "tagged": [nobodys, nobodys_at_google],
}


def test_every_policy_has_a_program_that_breaks_it() -> None:
    assert set(RED) == set(policies.RULES)


@pytest.mark.parametrize(
    ("rule", "broken"), [(rule, broken) for rule, several in RED.items() for broken in several]
)
def test_a_program_that_breaks_a_policy_is_named(rule: str, broken: Callable[[], None], root: Path) -> None:
    place = "gcp" if broken.__code__.co_names[:1] == ("gcp",) else "aws"
    cluster = load(root, SHAPES[f"{place}-h100"])
    found = list(policies.RULES[rule](cluster, record(broken)))
    assert found, f"{rule} has nothing to say"
    others = [
        line
        for line in policies.complaints(cluster, record(broken))
        if not line.startswith((f"{rule}:", "tagged:"))
    ]
    assert others == [], "a broken program breaks one policy, so that this one is proven"


def test_a_sound_program_is_not_complained_of(root: Path) -> None:
    def sound() -> None:
        instance(user_data=pulumi.Output.secret("-----BEGIN OPENSSH PRIVATE KEY-----"))
        bucket = aws.s3.Bucket("data", tags=OWN)
        aws.s3.BucketServerSideEncryptionConfiguration("data", bucket=bucket.id, rules=[])
        aws.iam.RolePolicy("p", role="r", policy=policy("s3:GetObject", "arn:aws:s3:::data/models"))

    cluster = load(root, SHAPES["aws-h100"])
    found = policies.complaints(cluster, record(sound))
    assert [line for line in found if not line.startswith("tagged: ")] == []


def test_a_bastion_with_an_address_is_for_named_networks_only(root: Path) -> None:
    closed, named = load(root, SHAPES["aws-h100"], "closed"), load(root, SHAPES["aws-cpu"], "closed")
    with_address = graph(named)
    assert list(policies.addresses(named, with_address)) == []
    assert list(policies.addresses(closed, with_address)) != []
    assert list(policies.ingress(closed, with_address)) != []
