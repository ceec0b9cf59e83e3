"""Pulumi itself brings up place metal: the real engine and provider process, against the Redfish emulator."""

import base64
import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pulumi import automation

from infra.cluster import Cluster
from infra.load import load_cluster
from infra.paths import CHECKOUT
from infra.progress import Step
from infra.provision import cli, given
from infra.provision.program import Inputs, program
from tests.provision import emulator as emulators
from tests.provision.emulator import PASSWORD, USER, Emulator, processors, server


@pytest.fixture(scope="module")
def bmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    epyc = {"memory_gib": 768, "sockets": 2, "processors": processors(2, 96)}
    h100 = {"memory_gib": 1024, "sockets": 2, "processors": processors(2, 56)}
    servers = [server("controller", **epyc), server("gpu-1", **h100)]
    with emulators.emulator(tmp_path_factory.mktemp("bmc"), servers) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metal")


@pytest.fixture(scope="module")
def cluster(bmc: Emulator, folder: Path) -> Cluster:
    """The shipped example with the emulator's controllers; the one of gpu-2 refuses connections."""
    urls = {"controller": bmc.url("controller"), "gpu-1": bmc.url("gpu-1")}
    urls["gpu-2"] = f"https://127.0.0.1:{emulators.free_port()}/redfish/v1/Systems/DGX"
    text = (CHECKOUT / "clusters/metal.yaml").read_text().replace("user: admin", f"user: {USER}")
    for name, url in urls.items():
        text = re.sub(rf"(  {name}:\n    address: .*\n    bmc: ).*", rf"\g<1>{url}", text)
    file = folder / "metal.yaml"
    file.write_text(text)
    return load_cluster(file)


@pytest.fixture(scope="module")
def stack(bmc: Emulator, cluster: Cluster, folder: Path) -> Iterator[automation.Stack]:
    bin_folder = cli.ensure(Step("pulumi", None))
    env = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PULUMI_HOME": str(cli.home()),
        "PULUMI_CONFIG_PASSPHRASE": "of this test",
        "PULUMI_SKIP_UPDATE_CHECK": "1",
        "PULUMI_BACKEND_URL": f"file://{folder}/state",
        "SLIPWAY_BMC_PASSWORD": PASSWORD,
        "SSL_CERT_FILE": str(bmc.ca),
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    (folder / "state").mkdir()
    (folder / "work").mkdir()
    options = automation.LocalWorkspaceOptions(work_dir=str(folder / "work"), env_vars=env)
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    yield automation.create_or_select_stack(
        cluster.name, "slipway", program(cluster, Inputs("ssh-ed25519 AAAA")), options
    )
    for name, value in before.items():
        os.environ.pop(name)
        if value is not None:
            os.environ[name] = value


SEEN: set[str] = set()  # command lines and output, while Pulumi worked


def watch(done: threading.Event) -> None:
    while not done.wait(0.2):
        listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True)
        SEEN.update(listed.stdout.splitlines())


def up(stack: automation.Stack) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """How many servers were made, changed, left; and the entries of machines.json."""
    ended = threading.Event()
    watcher = threading.Thread(target=watch, args=(ended,))
    watcher.start()
    try:
        done = stack.up(refresh=True, on_output=SEEN.add, on_error=SEEN.add)
    finally:
        ended.set()
        watcher.join()
    changes = dict(done.summary.resource_changes or {})
    return changes, done.outputs["machines"].value


def test_one_silent_controller_stops_nothing_and_is_named(
    stack: automation.Stack, bmc: Emulator, cluster: Cluster
) -> None:
    start = time.monotonic()
    changes, entries = up(stack)
    assert changes["create"] == 4  # three servers and the stack itself
    assert [bmc.system(name)["PowerState"] for name in ("controller", "gpu-1")] == ["On", "On"]
    found = given.report(cluster, entries)
    assert found.silent == [f"gpu-2: its controller {cluster.spec.hosts['gpu-2'].bmc}: connection refused"]
    assert found.differing == [
        "hardware/h100-sxm-8x.yaml: memory.capacity_gib: 2048 stated, 1024 found (gpu-1)"
    ]
    assert time.monotonic() - start < 60


def test_a_second_run_tries_the_silent_one_again_and_leaves_the_others(stack: automation.Stack) -> None:
    changes, _ = up(stack)
    assert changes == {"update": 1, "same": 3}


def test_a_server_that_was_switched_off_by_hand_is_switched_on(
    stack: automation.Stack, bmc: Emulator
) -> None:
    bmc.reset("gpu-1", "ForceOff")
    changes, _ = up(stack)
    assert changes == {"update": 2, "same": 2}
    assert bmc.system("gpu-1")["PowerState"] == "On"


def test_the_password_is_in_no_state_output_or_command_line(stack: automation.Stack, folder: Path) -> None:
    texts = [json.dumps(stack.export_stack().deployment), *SEEN]
    texts += [file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file()]
    # That they are searched at all: the user is in the state, the provider process was running.
    assert any(f'"user": "{USER}"' in text for text in texts)
    assert any("pulumi.dynamic" in text for text in SEEN)
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert not [text for text in texts if PASSWORD in text or encoded in text]


def test_removing_the_cluster_leaves_the_servers_on(stack: automation.Stack, bmc: Emulator) -> None:
    stack.destroy()
    assert [bmc.system(name)["PowerState"] for name in ("controller", "gpu-1")] == ["On", "On"]
    assert not stack.export_stack().deployment.get("resources")
