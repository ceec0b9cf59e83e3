"""What no cluster in a cloud may be: rules over the resources that a program asks for.

They read inputs (infra.provision.graph), so that they hold before anything is made: `make plan` and cluster-up ask
`enforce` first, wherever machines are rented. Each rule yields lines for people; no line is no complaint. A type of
resource that a rule does not know is a complaint too where it matters: what nobody looked at is not taken to be safe.
"""

import ipaddress
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from infra.base.errors import Failure
from infra.model.cluster import Cluster
from infra.provision.graph import Resource

Rule = Callable[[Cluster, list[Resource]], Iterator[str]]


def enforce(cluster: Cluster, judge: Callable[[Cluster], list[str]] | None = None) -> None:
    """Raises Failure with every complaint: what breaks a rule is neither planned nor made.

    In a process of its own, because Pulumi's runtime is one per process and the program runs under mocks here.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as other:
        found = other.submit(judge or judged, cluster).result()
    if found:
        lines = "".join(f"\n  {line}" for line in found)
        raise Failure(
            f"{cluster.file}: nothing is made that breaks a policy (infra/provision/policies.py):{lines}"
        )


def judged(cluster: Cluster) -> list[str]:
    """The complaints about the resources that `cluster` would be made of."""
    from infra.provision.graph import graph

    return complaints(cluster, graph(cluster))


def complaints(cluster: Cluster, resources: list[Resource]) -> list[str]:
    """Every way in which the resources break a rule, `rule: resource: what`; empty when they keep all of them."""
    return [f"{name}: {line}" for name, rule in RULES.items() for line in rule(cluster, resources)]


def ingress(cluster: Cluster, resources: list[Resource]) -> Iterator[str]:
    """Nothing listens to addresses outside of the cluster, but SSH on the bastion to the named networks."""
    allowed = {(network, 22, 22) for network in cluster.spec.machines.ssh_from}
    allowed |= {(network, 22, 22) for network in cluster.where.tunnels}
    for resource in resources:
        for source, first, last in _opened(resource):
            if _inside(cluster, source):
                continue
            if (source, first, last) not in allowed:
                yield f"{resource.name}: open to {source}, ports {first}-{last}"
            elif not resource.name.endswith(("-to-bastion", f"-ssh-from-{source}")):
                yield f"{resource.name}: {source} may enter, but not by the bastion"


def _opened(resource: Resource) -> Iterator[tuple[str, int, int]]:
    """Source network, first and last port of every opening that names addresses; -1 is any port."""
    inputs = resource.inputs
    if resource.type == "aws:vpc/securityGroupIngressRule:SecurityGroupIngressRule":
        for key in ("cidrIpv4", "cidrIpv6"):
            if inputs.get(key):
                yield inputs[key], inputs.get("fromPort", -1), inputs.get("toPort", -1)
        if inputs.get("prefixListId"):
            yield "0.0.0.0/0", inputs.get("fromPort", -1), inputs.get("toPort", -1)
    if resource.type in (
        "aws:ec2/securityGroup:SecurityGroup",
        "aws:ec2/defaultSecurityGroup:DefaultSecurityGroup",
    ):
        for rule in inputs.get("ingress") or []:
            for network in [*(rule.get("cidrBlocks") or []), *(rule.get("ipv6CidrBlocks") or [])]:
                yield network, rule.get("fromPort", -1), rule.get("toPort", -1)
    if resource.type == "aws:ec2/securityGroupRule:SecurityGroupRule" and inputs.get("type") == "ingress":
        for network in [*(inputs.get("cidrBlocks") or []), *(inputs.get("ipv6CidrBlocks") or [])]:
            yield network, inputs.get("fromPort", -1), inputs.get("toPort", -1)
    if resource.type == "gcp:compute/firewall:Firewall" and inputs.get("direction") != "EGRESS":
        tagged = inputs.get("sourceTags") or inputs.get("sourceServiceAccounts")
        for allow in inputs.get("allows") or []:
            for ports in allow.get("ports") or ["-1"]:
                first, _, last = ports.partition("-") if ports != "-1" else ("-1", "", "-1")
                # Without any source, Google lets in everybody.
                for network in inputs.get("sourceRanges") or ([] if tagged else ["0.0.0.0/0"]):
                    yield network, int(first), int(last or first)


def _inside(cluster: Cluster, text: str) -> bool:
    """Whether a network is a part of the cluster's own ones: the machines', or those of the bastion and the GPUs."""
    network = ipaddress.ip_network(text)
    own = [ipaddress.ip_network(cluster.spec.machines.cidr), ipaddress.ip_network("100.64.0.0/10")]
    return any(
        network.version == other.version and network.subnet_of(other)  # type: ignore[arg-type]
        for other in own
    )


def addresses(cluster: Cluster, resources: list[Resource]) -> Iterator[str]:
    """No machine of the cluster has a public address; the bastion has one only for named networks."""
    for resource in resources:
        if not _has_public_address(resource):
            continue
        if resource.name != f"slipway-{cluster.name}-bastion":
            yield f"{resource.name}: has a public address"
        elif not cluster.spec.machines.ssh_from:
            yield f"{resource.name}: has a public address, but machines.ssh_from names no network"


def _has_public_address(resource: Resource) -> bool:
    inputs = resource.inputs
    if resource.type == "aws:ec2/subnet:Subnet":
        return bool(inputs.get("mapPublicIpOnLaunch"))
    if resource.type == "aws:ec2/instance:Instance":
        return bool(inputs.get("associatePublicIpAddress"))
    if resource.type == "aws:ec2/launchTemplate:LaunchTemplate":
        nics = inputs.get("networkInterfaces") or []
        return any(str(nic.get("associatePublicIpAddress")).lower() == "true" for nic in nics)
    if resource.type == "aws:ec2/eip:Eip":  # that of the NAT gateway is bound by it, not by a machine
        return bool(inputs.get("instance") or inputs.get("networkInterface"))
    if resource.type == "gcp:compute/instance:Instance":
        return any("accessConfigs" in nic for nic in inputs.get("networkInterfaces") or [])
    if resource.type == "gcp:tpu/v2Vm:V2Vm":
        return (inputs.get("networkConfig") or {}).get("enableExternalIps") is not False
    return False


# What stores data. Google encrypts its own always, so that nothing can be asked of them; on AWS it must be said.
STORES = {
    "aws:ebs/volume:Volume": "encrypted",
    "aws:efs/fileSystem:FileSystem": "encrypted",
    "aws:fsx/lustreFileSystem:LustreFileSystem": "kmsKeyId",
    "aws:fsx/openZfsFileSystem:OpenZfsFileSystem": "kmsKeyId",
}


def encryption(cluster: Cluster, resources: list[Resource]) -> Iterator[str]:
    """Every disk, file system and bucket on AWS is encrypted with a key of the cluster's own, which rotates."""
    sealed = {
        resource.inputs.get("bucket")
        for resource in resources
        if "ServerSideEncryptionConfiguration" in resource.type
    }
    for resource in resources:
        inputs, kind = resource.inputs, resource.type
        if kind == "aws:ec2/instance:Instance":
            disks = [inputs.get("rootBlockDevice") or {}, *(inputs.get("ebsBlockDevices") or [])]
            if not all(disk.get("encrypted") is True and disk.get("kmsKeyId") for disk in disks):
                yield f"{resource.name}: has a disk that is not encrypted with a key of ours"
        elif kind == "aws:ec2/launchTemplate:LaunchTemplate":
            for device in inputs.get("blockDeviceMappings") or []:
                if str((device.get("ebs") or {}).get("encrypted")).lower() != "true":
                    yield f"{resource.name}: has a disk that is not encrypted"
        elif kind in STORES and not inputs.get(STORES[kind]):
            yield f"{resource.name}: is not encrypted; set {STORES[kind]}"
        elif kind.startswith("aws:s3/bucket") and kind.endswith((":Bucket", ":BucketV2")):
            if f"id-{resource.name}" not in sealed and inputs.get("bucket") not in sealed - {None}:
                yield f"{resource.name}: is not encrypted; name it in a server-side encryption configuration"
        elif kind == "aws:kms/key:Key" and not inputs.get("enableKeyRotation"):
            yield f"{resource.name}: does not rotate"


def rights(cluster: Cluster, resources: list[Resource]) -> Iterator[str]:
    """No role may do everything, or something to everything; none of Google's basic roles is given."""
    for resource in resources:
        for key in ("policy", "assumeRolePolicy"):
            if resource.type.startswith("aws:iam/") and resource.inputs.get(key):
                document = resource.inputs[key]
                yield from _statements(
                    resource.name, json.loads(document) if isinstance(document, str) else document
                )
        for inline in resource.inputs.get("inlinePolicies") or []:
            yield from _statements(resource.name, json.loads(inline["policy"]))
        managed = [*(resource.inputs.get("managedPolicyArns") or []), resource.inputs.get("policyArn") or ""]
        for arn in managed:
            if ":aws:policy/" in arn:  # AWS writes those with Resource "*"
                yield f"{resource.name}: {arn} is AWS's own, with every resource in it; write one"
        role = str(resource.inputs.get("role", ""))
        if resource.type.startswith("gcp:") and role in ("roles/owner", "roles/editor", "roles/viewer"):
            yield f"{resource.name}: {role} is right to a whole project"
        if resource.type.startswith("gcp:") and resource.inputs.get("member") in (
            "allUsers",
            "allAuthenticatedUsers",
        ):
            yield f"{resource.name}: {role} is given to everybody"


def _statements(name: str, policy: dict[str, Any]) -> Iterator[str]:
    statements = policy.get("Statement", [])
    for statement in statements if isinstance(statements, list) else [statements]:
        if statement.get("Effect") != "Allow":
            continue
        for what in ("Action", "Resource"):
            values = statement.get(what, [])
            for value in values if isinstance(values, list) else [values]:
                if "*" in value:
                    yield f"{name}: {what} {value} has a wildcard"
        for what in ("NotAction", "NotResource"):
            if what in statement:
                yield f"{name}: {what} allows all but what it names"


def metadata(cluster: Cluster, resources: list[Resource]) -> Iterator[str]:
    """The metadata service of AWS answers sessions only (IMDSv2), and nobody behind the machine."""
    for resource in resources:
        if resource.type == "aws:ec2/instance:Instance":
            options = resource.inputs.get("metadataOptions") or {}
            if options.get("httpTokens") != "required":
                yield f"{resource.name}: its metadata service answers without a session; set httpTokens: required"
            if options.get("httpPutResponseHopLimit") != 1:
                yield f"{resource.name}: its metadata service answers containers; set httpPutResponseHopLimit: 1"


def secrets(cluster: Cluster, resources: list[Resource]) -> Iterator[str]:
    """What holds a private key is encrypted in the state."""
    for resource in resources:
        for key, value in resource.inputs.items():
            text = value if isinstance(value, str) else json.dumps(value)
            if key not in resource.secret and ("PRIVATE KEY" in text or "private key" in text):
                yield f"{resource.name}: {key} has a private key and is no secret of the state"


# What takes no tags or labels, with the reason that holds for all of a type.
UNTAGGED = {
    "aws:ec2/route:Route": True,
    "aws:ec2/routeTableAssociation:RouteTableAssociation": True,
    "aws:ec2/vpcDhcpOptionsAssociation:VpcDhcpOptionsAssociation": True,
    "aws:ec2/vpcIpv4CidrBlockAssociation:VpcIpv4CidrBlockAssociation": True,
    "aws:route53/record:Record": True,
    "gcp:compute/firewall:Firewall": True,
    "gcp:compute/network:Network": True,
    "gcp:compute/resourcePolicy:ResourcePolicy": True,
    "gcp:compute/router:Router": True,
    "gcp:compute/routerNat:RouterNat": True,
    "gcp:compute/subnetwork:Subnetwork": True,
    "gcp:dns/recordSet:RecordSet": True,
    "gcp:serviceaccount/account:Account": True,
}


# Where a resource says whose it is. The last are our own, of places docker and metal.
MARKS = {
    "aws": ("tags", "slipway:cluster"),
    "gcp": ("labels", "slipway-cluster"),
    "pulumi-python": ("labels", "slipway:cluster"),
}


def tagged(cluster: Cluster, resources: list[Resource]) -> Iterator[str]:
    """Whatever can say whose it is says so: a bill, and a search for what was left over, go by that."""
    for resource in resources:
        if resource.type.startswith("pulumi:") or UNTAGGED.get(resource.type):
            continue
        place = resource.type.partition(":")[0]
        key, mark = MARKS.get(place, MARKS["gcp"])
        if (resource.inputs.get(key) or {}).get(mark) != cluster.name:
            yield f"{resource.name}: has no {key[:-1]} {mark}={cluster.name}"


RULES: dict[str, Rule] = {
    "ingress": ingress,
    "addresses": addresses,
    "encryption": encryption,
    "rights": rights,
    "metadata": metadata,
    "secrets": secrets,
    "tagged": tagged,
}
