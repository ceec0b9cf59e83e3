"""Pulumi itself brings up place metal: the real engine and provider process, against the Redfish emulator."""

import base64
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from infra.base import paths
from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.base.progress import Step
from infra.model.cluster import Cluster
from infra.model.load import load_cluster
from infra.provision.events import Change
from infra.provision.metal import given
from infra.provision.metal.redfish import CONNECT_S
from infra.provision.provisioner import Provisioner
from tests.provision import emulator as emulators
from tests.provision.emulator import PASSWORD, USER, Emulator, processors, server

TESTED = {"stand-in": ["place metal", "management controllers"]}


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
def provisioner(bmc: Emulator, cluster: Cluster, folder: Path) -> Iterator[Provisioner]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "build", lambda name: folder / "build" / name)
        patch.setenv("SLIPWAY_BMC_PASSWORD", PASSWORD)
        patch.setenv("SSL_CERT_FILE", str(bmc.ca))
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("no_proxy", "127.0.0.1")
        yield Provisioner(cluster)


SEEN: set[str] = set()  # command lines while Pulumi worked


@pytest.fixture(autouse=True)
def watched() -> Iterator[None]:
    """Note what the process list shows during every test."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True)
            SEEN.update(listed.stdout.splitlines())

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield
    ended.set()
    watcher.join()


def up(provisioner: Provisioner) -> list[dict[str, Any]]:
    """The entries of machines.json."""
    return provisioner.up(Step("machines", None)).machines


def seen(changes: list[Change]) -> list[tuple[str, str, str]]:
    return sorted((change.kind, change.name, change.reason) for change in changes)


SILENT = ("drift", "gpu-2", "its controller: connection refused")


def test_one_silent_controller_stops_nothing_and_is_named(
    provisioner: Provisioner, bmc: Emulator, cluster: Cluster
) -> None:
    assert sorted((c.kind, c.name, c.what, c.hardware) for c in provisioner.preview()) == [
        ("make", "controller", "machine", "cpu-epyc-2s"),
        ("make", "gpu-1", "machine", "h100-sxm-8x"),
        ("make", "gpu-2", "machine", "h100-sxm-8x"),
    ]
    assert [bmc.system(name)["PowerState"] for name in ("controller", "gpu-1")] == ["Off", "Off"]
    start = time.monotonic()
    entries = up(provisioner)
    assert time.monotonic() - start < 60
    assert [bmc.system(name)["PowerState"] for name in ("controller", "gpu-1")] == ["On", "On"]
    found = given.report(cluster, entries)
    assert found.silent == [f"gpu-2: its controller {cluster.spec.hosts['gpu-2'].bmc}: connection refused"]
    assert found.differing == [
        "hardware/h100-sxm-8x.yaml: memory.capacity_gib: 2048 stated, 1024 found (gpu-1)"
    ]


def test_the_silent_one_is_tried_again_and_the_others_are_left_alone(provisioner: Provisioner) -> None:
    assert seen(provisioner.preview()) == [SILENT]
    up(provisioner)
    assert seen(provisioner.preview()) == [SILENT]


def test_a_server_that_was_switched_off_by_hand_is_switched_on(
    provisioner: Provisioner, bmc: Emulator
) -> None:
    bmc.reset("gpu-1", "ForceOff")
    found = seen(provisioner.preview())
    assert ("drift", "gpu-1", "is off (changed outside)") in found
    assert len(found) == 2
    up(provisioner)
    assert bmc.system("gpu-1")["PowerState"] == "On"
    assert seen(provisioner.preview()) == [SILENT]


def test_what_the_file_says_anew_is_a_change(
    provisioner: Provisioner, cluster: Cluster, folder: Path
) -> None:
    host = cluster.spec.hosts["gpu-1"].model_copy(update={"install": "again"})
    spec = cluster.spec.model_copy(update={"hosts": {**cluster.spec.hosts, "gpu-1": host}})
    changed = Provisioner(replace(cluster, spec=spec)).preview()
    assert ("change", "gpu-1", "to be installed anew: again") in seen(changed)


def test_a_host_without_a_key_stops_it_before_pulumi_starts(
    provisioner: Provisioner, cluster: Cluster
) -> None:
    host = cluster.spec.hosts["gpu-1"].model_copy(update={"host_key": None})
    spec = cluster.spec.model_copy(update={"hosts": {**cluster.spec.hosts, "gpu-1": host}})
    with pytest.raises(Mistake, match=r"hosts\.gpu-1\.host_key: missing"):
        Provisioner(replace(cluster, spec=spec)).preview()


def test_the_password_is_in_no_state_log_or_command_line(provisioner: Provisioner, folder: Path) -> None:
    files = [file for file in (folder / "build").rglob("*") if file.is_file()]
    texts = [*(file.read_text(errors="replace") for file in files), *SEEN]
    # That they are searched at all: the user is in the state, and the provider process was running.
    assert any(re.search(rf'"user": ?"{USER}"', text) for text in texts)
    assert any("infra.provision.plugin" in text for text in SEEN)
    encoded = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    assert not [text for text in texts if PASSWORD in text or encoded in text]


def test_removing_the_cluster_leaves_the_servers_on(provisioner: Provisioner, bmc: Emulator) -> None:
    provisioner.destroy(Step("machines", None))
    assert [bmc.system(name)["PowerState"] for name in ("controller", "gpu-1")] == ["On", "On"]
    assert provisioner.outputs() is None


def test_many_silent_controllers_are_waited_for_side_by_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, name = 24, "many"
    example = (CHECKOUT / "clusters/metal.yaml").read_text()
    head, _, rest = example.partition("  gpu-1:\n    address")
    head = re.sub("    bmc: .*\n", "", head).replace("count: 2", f"count: {count}")
    head = head.replace("name: metal", f"name: {name}")
    key = load_cluster(CHECKOUT / "clusters/metal.yaml").spec.hosts["gpu-1"].host_key
    monkeypatch.setattr(paths, "build", lambda name: tmp_path / "build" / name)
    monkeypatch.setenv("SLIPWAY_BMC_PASSWORD", PASSWORD)
    with emulators.speechless() as port:
        hosts = [
            f'  gpu-{n}: {{address: 192.0.2.{20 + n}, bmc: "https://127.0.0.1:{port}/redfish/v1/Systems/{n}",'
            f' host_key: "{key}"}}\n'
            for n in range(1, count + 1)
        ]
        file = tmp_path / f"{name}.yaml"
        file.write_text("".join([head, *hosts, "\nbmc:", rest.partition("\nbmc:")[2]]))
        many = load_cluster(file)
        start = time.monotonic()
        entries = Provisioner(many).up(Step("machines", None)).machines
        seconds = time.monotonic() - start
    assert len(given.report(many, entries).silent) == count
    assert seconds < count * CONNECT_S / 4  # what it takes when they wait four by four
