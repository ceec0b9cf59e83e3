"""What an image holds, and above all what it must not hold. Needs Docker."""

import hashlib
import json
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.base import trust
from infra.base.paths import CHECKOUT
from infra.base.progress import Step
from infra.host import engine
from infra.images import kube, programs, sbom
from infra.images import targets as images
from infra.images.targets import Target
from infra.model.cluster import REGISTRY

TESTED = {"real": ["images and their locks", "Debian 13", "x86_64"]}

IMAGES = ("base", "node", "stack-cuda13", pytest.param("kind-node", marks=pytest.mark.kind))


@pytest.fixture(scope="module", params=IMAGES)
def image(request: pytest.FixtureRequest, built: dict[str, Target]) -> Target:
    return built[request.param]


def in_image(image: Target, script: str, *options: str) -> str:
    command = [
        "docker",
        "run",
        "--rm",
        "--init",
        "--network",
        "none",
        *options,
        image.where,
        "sh",
        "-ec",
        script,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_no_certificate_of_this_host_stays(image: Target) -> None:
    """Each certificate that the host trusts and Debian does not is looked for in every file of the image."""
    bundle = trust.host_bundle()
    if bundle is None:
        pytest.skip("this host has no bundle of certificates that could have stayed")
    debians = set(certificates(in_image(image, "cat /etc/ssl/certs/ca-certificates.crt")))
    own = [one for one in certificates(bundle.read_text(errors="replace")) if one not in debians]
    needles = [one.split()[2] for one in own]  # the third line of its base64 says which it is
    found = grep(image, needles)
    assert found == [], f"of {len(own)} certificates that only this host has"


def certificates(text: str) -> Iterator[str]:
    yield from re.findall(r"-----BEGIN CERTIFICATE-----\s(.*?)-----END CERTIFICATE-----", text, re.DOTALL)


def grep(image: Target, needles: list[str]) -> list[str]:
    """Files of the image's root file system that hold any of `needles`."""
    if not needles:
        return []
    command = ["docker", "run", "--rm", "--interactive", "--network", "none", image.where]
    # NVIDIA's libraries come from wheels that `verify` compares with their checksums: 4 GB less to search.
    search = "grep -rlFs -f /dev/shm/needles --exclude-dir=nvidia /etc /mnt /opt /root /usr /var"
    script = f"cat >/dev/shm/needles; {search} || [ $? -eq 1 ]"
    done = subprocess.run(
        [*command, "sh", "-ec", script], input="\n".join(needles), capture_output=True, text=True
    )
    return done.stdout.split()


def test_that_search_finds_a_certificate_that_stayed(built: dict[str, Target]) -> None:
    """Red: Debian's own bundle is in the image, so its certificates must be found."""
    bundle = in_image(built["base"], "cat /etc/ssl/certs/ca-certificates.crt")
    needle = next(certificates(bundle)).split()[2]
    assert "/etc/ssl/certs/ca-certificates.crt" in grep(built["base"], [needle])


def test_no_environment_of_the_build_stays(image: Target) -> None:
    settings = json.dumps(engine.inspect(image.where)["Config"]).lower()
    for word in ("proxy", "ssl_cert", "pip_", "uv_", "apt_config", "mirror"):
        assert word not in settings


def test_no_key_no_identity_and_no_cache_stays(image: Target) -> None:
    """Keys that Debian's packages generate would be the same on every node."""
    left = in_image(
        image,
        """
        test ! -d /etc/munge || find /etc/munge -mindepth 1
        find /root -mindepth 1 ! -name .bashrc ! -name .profile
        find /etc -name '*_key' -o -name '*.key' -o -name apt.conf
        find /var/lib/apt/lists /var/cache/apt /var/log /tmp /var/tmp /mnt -type f -size +0
        find /opt -name '*.part' -o -name .uv
        test ! -s /etc/machine-id || echo /etc/machine-id
        test ! -d /var/lib/mysql || find /var/lib/mysql -mindepth 1
        """,
    )
    assert left == ""


def test_apt_is_told_no_proxy_and_trusts_only_debian(image: Target) -> None:
    assert "proxy" not in in_image(image, "apt-config dump").lower()
    assert "trusted=yes" not in in_image(
        image, "find /etc/apt -name '*.list' -o -name '*.sources' | xargs cat"
    )


def test_the_node_image_is_small(built: dict[str, Target]) -> None:
    assert built["node"].size() <= 900e6


def test_each_image_says_what_it_was_made_from(image: Target) -> None:
    assert engine.inspect(image.where)["Config"]["Labels"] == {engine.INPUTS: image.inputs}
    assert image.where.endswith(f":{image.inputs}")


def test_node_has_what_a_cluster_counts_on(built: dict[str, Target]) -> None:
    versions = in_image(
        built["node"], "slurmd -V; python3 --version; systemctl --version | head -n 1; git --version"
    )
    assert "slurm-wlm 24.11" in versions
    assert "Python 3.13" in versions
    assert "systemd 257" in versions
    for program in ("health-check", "prolog", "epilog", "secrets", "wait-for", "database"):
        in_image(built["node"], f"test -x /usr/libexec/slipway/{program}")
    ids = in_image(built["node"], "id -u slurm; id -u munge; id -u slurmrestd; id -u mysql").split()
    assert ids == ["64030", "399", "398", "397"]


@pytest.mark.kind
def test_kind_node_is_the_kubernetes_that_it_says(built: dict[str, Target]) -> None:
    said = in_image(built["kind-node"], "cat /kind/version").strip()
    assert said == programs.version("kubernetes")
    programs_say = "kubelet --version; kubeadm version -o short; kubectl version --client"
    versions = in_image(built["kind-node"], f"{programs_say}; containerd --version; systemctl --version")
    assert f"Kubernetes {said}\n{said}\nClient Version: {said}\n" in versions
    assert " 1.7." in versions and "systemd 257" in versions


@pytest.mark.kind
def test_kind_node_has_the_image_of_every_component_and_no_pod_asks_for_another(
    built: dict[str, Target],
) -> None:
    script = """
        containerd --log-level error &
        until ctr version >/dev/null 2>&1; do sleep 0.1; done
        ctr --namespace k8s.io images ls -q
        """
    options = ("--privileged", "--mount", "type=volume,target=/var")
    images = {name for name in in_image(built["kind-node"], script, *options).split() if ":" in name}
    named = {name.split("/")[-1].split(":")[0] for name in images if name.startswith(REGISTRY)}
    assert named == {component.name for component in kube.COMPONENTS}
    files = "/kind/manifests/default-storage.yaml /etc/containerd/config.toml"
    asked = re.findall(r"slipway\.local/[^\"]+|@[A-Z-]+@", in_image(built["kind-node"], f"cat {files}"))
    assert len(asked) == 3 and set(asked) <= images


@pytest.mark.kind
def test_layers_of_kind_node_are_not_copied_into_every_node(built: dict[str, Target]) -> None:
    kilobytes = in_image(built["kind-node"], "du -s /var/lib/containerd /kind/layers").split()
    assert int(kilobytes[0]) < 2_000 < 500_000 < int(kilobytes[2])


@pytest.mark.kind
def test_programs_in_component_images_are_those_that_were_built(built: dict[str, Target]) -> None:
    listed = in_image(built["kind-node"], "sha256sum /kind/layers/*/fs/usr/local/bin/*")
    inside = {Path(line.split()[1]).name: line.split()[0] for line in listed.splitlines()}
    for component in kube.COMPONENTS:
        if component.program:
            name, file = component.program
            content = (programs.folder(name) / file).read_bytes()
            assert inside[file] == hashlib.sha256(content).hexdigest()


def test_no_service_of_slurm_starts_by_itself(built: dict[str, Target]) -> None:
    units = "slurmctld slurmd slurmdbd slurmrestd sackd mariadb prometheus-node-exporter"
    states = in_image(built["node"], f"systemctl is-enabled {units} || true").split()
    assert states == ["disabled"] * 7


@pytest.fixture
def booted(built: dict[str, Target]) -> Iterator[str]:
    """A container of `node` that is a database, started as Compose starts it; its name."""
    name = "slipway-test-boot"
    cgroup = "systemd.unified_cgroup_hierarchy=0 SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1"
    v1 = (
        []
        if Path("/sys/fs/cgroup/cgroup.controllers").exists()
        else ["--env", f"SYSTEMD_PROC_CMDLINE={cgroup}"]
    )
    engine.remove_container(name)
    subprocess.run(
        [
            *(
                "docker",
                "run",
                "--detach",
                "--name",
                name,
                "--privileged",
                "--cgroupns=private",
                "--network",
                "none",
            ),
            *("--tmpfs", "/run:mode=755", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:mode=1777,exec", *v1),
            *(built["node"].where, "/sbin/init", "--unit=slipway-db.target"),
        ],
        check=True,
        capture_output=True,
    )
    yield name
    engine.remove_container(name)


def test_systemd_starts_without_a_failed_unit_and_does_not_touch_the_host(booted: str) -> None:
    def ask(*command: str) -> str:
        return subprocess.run(
            ["docker", "exec", booted, *command], capture_output=True, text=True
        ).stdout.strip()

    deadline = (
        time.monotonic() + 60
    )  # a first start makes MariaDB's system tables: 4 s, more on a busy machine
    while ask("systemctl", "is-active", "slipway-db.target") != "active":
        assert time.monotonic() < deadline, ask("systemctl", "list-jobs")
        time.sleep(0.2)
    assert ask("systemctl", "is-system-running", "--wait") == "running"
    assert ask("systemctl", "--failed", "--no-legend") == ""
    for unit in ("systemd-sysctl", "systemd-modules-load", "systemd-binfmt", "chrony"):
        assert ask("systemctl", "is-active", unit) == "inactive"
    assert ask("mariadb", "--execute", "SELECT 'answers'", "--skip-column-names") == "answers"


def test_a_bill_of_materials_lies_beside_each_image(image: Target) -> None:
    document = json.loads(image.write_sbom(CHECKOUT).read_text())
    assert document["bomFormat"] == "CycloneDX"
    named = {component["name"]: component for component in document["components"]}
    installed = in_image(image, "dpkg-query --show --showformat '${Package}\\n'").split()
    assert set(installed) <= set(named)
    assert ("torch" in named) == (image.stack is not None)
    if image.stack:
        assert named["torch"]["version"] == "2.14.1"


def test_a_bill_of_another_image_is_written_again(built: dict[str, Target]) -> None:
    file = sbom.path("base")
    document = json.loads(built["base"].write_sbom(CHECKOUT).read_text())
    document["metadata"]["properties"][0]["value"] = "sha256:another"
    file.write_text(json.dumps(document))
    assert "sha256:another" not in built["base"].write_sbom(CHECKOUT).read_text()


def test_nothing_is_built_twice(built: dict[str, Target]) -> None:
    step = Step("images", None)
    start = time.monotonic()
    again = images.build_all(images.DEFAULT, step)
    assert not any(one.changed for one in again.values())
    assert "unchanged" in step.text
    assert images.current(images.DEFAULT) is not None
    assert time.monotonic() - start < 10


def test_the_layers_of_node_hold_no_secret_either(built: dict[str, Target], tmp_path: Path) -> None:
    """A file that a later layer deletes is still in the image: so the layers are looked through, too."""
    archive = tmp_path / "node.tar"
    with archive.open("wb") as file:
        subprocess.run(["docker", "save", built["node"].where], stdout=file, check=True)
    names: set[str] = set()
    with tarfile.open(archive) as outer:
        for member in outer:
            inner = outer.extractfile(member) if member.isfile() else None
            if inner and member.size > 100_000:
                with tarfile.open(fileobj=inner) as layer:
                    names |= {entry.name for entry in layer}
    assert "etc/munge" in names, "the layers were read"
    assert not names & {"etc/munge/munge.key", "mnt/ca.pem", "mnt/apt.conf"}
    assert not [name for name in names if "ssh_host_" in name or name.endswith(".deb")]
