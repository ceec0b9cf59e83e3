"""A cluster's resources without a cloud: the program runs under Pulumi's mocks, and what it asks for is recorded.

No engine, no provider and no credentials: it shows what the program says, not what the cloud would answer. Tests
compare it, the policies read it, and the bench times it.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from infra.model.cluster import Cluster
from infra.provision import cloudinit
from infra.provision.program import Inputs, program

KEY = cloudinit.HostKey("mock private key\n", "ssh-ed25519 AAAAmock")
AUTHORIZED = "ssh-ed25519 AAAAadmin slipway"


@dataclass(frozen=True)
class Resource:
    """One thing that the program asks for. Inputs have the names of Pulumi's schema: camelCase."""

    type: str  # aws:ec2/instance:Instance
    name: str
    inputs: dict[str, Any]
    secret: tuple[str, ...] = ()  # inputs that the state holds encrypted


def graph(cluster: Cluster) -> list[Resource]:
    """What `cluster` would be made of, in the order of their names. Changes nothing, on disk either.

    Not to be called by two threads at once: Pulumi's runtime is one per process.
    """
    real = cloudinit.host_key
    cloudinit.host_key = lambda cluster, machine: KEY
    try:
        return record(program(cluster, Inputs(authorized_key=AUTHORIZED)), cluster.name)
    finally:
        cloudinit.host_key = real


def record(run: Callable[[], None], stack: str = "test") -> list[Resource]:
    """The resources that a Pulumi program asks for. Raises what the program raises."""
    from pulumi.runtime import mocks
    from pulumi.runtime.settings import SETTINGS
    from pulumi.runtime.stack import run_pulumi_func
    from pulumi.runtime.sync_await import _sync_await

    found: list[Resource] = []

    class Recorder(mocks.Mocks):
        def new_resource(self, args: mocks.MockResourceArgs) -> tuple[str | None, dict[str, Any]]:
            secret = tuple(sorted(key for key, value in args.inputs.items() if _is_secret(value)))
            inputs = {key: _open(value) for key, value in args.inputs.items()}
            found.append(Resource(args.typ, args.name, inputs, secret))
            return f"id-{args.name}", answer(args.typ, args.name, inputs)

        def call(self, args: mocks.MockCallArgs) -> tuple[dict[str, Any], list[tuple[str, str]]]:
            if args.token == "aws:ec2/getAmi:getAmi":  # noqa: S105
                name = next(item["values"][0] for item in args.args["filters"] if item["name"] == "name")
                return {**args.args, "id": f"ami-{name}"}, []
            raise NotImplementedError(f"no answer to {args.token} is recorded")

    SETTINGS.rpc_manager.clear()
    SETTINGS.outputs.clear()
    mocks.set_mocks(Recorder(), project="slipway", stack=stack, preview=False)

    _sync_await(run_pulumi_func(run))
    return sorted(found, key=lambda resource: (resource.type, resource.name))


def _is_secret(value: Any) -> bool:
    from pulumi.runtime.rpc import _special_secret_sig, _special_sig_key

    return isinstance(value, dict) and value.get(_special_sig_key) == _special_secret_sig


def _open(value: Any) -> Any:
    """A copy of an input without Pulumi's mark around secrets; whole numbers as such, which Pulumi sends as 1.0."""
    if _is_secret(value):
        return _open(value["value"])
    if isinstance(value, dict):
        return {key: _open(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_open(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def answer(kind: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """What a cloud would add to a resource: the attributes that the programs read."""
    made = {**inputs, "name": inputs.get("name", name), "arn": f"arn-{name}"}
    if kind == "aws:ec2/instance:Instance":
        made |= {"privateIp": f"private-{name}", "publicIp": f"public-{name}"}
    if kind == "aws:ec2/launchTemplate:LaunchTemplate":
        made["latestVersion"] = 1
    if kind == "aws:route53/zone:Zone":
        made["zoneId"] = f"id-{name}"
    if kind == "aws:fsx/lustreFileSystem:LustreFileSystem":
        made |= {"dnsName": f"dns-{name}", "mountName": "mount"}
    if kind == "gcp:compute/instance:Instance":
        made["networkInterfaces"] = [
            {**nic, "networkIp": f"private-{name}", "accessConfigs": [{"natIp": f"public-{name}"}]}
            for nic in inputs["networkInterfaces"]
        ]
    if kind == "gcp:serviceaccount/account:Account":
        made["email"] = f"{inputs['accountId']}@project"
    if kind == "gcp:filestore/instance:Instance":
        made["networks"] = [{**item, "ipAddresses": [f"private-{name}"]} for item in inputs["networks"]]
    if kind == "gcp:tpu/v2Vm:V2Vm":
        made["networkEndpoints"] = [{"ipAddress": f"private-{name}", "port": 8470}]
    return made


def text(resources: list[Resource]) -> str:
    """For people and golden files: type and name, then the inputs. Tags have their own tests; secrets are named."""
    lines = []
    for resource in resources:
        lines.append(f"{resource.type} {resource.name}")
        for key, value in sorted(resource.inputs.items()):
            if key in resource.secret:
                lines.append(f"  {key}: (secret)")
            elif key not in HIDDEN:
                lines.append(
                    f"  {key}: {value if isinstance(value, str) else json.dumps(value, sort_keys=True)}"
                )
    return "\n".join(lines) + "\n"


HIDDEN = ("tags", "labels", "tagSpecifications")
