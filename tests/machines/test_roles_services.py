"""Roles of storage, drivers, containers, stack and monitoring, on machines of Debian 13 and 12 over SSH.

What this machine's kernel cannot do (NFS) and what it does not have (a GPU) is met by what the roles say of it; the
driver's installation runs against a repository made here, with NVIDIA's package names and nothing in the packages.
"""

import json
import os
import platform
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.base.paths import CHECKOUT
from infra.model.load import load_cluster
from infra.render.prometheus import render
from tests.machines.box import Boxes, boxes

TESTED = {
    "real": ["Debian 13", "Debian 12", "Prometheus"],
    "stand-in": ["NVIDIA driver", "shared disk: NFS", "shared disk: FSx, Filestore, Lustre"],
}

pytestmark = pytest.mark.more

STACK = "cuda13-0123456789ab"
OTHER = "cuda13-ba9876543210"
HOSTS = ("deb13", "deb12")
ROLES = ("storage", "nvidia_driver", "container_runtime", "stack", "node_exporter", "prometheus")


def stack(folder: Path, name: str) -> Path:
    """A folder that looks like a stack."""
    (folder / name / "bin").mkdir(parents=True)
    (folder / name / "bin" / "python").write_text("#!/bin/sh\necho Python 3.13.0\n")
    (folder / name / "bin" / "python").chmod(0o755)
    (folder / name / "stack.json").write_text("{}")
    return folder / name


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Boxes]:
    """Two machines with a shared volume and a stack mounted read-only, as the place docker makes them."""
    folder = tmp_path_factory.mktemp("services")
    (folder / "shared").mkdir()
    mounted = stack(folder / "stacks", STACK)
    repository = folder / "repository"
    repository.mkdir()
    options = (
        *("--volume", f"{folder / 'shared'}:/shared"),
        *("--volume", f"{mounted}:/opt/stack/{STACK}:ro"),
        *("--volume", f"{repository}:/srv/nvidia:ro"),
        *("--mount", "type=volume,target=/var/lib/containerd"),  # images are layers, which need a real disk
    )
    with boxes(
        folder, {"deb13": "machine", "deb12": "machine-debian-12"}, options=options, name="svc"
    ) as lab:
        done = lab.play([{"name": "common", "tasks_from": "packages"}])
        assert done.rc == 0, done.stdout
        targets(lab, ["deb13:9100", "deb12:9100", "gone:9100"])
        yield lab


def targets(lab: Boxes, names: list[str]) -> None:
    path = lab.folder / "build" / "prometheus" / "targets.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([{"targets": names, "labels": {"group": "gpu", "hardware": "lab-cpu"}}]))


def settings(lab: Boxes, **more: Any) -> dict[str, Any]:
    return {
        "storage_kind": "place",
        "driver_vendor": "nvidia",  # the inventory has it only for real ones; simulated must win
        "driver_version": "580.95.05",
        "pool_simulated": True,
        "container_runtime": "containerd",
        "container_runtime_nvidia": False,
        "stack_folder": STACK,
        "prometheus_build": str(lab.folder / "build"),
        "prometheus_interval_s": 1,
        "cluster_schedulers": ["slurm"],
        **more,
    }


STATE = "dpkg-query -W; find /etc /opt /usr/libexec -type f -exec sha256sum {} + | sort; systemctl list-unit-files"


@pytest.fixture(scope="module")
def configured(lab: Boxes) -> Boxes:
    """Every role on both machines; check mode before it said so and changed nothing."""
    before = {name: lab[name].sh(STATE) for name in HOSTS}
    checked = lab.play(ROLES, settings(lab), check=True)
    assert checked.rc == 0, checked.failed or checked.stdout
    for name in HOSTS:
        said = "\n".join(checked.changed[name])
        for what in ("containerd", "Install Prometheus", "Install the exporter", "current one", "homes"):
            assert what in said, f"{name}: {said}"
        assert lab[name].sh(STATE) == before[name], "check mode changed something"
    done = lab.play(ROLES, settings(lab))
    assert done.rc == 0, done.failed or done.stdout
    assert "simulated: no driver" in done.stdout
    return lab


def started(lab: Boxes, name: str) -> str:
    units = "prometheus prometheus-node-exporter containerd"
    return lab[name].sh(f"systemctl show --property MainPID --property ActiveEnterTimestampMonotonic {units}")


def until(true: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"not after {seconds} s"
        time.sleep(0.3)


def test_a_second_run_changes_nothing_and_restarts_nothing(configured: Boxes) -> None:
    before = [started(configured, name) for name in HOSTS]
    assert configured.play(ROLES, settings(configured), check=True).nothing
    again = configured.play(ROLES, settings(configured))
    assert again.nothing, again.failed or again.changed
    assert [started(configured, name) for name in HOSTS] == before


def test_services_run_and_start_at_boot(configured: Boxes) -> None:
    for name in HOSTS:
        for unit in ("prometheus", "prometheus-node-exporter", "containerd", "slipway-slurm-nodes.timer"):
            assert configured[name].sh(f"systemctl is-enabled {unit}") == "enabled"
            assert configured[name].sh(f"systemctl is-active {unit}") == "active"
        listening = configured[name].sh("ss -Hltn sport = 9090")
        assert "127.0.0.1:9090" in listening and "*:9090" not in listening
        assert configured[name].sh("ls /opt/stack/current/stack.json /shared/home --directory")
        assert configured[name].sh("/opt/stack/current/bin/python") == "Python 3.13.0"


def test_what_was_changed_by_hand_is_repaired_and_nothing_else(configured: Boxes) -> None:
    box = configured["deb13"]
    box.sh("echo 'ARGS=' >/etc/default/prometheus-node-exporter; rm /opt/stack/current")
    box.sh("systemctl disable --now --quiet prometheus; echo >>/etc/prometheus/prometheus.yml")
    containerd = box.sh("systemctl show --property MainPID containerd")
    for check in (True, False):
        done = configured.play(ROLES, settings(configured), check=check)
        assert done.rc == 0, done.failed
        names = "\n".join(done.changed["deb13"])
        for what in ("what it measures", "current one", "and its configuration", "Run it"):
            assert what in names, f"check={check}: {names}"
        assert len(done.changed["deb13"]) <= 6, done.changed
    assert box.sh("systemctl show --property MainPID containerd") == containerd
    assert configured.play(ROLES, settings(configured)).nothing


def ask(lab: Boxes, query: str) -> Any:
    said = lab["deb13"].sh(
        "python3 -c 'import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())'"
        f" 'http://127.0.0.1:9090/api/v1/{query}'"
    )
    return json.loads(said)["data"]


def health(lab: Boxes) -> dict[str, str]:
    active = ask(lab, "targets")["activeTargets"]
    return {t["labels"]["instance"]: t["health"] for t in active if t["labels"]["job"] == "node"}


def test_prometheus_sees_who_is_up_who_is_down_and_forgets_who_is_gone(configured: Boxes) -> None:
    pid = configured["deb13"].sh("systemctl show --property MainPID prometheus")
    until(lambda: health(configured) == {"deb13": "up", "deb12": "up", "gone": "down"})
    found = ask(configured, "query?query=node_time_seconds")["result"]
    assert {f["metric"]["instance"]: f["metric"]["hardware"] for f in found} == {
        "deb13": "lab-cpu",
        "deb12": "lab-cpu",
    }
    rules = ask(configured, "rules")["groups"]
    assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
    until(
        lambda: (
            [a["labels"]["instance"] for a in ask(configured, "alerts")["alerts"]
             if a["labels"]["alertname"] == "NodeDown"] == ["gone"]
        )
    )  # fmt: skip
    targets(configured, ["deb13:9100", "deb12:9100"])
    done = configured.play(["prometheus"], settings(configured), limit="deb13")
    assert len(done.changed["deb13"]) == 1, done.changed
    until(lambda: health(configured) == {"deb13": "up", "deb12": "up"})
    assert configured["deb13"].sh("systemctl show --property MainPID prometheus") == pid
    configured.play(["prometheus"], settings(configured), limit="deb12")


def test_files_of_the_textfile_collector_are_exported(configured: Boxes) -> None:
    """slurmctld is not here: that is a metric, not a failed unit."""
    for name in HOSTS:
        configured[name].sh("systemctl start slipway-slurm-nodes.service")
        text = configured[name].sh(
            "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:9100/metrics\").read().decode())'"
        )
        assert "slipway_slurm_up 0" in text.splitlines()
        assert "node_textfile_scrape_error 0" in text


def test_nodes_are_counted_by_state(configured: Boxes) -> None:
    """`sinfo` printed these lines on a cluster with six nodes."""
    box = configured["deb13"]
    states = "idle 2\\ndrained 1\\nmixed 1\\ndown* 1\\nidle~ 1\\n"
    box.sh("mkdir -p /tmp/bin; cat >/tmp/bin/sinfo", stdin=f"#!/bin/sh\nprintf '{states}'\n")
    box.sh("chmod +x /tmp/bin/sinfo")
    box.sh("PATH=/tmp/bin:$PATH /usr/libexec/slipway/slurm-nodes /tmp/slurm.prom")
    lines = set(box.sh("cat /tmp/slurm.prom").splitlines())
    assert {
        "slipway_slurm_up 1",
        'slipway_slurm_nodes{state="idle"} 3',
        'slipway_slurm_nodes{state="down"} 1',
    } <= lines
    assert box.sh("promtool check metrics </tmp/slurm.prom") == ""


def test_what_is_rendered_for_prometheus_is_accepted_by_it(configured: Boxes, tmp_path: Path) -> None:
    rendered = json.loads(render(load_cluster(CHECKOUT / "clusters" / "lab.yaml"))["prometheus/targets.json"])
    assert rendered[0]["labels"]["group"] == "services"
    box = configured["deb13"]
    box.sh("cat >/tmp/targets.json", stdin=json.dumps(rendered))
    box.sh(
        "sed 's,/etc/prometheus/slipway-targets.json,/tmp/targets.json,' /etc/prometheus/prometheus.yml >/tmp/p.yml"
    )
    assert "SUCCESS" in box.sh("promtool check config /tmp/p.yml 2>&1")
    box.sh("echo '[{\"targets\": 5}]' >/tmp/targets.json")
    assert box.run("promtool check config /tmp/p.yml").returncode != 0, "promtool accepts anything"


def test_a_rule_that_is_wrong_is_not_copied(configured: Boxes, tmp_path: Path) -> None:
    box = configured["deb12"]
    box.sh("cp /etc/prometheus/slipway-alerts.yml /tmp/alerts.yml; sed -i 's/== 0/== (/' /tmp/alerts.yml")
    assert box.run("promtool check rules /tmp/alerts.yml").returncode != 0
    assert box.run("promtool check rules /etc/prometheus/slipway-alerts.yml").returncode == 0


def test_containerd_takes_pods_with_the_cgroup_driver_of_this_machine(configured: Boxes) -> None:
    for name in HOSTS:
        box = configured[name]
        plugins = box.sh("ctr plugins ls | grep -E ' cri |overlayfs'")
        assert plugins.count(" ok") == 2, plugins
        systemd = box.run("test -e /sys/fs/cgroup/cgroup.controllers").returncode == 0
        wanted = f"SystemdCgroup = {str(systemd).lower()}"
        assert wanted in box.sh("containerd config dump | grep SystemdCgroup")
        assert box.run("ls /etc/modules-load.d/slipway-kubernetes.conf").returncode, (
            "a container's kernel is the host's"
        )


# Storage


def test_a_mount_that_is_missing_or_read_only_is_named(configured: Boxes) -> None:
    done = configured.play(
        ["storage"],
        {"storage_kind": "place"},
        host_vars={"deb13": {"storage_path": "/nowhere"}, "deb12": {"storage_path": f"/opt/stack/{STACK}"}},
    )
    assert "/nowhere is no mount point" in done.failed["deb13"]
    assert "is mounted read-only" in done.failed["deb12"]
    assert configured["deb13"].run("ls /nowhere").returncode != 0


def test_what_a_place_offers_is_mounted_and_mounted_again(lab: Boxes) -> None:
    """With a file system that any kernel has instead of Lustre or NFS."""
    given = {
        "storage_kind": "place",
        "storage_source": "lake",
        "storage_fstype": "tmpfs",
        "storage_options": "size=1m",
        "storage_path": "/lake",
    }
    assert all(lab.play(["storage"], given, check=True).changed.values())
    assert lab["deb13"].run("ls /lake").returncode != 0, "check mode mounted it"
    assert lab.play(["storage"], given).rc == 0
    assert lab.play(["storage"], given).nothing
    for name in HOSTS:
        assert "size=1024k" in lab[name].sh("findmnt --noheadings --output OPTIONS /lake && ls /lake/home")
        assert "nosuid" in lab[name].sh("grep /lake /etc/fstab")
        lab[name].sh("umount /lake && touch /lake/below")
    assert all(lab.play(["storage"], given).changed.values())
    assert lab["deb12"].sh("findmnt --noheadings --output FSTYPE /lake") == "tmpfs"


@pytest.mark.parametrize(
    ("kind", "variables", "missing"),
    [
        ("nfs", {"storage_source": "nas:/export"}, "NFS client"),
        ("lustre", {"storage_source": "mgs@tcp:/fs"}, "Lustre client"),
        ("nfs", {"storage_server": "deb13", "storage_clients": "10.77.0.0/24"}, "NFS server"),
    ],
)
def test_a_kernel_that_cannot_do_it_is_named_and_nothing_is_changed(
    lab: Boxes, kind: str, variables: dict[str, str], missing: str
) -> None:
    """Where the kernel can, this shows nothing and says so."""
    names = {
        "NFS client": ("nfs4", "nfsv4"),
        "NFS server": ("nfsd", "nfsd"),
        "Lustre client": ("lustre", "lustre"),
    }
    system, module = names[missing]
    if not lab["deb13"].run(f"grep -w {system} /proc/filesystems || modprobe -nq {module}").returncode:
        pytest.skip(f"this kernel has the {missing}")
    before = lab["deb13"].sh(STATE)
    done = lab.play(["storage"], {"storage_kind": kind, "storage_path": "/data", **variables}, limit="deb13")
    line = done.failed["deb13"]
    assert f"kernel {platform.release()} has no {missing}" in line and "nothing was changed" in line
    assert "\n" not in line
    assert lab["deb13"].sh(STATE) == before


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"storage_kind": "nfs"}, "name storage_source, or storage_server"),
        ({"storage_kind": "lustre"}, "name storage_source, like mgs@tcp:/fs"),
        ({"storage_kind": "nfs", "storage_server": "deb13", "storage_clients": "*"}, "name storage_clients"),
    ],
)
def test_what_was_forgotten_is_named(lab: Boxes, variables: dict[str, str], line: str) -> None:
    assert line in lab.play(["storage"], variables, limit="deb13").failed["deb13"]


def test_nfs_accepts_what_the_server_would_export(lab: Boxes) -> None:
    """The two files of the server, read by NFS's own programs: they need no kernel for that."""
    for name in HOSTS:
        lab[name].sh("apt-get install -qy --no-install-recommends nfs-kernel-server >/dev/null 2>&1")
    templates = CHECKOUT / "ansible" / "roles" / "storage" / "templates"
    values = {"storage_path": "/shared", "storage_clients": "10.77.0.0/24", "storage_nfs_threads": "16"}
    for file, to in (
        ("exports.j2", "/etc/exports.d/slipway.exports"),
        ("nfs.conf.j2", "/etc/nfs.conf.d/slipway.conf"),
    ):
        text = (templates / file).read_text()
        for key, value in values.items():
            text = text.replace(f"{{{{ {key} }}}}", value)
        for name in HOSTS:
            lab[name].sh(f"mkdir -p {os.path.dirname(to)} && cat >{to}", stdin=text)  # noqa: PTH120
    for name in HOSTS:
        assert lab[name].sh("exportfs -ra 2>&1") == ""
        exported = lab[name].sh("exportfs -v")
        assert "10.77.0.0/24" in exported
        for option in ("root_squash", "fsid=1", "sec=sys", "no_subtree_check"):
            assert option in exported, exported
        assert lab[name].sh("nfsconf --get nfsd vers3; nfsconf --get nfsd vers4.2").split() == ["n", "y"]
        lab[name].sh("echo '/shared 10.77.0.0/24(rw,rot_squash)' >/etc/exports.d/slipway.exports")
        assert lab[name].run("exportfs -ra").stderr, "exportfs accepts anything"
        lab[name].sh(
            "apt-get purge -qy nfs-kernel-server nfs-common rpcbind >/dev/null 2>&1; rm -rf /etc/exports.d"
        )


# The stack


def test_no_stack_and_none_given_is_one_line(configured: Boxes) -> None:
    done = configured.play(["stack"], settings(configured, stack_folder=OTHER))
    assert f"no stack at /opt/stack/{OTHER}" in done.failed["deb13"]
    assert configured["deb13"].sh("readlink /opt/stack/current") == STACK


def test_a_stack_is_copied_whole_and_the_old_one_stays_until_it_may_go(
    configured: Boxes, tmp_path: Path
) -> None:
    for name in (OTHER, "cuda12-000000000000"):
        with tarfile.open(tmp_path / f"{name}.tar", "w") as tar:
            tar.add(stack(tmp_path, name), arcname=name)

    def given(name: str, **more: Any) -> dict[str, Any]:
        return settings(configured, stack_folder=name, stack_archive=str(tmp_path / f"{name}.tar"), **more)

    box = configured["deb12"]
    box.sh(f"mkdir -p /opt/stack/.incoming/{OTHER}/bin")  # a copy that was cut short
    assert all(configured.play(["stack"], given(OTHER), check=True).changed.values())
    assert configured.play(["stack"], given(OTHER)).rc == 0
    assert configured.play(["stack"], given(OTHER)).nothing
    assert configured.play(["stack"], given("cuda12-000000000000")).rc == 0
    assert set(box.sh("ls -A /opt/stack").split()) == {STACK, OTHER, "cuda12-000000000000", "current"}
    assert (
        box.sh("/opt/stack/current/bin/python; readlink /opt/stack/current").split()[-1]
        == "cuda12-000000000000"
    )

    pruned = given("cuda12-000000000000", stack_prune=True)
    assert all(configured.play(["stack"], pruned, check=True).changed.values())
    assert OTHER in box.sh("ls /opt/stack")
    assert configured.play(["stack"], pruned).rc == 0
    assert set(box.sh("ls -A /opt/stack").split()) == {STACK, "cuda12-000000000000", "current"}, (
        "mounted ones stay"
    )
    assert configured.play(["stack"], pruned).nothing


# The driver


def bus(lab: Boxes, name: str, devices: list[tuple[str, str]]) -> dict[str, str]:
    """A made-up PCI bus on machine `name`; the variables that point there."""
    lines = ["rm -rf /tmp/sys && mkdir -p /tmp/sys/devices /tmp/sys/module"]
    for number, (vendor, kind) in enumerate(devices):
        place = f"/tmp/sys/devices/0000:{number:02x}:00.0"
        lines.append(f"mkdir {place} && echo {vendor} >{place}/vendor && echo {kind} >{place}/class")
    lab[name].sh("; ".join(lines))
    return {"nvidia_driver_sysfs": "/tmp/sys/devices", "nvidia_driver_modules": "/tmp/sys/module"}


H100 = ("0x10de", "0x030200")  # a 3D controller
AUDIO = ("0x10de", "0x040300")  # NVIDIA too, and no accelerator
NIC = ("0x15b3", "0x020700")
MI300X = ("0x1002", "0x120000")
REAL = {"driver_vendor": "nvidia", "driver_version": "580.95.05", "pool_simulated": False}


def test_promised_devices_that_are_not_there_fail_the_machine(lab: Boxes) -> None:
    found = {"deb13": bus(lab, "deb13", [AUDIO, NIC]), "deb12": bus(lab, "deb12", [MI300X])}
    for check in (True, False):
        done = lab.play(["nvidia_driver"], REAL, host_vars=found, check=check)
        for name in HOSTS:
            assert "has nvidia accelerators, and no such device" in done.failed[name]
            assert "\n" not in done.failed[name]


def test_a_driver_too_old_for_the_stack_and_one_that_is_not_ours(lab: Boxes) -> None:
    found: dict[str, dict[str, Any]] = {
        "deb13": bus(lab, "deb13", [H100]) | {"nvidia_driver_oldest": "580.95.06"},
        "deb12": bus(lab, "deb12", [MI300X]) | {"driver_vendor": "amd", "driver_version": "6.4"},
    }
    done = lab.play(["nvidia_driver"], REAL, host_vars=found)
    assert "driver 580.95.05 is older than 580.95.06" in done.failed["deb13"]
    assert "comes with the machine's image" in done.failed["deb12"]
    lab["deb12"].sh("mkdir /tmp/sys/module/amdgpu")
    assert lab.play(["nvidia_driver"], REAL, host_vars=found, limit="deb12").nothing


def test_nothing_promised_or_simulated_means_nothing_done(lab: Boxes) -> None:
    found: dict[str, dict[str, Any]] = {
        "deb13": {**bus(lab, "deb13", [H100])},
        "deb12": {**bus(lab, "deb12", []), **REAL, "pool_simulated": True},
    }
    done = lab.play(["nvidia_driver"], host_vars=found)
    assert done.nothing
    assert done.stdout.count('"msg": "simulated: no driver"') == 1


def test_a_jetson_has_its_driver_from_its_image(lab: Boxes) -> None:
    tree = {"nvidia_driver_device_tree": "/tmp/compatible"}
    found = {name: bus(lab, name, []) | tree for name in HOSTS}
    for name in HOSTS:
        lab[name].sh("printf 'nvidia,p3737-0000+p3701-0000\\0nvidia,tegra234\\0' >/tmp/compatible")
    lab["deb13"].sh("mkdir /tmp/sys/module/nvidia")
    done = lab.play(["nvidia_driver"], REAL, host_vars=found)
    assert not done.changed["deb13"] and "deb13" not in done.failed
    assert "comes with the machine's image" in done.failed["deb12"]


UNIT = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n"
PACKAGES = (
    "nvidia-driver-cuda",
    "nvidia-kernel-open-dkms",
    "nvidia-persistenced",
    "nvidia-fabricmanager",
    "libcuda1",
)
NEEDS = {"nvidia-driver-cuda": "Depends: libcuda1\n"}


@pytest.fixture(scope="module")
def repository(lab: Boxes) -> dict[str, Any]:
    """A signed repository with the wanted driver and a newer one, in every package that NVIDIA's has."""
    folder = lab.folder / "repository"
    index = ""
    stubs = [(name, version) for name in PACKAGES for version in ("580.95.05-1", "590.44.01-1")]
    stubs.append((f"linux-headers-{platform.release()}", "1"))
    for name, version in stubs:
        root = lab.folder / "stub"
        unit = root / "usr/lib/systemd/system" / f"{name}.service"
        unit.parent.mkdir(parents=True)
        if name in ("nvidia-persistenced", "nvidia-fabricmanager"):
            unit.write_text(UNIT)
        # dpkg lets a package disappear of which every file is another's
        (unit.parent.parent.parent / f"stub-{name}").write_text(version)
        (root / "DEBIAN").mkdir()
        control = (
            f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody\n{NEEDS.get(name, '')}"
            "Description: stand-in\n"
        )
        (root / "DEBIAN/control").write_text(control)
        package = folder / f"{name}_{version}.deb"
        run("dpkg-deb", "--root-owner-group", "-Znone", "--build", root, package)
        digest = run("sha256sum", package).split()[0]
        index += f"{control}Filename: ./{package.name}\nSize: {package.stat().st_size}\nSHA256: {digest}\n\n"
        run("rm", "-r", root)
    (folder / "Packages").write_text(index)
    digest = run("sha256sum", folder / "Packages").split()[0]
    size = (folder / "Packages").stat().st_size
    (lab.folder / "Release").write_text(
        f"Origin: NVIDIA\nDate: Mon, 01 Sep 2025 00:00:00 UTC\nSHA256:\n {digest} {size} Packages\n"
    )
    gpg = ("gpg", "--homedir", lab.folder / "gpg", "--batch", "--quiet")
    (lab.folder / "gpg").mkdir(mode=0o700)
    run(*gpg, "--passphrase", "", "--quick-generate-key", "repository", "ed25519", "sign")
    run(*gpg, "--output", folder / "InRelease", "--clearsign", lab.folder / "Release")
    (folder / "3bf863cc.pub").write_text(run(*gpg, "--armor", "--export"))
    listed = run(*gpg, "--with-colons", "--list-keys").splitlines()
    key = next(line.split(":")[9] for line in listed if line.startswith("fpr"))
    run("gpgconf", "--homedir", lab.folder / "gpg", "--kill", "all")
    run("chmod", "-R", "a+rX", folder)
    return {"nvidia_driver_repository": "file:/srv/nvidia", "nvidia_driver_key": key}


def run(*words: str | Path) -> str:
    return subprocess.run([str(word) for word in words], check=True, capture_output=True, text=True).stdout


def installed(lab: Boxes, name: str) -> set[str]:
    return set(
        lab[name]
        .sh("dpkg-query -W -f '${Package}=${Version}\\n' '*nvidia*' libcuda1 2>/dev/null; true")
        .split()
    )


def test_the_driver_of_the_profile_is_installed_and_kept_at_its_version(
    lab: Boxes, repository: dict[str, Any]
) -> None:
    wanted = {**REAL, **repository, "nvidia_driver_oldest": "580.65.06", "nvidia_driver_fabric_manager": True}
    found = {name: bus(lab, name, [H100] * 8 + [NIC, AUDIO]) for name in HOSTS}
    checked = lab.play(["nvidia_driver"], wanted, host_vars=found, check=True)
    assert checked.rc == 0 and all(checked.changed.values()), checked.failed
    assert not installed(lab, "deb13")
    done = lab.play(["nvidia_driver"], wanted, host_vars=found)
    assert done.rc == 0, done.failed
    assert "reboot needed: driver 580.95.05 is installed, and none is loaded" in done.stdout
    everything = {f"{name}=580.95.05-1" for name in PACKAGES}
    for name in HOSTS:
        assert installed(lab, name) == everything, installed(lab, name)
        lab[name].sh("apt-get -qy upgrade >/dev/null 2>&1")
        assert installed(lab, name) == everything, "an upgrade went past the pin"
        assert (
            lab[name].sh("systemctl is-enabled nvidia-persistenced nvidia-fabricmanager").split()
            == ["enabled"] * 2
        )
        # after the reboot
        lab[name].sh("mkdir /tmp/sys/module/nvidia && echo 580.95.05 >/tmp/sys/module/nvidia/version")
    booted = lab.play(["nvidia_driver"], wanted, host_vars=found)
    assert booted.rc == 0 and "reboot needed" not in booted.stdout
    assert (
        lab["deb12"].sh("systemctl is-active nvidia-persistenced nvidia-fabricmanager").split()
        == ["active"] * 2
    )
    assert lab.play(["nvidia_driver"], wanted, host_vars=found).nothing
    # a newer one that someone installed by hand goes back
    lab["deb13"].sh(
        "apt-get -qy install --allow-downgrades libcuda1=590.44.01-1 nvidia-persistenced=590.44.01-1"
    )
    assert lab.play(["nvidia_driver"], wanted, host_vars=found, check=True).changed["deb13"]
    lab.play(["nvidia_driver"], wanted, host_vars=found)
    assert "nvidia-persistenced=580.95.05-1" in installed(lab, "deb13")


def test_a_repository_signed_by_another_key_is_refused(lab: Boxes, repository: dict[str, Any]) -> None:
    lab["deb12"].sh("apt-get -qy purge '*nvidia*' libcuda1; rm -f /var/lib/apt/lists/_srv*")
    found = {"deb12": bus(lab, "deb12", [H100])}
    given = {**REAL, **repository, "nvidia_driver_key": "EB693B3035CD5710E231E123A4B469963BF863CC"}
    done = lab.play(["nvidia_driver"], given, host_vars=found, limit="deb12")
    assert "Install the driver" in done.failed["deb12"]
    assert not installed(lab, "deb12")
