"""Place metal: power and boot by Redfish, against the real sushy-emulator; its graph, file and report."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pulumi
import pytest

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model.cluster import Cluster
from infra.model.load import load_cluster, load_profile
from infra.provision import policies
from infra.provision.graph import graph as record
from infra.provision.metal import given, redfish
from infra.provision.metal.resources import Controller, server_differences
from infra.provision.program import Inputs, program
from tests import docs
from tests.provision import emulator as emulators
from tests.provision.emulator import PASSWORD, USER, Emulator, processors, server

TESTED = {"stand-in": ["place metal", "management controllers"]}

EXAMPLE = CHECKOUT / "clusters/metal.yaml"
VARIABLE = "SLIPWAY_BMC_PASSWORD"


@pytest.fixture(scope="module")
def bmc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    h100 = {"memory_gib": 2048, "sockets": 2, "processors": processors(2, 56)}
    servers = [
        server("gpu-1", **h100),
        server("gpu-2", **{**h100, "memory_gib": 1024}),
        server("controller", memory_gib=768, sockets=2, processors=processors(2, 96)),
    ]
    with emulators.emulator(tmp_path_factory.mktemp("bmc"), servers) as running:
        yield running


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setenv(VARIABLE, PASSWORD)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    if "bmc" in request.fixturenames:
        monkeypatch.setenv("SSL_CERT_FILE", str(request.getfixturevalue("bmc").ca))
    monkeypatch.setattr(redfish, "POLL_S", 0.1)


def props(url: str, **changes: Any) -> dict[str, Any]:
    """Inputs of a server's resource."""
    return {
        "host": "gpu-1",
        "bmc": url,
        "user": USER,
        "password_env": VARIABLE,
        "verify_tls": True,
        "install": "",
        "power_off_on_remove": False,
        "labels": {"slipway:cluster": "metal"},
        "found": None,
        "trouble": None,
        **changes,
    }


class Applied:
    """A server under the provider, as Pulumi drives it: create, refresh, diff, update."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.provider = Controller()
        self.state = self.provider.create(inputs).outs or {}

    def refresh(self) -> dict[str, Any]:
        self.state = self.provider.read("gpu-1", self.state).outs or {}
        return self.state

    def apply(self, inputs: dict[str, Any]) -> list[str]:
        """The reasons for the change that was made; none: nothing was done."""
        why = [found.text for found in server_differences(self.state, inputs)]
        assert self.provider.diff("gpu-1", self.state, inputs).changes == bool(why)
        if why:
            self.state = self.provider.update("gpu-1", self.state, inputs).outs or {}
        return why


# --- Redfish ------------------------------------------------------------------------------------------------


def test_a_server_that_is_off_is_switched_on_and_its_facts_are_read(bmc: Emulator) -> None:
    bmc.reset("gpu-1", "ForceOff")
    inputs = props(bmc.url("gpu-1"))
    applied = Applied(inputs)
    assert applied.state["trouble"] == ""
    assert bmc.system("gpu-1")["PowerState"] == "On"
    found = applied.state["found"]
    assert (found["power"], found["boot"], found["boot_mode"]) == ("On", "Hdd", "UEFI")
    assert (found["memory_gib"], found["sockets"], found["cores"], found["gpus"]) == (2048, 2, 112, None)
    assert (found["model"], found["health"]) == ("Sushy Emulator", "OK")
    applied.refresh()
    assert applied.apply(inputs) == []


@pytest.mark.parametrize(
    ("drift", "why", "key", "right"),
    [
        (lambda bmc: bmc.reset("gpu-1", "ForceOff"), "is off", "power", "On"),
        (
            lambda bmc: bmc.boot("gpu-1", BootSourceOverrideTarget="Pxe"),
            "boots from Pxe instead of its disk",
            "boot",
            "Hdd",
        ),
        (
            lambda bmc: bmc.boot("gpu-1", BootSourceOverrideMode="Legacy"),
            "boots in Legacy mode instead of UEFI",
            "boot_mode",
            "UEFI",
        ),
    ],
)
def test_what_was_changed_by_hand_is_seen_by_a_refresh_and_put_right(
    bmc: Emulator, drift: Any, why: str, key: str, right: str
) -> None:
    inputs = props(bmc.url("gpu-1"))
    applied = Applied(inputs)
    drift(bmc)
    assert applied.refresh()["found"][key] != right
    assert applied.apply(inputs) == [why]
    assert applied.refresh()["found"][key] == right
    assert applied.apply(inputs) == []


def test_a_new_word_in_install_boots_from_the_network_once(bmc: Emulator) -> None:
    applied = Applied(props(bmc.url("gpu-1")))
    anew = props(bmc.url("gpu-1"), install="2026-11-23")
    assert applied.apply(anew) == ["to be installed anew: 2026-11-23"]
    assert bmc.system("gpu-1")["Boot"]["BootSourceOverrideTarget"] == "Pxe"
    assert applied.state["installed"] == "2026-11-23"
    bmc.boot("gpu-1", BootSourceOverrideTarget="Hdd")  # as the firmware does after that start
    applied.refresh()
    assert applied.apply(anew) == []


def test_a_running_server_that_is_new_to_us_is_not_installed_anew(bmc: Emulator) -> None:
    Applied(props(bmc.url("gpu-1")))
    taken = Applied(props(bmc.url("gpu-1"), install="first"))
    assert bmc.system("gpu-1")["Boot"]["BootSourceOverrideTarget"] == "Hdd"
    assert taken.apply(props(bmc.url("gpu-1"), install="first")) == []


def test_a_server_that_is_off_and_new_to_us_is_installed(bmc: Emulator) -> None:
    bmc.reset("gpu-1", "ForceOff")
    Applied(props(bmc.url("gpu-1"), install="first"))
    system = bmc.system("gpu-1")
    assert (system["PowerState"], system["Boot"]["BootSourceOverrideTarget"]) == ("On", "Pxe")
    bmc.boot("gpu-1", BootSourceOverrideTarget="Hdd")


def test_a_removed_server_stays_on_unless_it_is_to_be_shut_down(bmc: Emulator) -> None:
    applied = Applied(props(bmc.url("gpu-1")))
    applied.provider.delete("gpu-1", applied.state)
    assert bmc.system("gpu-1")["PowerState"] == "On"
    applied.provider.delete("gpu-1", {**applied.state, "power_off_on_remove": True})
    assert bmc.system("gpu-1")["PowerState"] == "Off"


def test_the_address_of_a_controller_with_one_system_is_enough(tmp_path: Path, monkeypatch: Any) -> None:
    with emulators.emulator(tmp_path / "one", [server("only")]) as one:
        monkeypatch.setenv("SSL_CERT_FILE", str(one.ca))
        assert Applied(props(one.base)).state["found"]["power"] == "On"


# --- What goes wrong is one line, and the others go on ------------------------------------------------------


def trouble(**changes: Any) -> str:
    text = Applied(props(**changes)).state["trouble"]
    assert isinstance(text, str)
    assert text
    assert "\n" not in text
    assert PASSWORD not in text
    return text


def test_a_wrong_password(bmc: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "wrong")
    assert trouble(url=bmc.url("gpu-1")) == f"refuses user '{USER}' with this password"


def test_no_password(bmc: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE)
    assert trouble(url=bmc.url("gpu-1")) == f"{VARIABLE} is not set in the environment"


def test_no_one_listens() -> None:
    url = f"https://127.0.0.1:{emulators.free_port()}/redfish/v1/Systems/1"
    assert trouble(url=url) == "connection refused"


@pytest.mark.parametrize("scheme", ["https", "http"])
def test_a_controller_that_hangs_is_left_after_a_bounded_time(
    scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redfish, "ANSWER_S", 1.0)
    monkeypatch.setattr(redfish, "CONNECT_S", 1.0)
    with emulators.speechless() as port:
        start = time.monotonic()
        text = trouble(url=f"{scheme}://127.0.0.1:{port}/redfish/v1/Systems/1")
    assert text == "accepts the connection and says nothing"
    assert time.monotonic() - start < 4


def test_a_certificate_that_no_one_vouches_for(bmc: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert re.match(
        r"TLS certificate not trusted: self[- ]signed certificate; ", trouble(url=bmc.url("gpu-1"))
    )
    assert Applied(props(bmc.url("gpu-1"), verify_tls=False)).state["trouble"] == ""


def test_a_certificate_of_another_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with emulators.emulator(tmp_path / "other", [server("gpu-1")], names="IP:192.0.2.1") as other:
        monkeypatch.setenv("SSL_CERT_FILE", str(other.ca))
        assert "IP address mismatch" in trouble(url=other.url("gpu-1"))


def test_a_system_that_is_not_there_and_one_that_is_not_named(bmc: Emulator) -> None:
    assert trouble(url=f"{bmc.base}/redfish/v1/Systems/none") == "has no /redfish/v1/Systems/none"
    assert "write the one that is meant" in trouble(url=bmc.base)


def test_a_server_without_an_answer_keeps_its_facts_and_is_tried_again(
    bmc: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = props(bmc.url("gpu-1"))
    applied = Applied(inputs)
    known = applied.state["found"]
    monkeypatch.setenv(VARIABLE, "changed by someone")
    applied.refresh()
    assert applied.state["found"] == known
    why = f"its controller: refuses user '{USER}' with this password"
    assert applied.apply(inputs) == [why]
    assert applied.apply(inputs) == [why]
    monkeypatch.setenv(VARIABLE, PASSWORD)
    assert applied.apply(inputs) == [why]
    assert applied.apply(inputs) == []


def test_a_dead_controller_does_not_keep_a_server_in_the_cluster(capsys: pytest.CaptureFixture[str]) -> None:
    dead = props(f"https://127.0.0.1:{emulators.free_port()}", power_off_on_remove=True)
    Controller().delete("gpu-1", dead)
    assert capsys.readouterr().err == "gpu-1 leaves the cluster, but was not shut down: connection refused\n"


# --- Facts, and the report at the end -----------------------------------------------------------------------


def test_facts_of_a_controller_that_lists_gpus_and_empty_sockets() -> None:
    there, empty = {"State": "Enabled"}, {"State": "Absent"}
    found = redfish.facts(
        {"Boot": {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "Pxe"},
         "PowerState": "PoweringOn", "Manufacturer": "NVIDIA", "Model": "DGX H100", "SerialNumber": " 17 ",
         "MemorySummary": {"TotalSystemMemoryGiB": 2047.6}},
        [*({"ProcessorType": "CPU", "TotalCores": "56", "Status": there},) * 2,
         {"ProcessorType": "CPU", "Status": empty},
         *({"ProcessorType": "GPU", "Status": there},) * 7],
    )  # fmt: skip
    assert found == {
        "power": "On", "boot": "Hdd", "once": False, "boot_mode": None, "model": "NVIDIA DGX H100",
        "serial": "17", "health": None, "memory_gib": 2048, "sockets": 2, "cores": 112, "gpus": 7,
    }  # fmt: skip
    profile = load_profile("h100-sxm-8x")
    assert given.differences(profile, found) == [("accelerators.count", "8", "7")]
    assert given.differences(profile, redfish.facts({}, [])) == []


def test_a_pxe_start_that_is_asked_for_once_is_no_drift() -> None:
    once = {"BootSourceOverrideEnabled": "Once", "BootSourceOverrideTarget": "Pxe"}
    found = redfish.facts({"PowerState": "On", "Boot": once}, [])
    assert (found["boot"], found["once"]) == ("Pxe", True)
    same = props("https://192.0.2.1")
    assert server_differences({**same, "found": found, "trouble": ""}, same) == []


def test_the_report_names_who_was_silent_and_each_difference_once() -> None:
    cluster = load_cluster(EXAMPLE)
    short = {"health": "OK", "memory_gib": 1024.0, "sockets": 2.0, "cores": 112.0, "gpus": None}
    entries = [
        {"name": "controller", "bmc": {"found": {"health": "Critical"}, "trouble": ""}},
        {"name": "gpu-1", "bmc": {"found": short, "trouble": ""}},
        {"name": "gpu-2", "bmc": {"found": short, "trouble": ""}},
    ]
    found = given.report(cluster, entries)
    assert found.silent == []
    assert found.differing == [
        "hardware/h100-sxm-8x.yaml: memory.capacity_gib: 2048 stated, 1024 found (gpu-[1-2])"
    ]
    assert found.ill == ["controller: its controller says health Critical; its event log says of what"]
    entries[1]["bmc"] = {"found": {}, "trouble": "connection refused"}
    silent = given.report(cluster, [*entries, {"name": "taken as it is"}]).silent
    assert silent == ["gpu-1: its controller https://192.0.2.111/redfish/v1/Systems/DGX: connection refused"]


# --- The file -----------------------------------------------------------------------------------------------


def written(tmp_path: Path, *changes: tuple[str, str]) -> Cluster:
    """The example with `changes`: pairs of a regular expression and what is put there."""
    text = EXAMPLE.read_text()
    for old, new in changes:
        text, count = re.subn(old, new, text, flags=re.MULTILINE)
        assert count, old
    file = tmp_path / "metal.yaml"
    file.write_text(text)
    return load_cluster(file)


def test_the_shipped_example_is_right_and_every_key_in_it_is_one() -> None:
    cluster = load_cluster(EXAMPLE)
    given.check(cluster)
    for host in cluster.spec.hosts.values():
        assert host.host_key
        done = subprocess.run(["ssh-keygen", "-lf", "-"], input=host.host_key, capture_output=True, text=True)
        assert given.fingerprint(host.host_key) in done.stdout


ADDRESS = "192.0.2.111"
BAD = {
    r"gpu-1\.host_key: missing; `python -m infra hostkeys .*metal\.yaml` prints it \(and of gpu-2\)$": (
        r"^  gpu-1:\n(.*\n.*\n).*\n  gpu-2:\n(.*\n.*\n).*\n",
        r"  gpu-1:\n\1  gpu-2:\n\2",
    ),
    r"gpu-1\.bmc: holds a user or a password; .*bmc\.user": (rf"//{ADDRESS}", f"//me:secret@{ADDRESS}"),
    r"gpu-1\.bmc: 'http://192.* would send the password in clear; ": (rf"https(://{ADDRESS})", r"http\1"),
    r"gpu-1\.bmc: '192\.0\.2\.111' is no address; ": (rf"https://{ADDRESS}\S*", ADDRESS),
    r"gpu-1\.bmc: '.*' is no Redfish system; ": (rf"({ADDRESS})\S*", r"\1/index.html"),
    r"gpu-2\.bmc: is the one of 'gpu-1' already": (r"192.0.2.112", ADDRESS),
    r"hosts: missing; metal needs": (r"^hosts:(.*\n)*(?=bmc:)", ""),
}


@pytest.mark.parametrize(("says", "change"), BAD.items())
def test_a_mistake_in_the_file_is_one_line(says: str, change: tuple[str, str], tmp_path: Path) -> None:
    cluster = written(tmp_path, change)
    with pytest.raises(Mistake) as mistake:
        given.check(cluster)
    (line,) = str(mistake.value).splitlines()
    assert re.search(rf"metal\.yaml:\d+: (hosts\.)?{says}", line)
    assert "secret" not in line


def test_a_password_that_is_not_in_the_environment_is_told_before_anything_starts() -> None:
    with pytest.raises(Mistake, match=rf"metal\.yaml:\d+: bmc\.password_env: {VARIABLE} is not set"):
        given.check(load_cluster(EXAMPLE), {})


def test_no_password_is_needed_where_no_host_has_a_controller(tmp_path: Path) -> None:
    given.check(written(tmp_path, (r"^    bmc: .*\n", "")), {})


def test_the_page_for_people_runs() -> None:
    page = docs.parse("docs/provision-metal.md", (CHECKOUT / "docs/provision-metal.md").read_text())
    assert page.runnable()
    assert docs.run(page, CHECKOUT, os.environ, timeout_s=60) is None


# --- The graph ----------------------------------------------------------------------------------------------


class Mocks(pulumi.runtime.Mocks):
    def __init__(self) -> None:
        self.made: list[pulumi.runtime.MockResourceArgs] = []

    def new_resource(self, args: pulumi.runtime.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        self.made.append(args)
        return args.name, {**args.inputs, "found": {"power": "On"}, "trouble": ""}

    def call(self, args: pulumi.runtime.MockCallArgs) -> dict[Any, Any]:
        raise AssertionError(f"metal asks nothing: {args.token}")


def graph(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> tuple[Mocks, dict[str, Any]]:
    """The resources of a cluster under Pulumi's mocks, and what its program exports."""
    mocks = Mocks()
    exported: dict[str, Any] = {}
    monkeypatch.setattr(pulumi, "export", exported.__setitem__)
    pulumi.runtime.set_mocks(mocks, project="slipway", stack=cluster.name)
    run = program(cluster, Inputs("ssh-ed25519 AAAA"))
    resolved: dict[str, Any] = {}

    @pulumi.runtime.test
    def under_mocks() -> pulumi.Output[Any]:
        run()
        return pulumi.Output.from_input(exported).apply(resolved.update)

    under_mocks()
    return mocks, resolved


def test_the_graph_is_one_resource_for_each_controller(monkeypatch: pytest.MonkeyPatch) -> None:
    mocks, exported = graph(load_cluster(EXAMPLE), monkeypatch)
    assert sorted(made.name for made in mocks.made) == [
        "controller",
        "gpu-1",
        "gpu-2",
    ]
    for made in mocks.made:
        assert made.inputs["labels"]["slipway:cluster"] == "metal"
        assert PASSWORD not in str(made.inputs)
    assert exported["bastion"] is None
    assert exported["storage"] == {"kind": "nfs", "source": None, "options": None}
    entries = {entry["name"]: entry for entry in exported["machines"]}
    assert entries["controller"]["parts"] == ["db", "slurmdbd", "slurmctld", "login"]
    assert entries["gpu-2"]["address"] == "192.0.2.12"
    assert entries["gpu-2"]["host_key"].startswith("ssh-ed25519 AAAA")
    assert entries["gpu-2"]["bmc"] == {"found": {"power": "On"}, "trouble": ""}


def test_the_policies_hold_for_metal_and_one_without_its_label_is_named() -> None:
    cluster = load_cluster(EXAMPLE)
    made = record(cluster)
    assert policies.complaints(cluster, made) == []
    bare = replace(made[0], inputs={**made[0].inputs, "labels": {}})
    assert policies.complaints(cluster, [bare]) == ["tagged: controller: has no label slipway:cluster=metal"]


def test_hosts_without_a_controller_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mocks, exported = graph(written(tmp_path, (r"^    bmc: .*\n", "")), monkeypatch)
    assert mocks.made == []
    assert [entry["address"] for entry in exported["machines"]] == ["192.0.2.10", "192.0.2.11", "192.0.2.12"]
    assert "bmc" not in exported["machines"][0]
