"""What an image is made from decides its name; what a stack holds is compared with its lock."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from infra.base import once
from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT
from infra.base.progress import Step
from infra.host.engine import need_disk
from infra.images import buildenv, recipe, sbom, targets, updates
from infra.images.verify import compare_facts, compare_files, compare_lock, locked_versions
from infra.model import stacks
from infra.model.stacks import Stack, read_stacks

INPUTS = ("ansible", "images", "infra/images", "programs", "slurm")
IMAGES = {
    "base",
    "machine",
    "machine-debian-12",
    "node",
    "stack-cuda13",
    "stack-cuda12",
    "kube-net",
    "kind-node",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what images are made from, to be changed."""
    for name in INPUTS:
        shutil.copytree(CHECKOUT / name, tmp_path / name)
    return tmp_path


def names(root: Path) -> dict[str, str]:
    return {name: target.inputs for name, target in targets.targets(root).items()}


def test_an_unchanged_checkout_gives_the_same_names(checkout: Path) -> None:
    assert names(checkout) == names(CHECKOUT)


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("images/base/packages", {"base", "node", "stack-cuda13", "stack-cuda12", "kube-net", "kind-node"}),
        ("images/kube/packages", {"kube-net", "kind-node"}),
        ("images/kind/finish", {"kind-node"}),
        ("programs/kueue/go.sum", {"kind-node"}),
        ("programs/coredns/coredns/main.go", {"kind-node"}),
        ("programs/kwok/go.sum", set()),
        ("ansible/roles/munge/tasks/install.yml", {"node"}),
        ("slurm/prolog.sh", {"node"}),
        ("images/stacks/cuda13/requirements.lock", {"cuda13", "stack-cuda13"}),
        ("images/stacks/cuda13/requirements.in", set()),
        ("ansible/roles/slurm/README.md", set()),
        ("ansible/roles/slurm/tasks/configure.yml", set()),
        # how it is made: SETTINGS of an image that boots are in box.py, and were in nobody's name but node's
        ("infra/images/base.py", IMAGES),
        ("infra/images/box.py", IMAGES - {"base", "stack-cuda13", "stack-cuda12"}),
        ("infra/images/buildenv.py", IMAGES - {"base", "stack-cuda13", "stack-cuda12"}),
        ("infra/images/node.py", {"node"}),
        ("infra/images/machine.py", {"machine", "machine-debian-12"}),
        ("infra/images/kube.py", {"kube-net", "kind-node"}),
        ("infra/images/kind.py", {"kind-node"}),
        ("infra/images/stack.py", {"stack-cuda13", "stack-cuda12"}),
        ("infra/images/programs.py", set()),
        ("infra/images/targets.py", set()),
    ],
)
def test_a_changed_input_renames_what_is_made_from_it_and_nothing_else(
    checkout: Path, file: str, changed: set[str]
) -> None:
    before = names(checkout)
    with (checkout / file).open("a") as text:
        text.write("# changed\n")
    after = names(checkout)
    assert {name for name in after if after[name] != before[name]} == changed


def test_every_module_that_makes_an_image_is_in_its_name() -> None:
    """Of infra/images, only what makes no image, or whose result is named by itself, is in no image's name."""
    makers = ("base", "node", "machine", "stack", "kube", "kind")
    found = {file.stem for maker in makers for file in recipe.files(maker, CHECKOUT)}
    others = {file.stem for file in (CHECKOUT / recipe.FOLDER).glob("*.py")} - found
    assert (
        others
        == {"__init__", "targets", "recipe", "updates", "verify", "probe", "sbom", "stackfolder"}
        | recipe.RESULTS
    )


def test_a_refresh_renames_what_has_packages_and_a_failed_one_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = names(CHECKOUT)

    def fails(*_: object) -> None:
        raise Failure("no mirror")

    with monkeypatch.context() as broken, pytest.raises(Failure, match="no mirror"):
        broken.setattr(targets, "build_all", fails)
        targets.refresh(["node"], Step("images", None))
    assert names(CHECKOUT) == before
    updates.refresh()
    after = names(CHECKOUT)
    assert {name for name in after if after[name] != before[name]} == IMAGES


SIMULATED = """\
NOTE: This is only a simulation!
Inst libssl3t64 [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
Inst tzdata [2025b-4] (2025b-4+deb13u1 Debian:13.2/stable, Debian:13-updates/stable-updates [all])
Inst linux-new (1 Debian:13.2/stable [amd64])
Conf libssl3t64 (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
"""


def test_what_has_fixes_is_told_and_what_is_not_known_is_no_good_news() -> None:
    found = updates.parse(SIMULATED)
    assert [(each.package, each.security) for each in found] == [("libssl3t64", True), ("tzdata", False)]
    built = datetime(2026, 1, 1, tzinfo=UTC)
    now = built + timedelta(days=7, hours=3)
    age = updates.Age("node", built, tuple(found))
    assert age.said(now) == (
        "node: packages of 2026-01-01, 7 days old; 1 with security fixes, 1 with other updates"
    )
    assert str(age.security[0]) == "libssl3t64 3.5.1-1 -> 3.5.1-1+deb13u1"
    assert "none has an update" in updates.Age("node", built).said(now)
    unknown = updates.Age("node", built, unknown="its mirror does not answer").said(now)
    assert "not known: its mirror does not answer" in unknown
    assert "none has an update" not in unknown


def test_a_mode_and_a_name_count_as_content(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_text("echo")
    file.chmod(0o644)
    plain = once.content_hash(tmp_path, [file])
    file.chmod(0o755)
    executable = once.content_hash(tmp_path, [file])
    other = once.content_hash(tmp_path, [file.rename(tmp_path / "other")])
    assert len({plain, executable, other}) == 3


def test_parents_come_first_and_an_unknown_name_is_told() -> None:
    known = targets.targets()
    assert [target.name for target in targets.select(["stack-cuda13", "node"], known)] == [
        "base", "node", "cuda13", "stack-cuda13",
    ]  # fmt: skip
    with pytest.raises(Mistake, match="'nod'; there are base, node"):
        targets.select(["nod"], known)


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Failure, match=r"building node needs 1000000 GiB .* free: make room$"):
        need_disk(tmp_path / "not" / "there" / "yet", 1e6, "building node")


@pytest.mark.parametrize("stack", stacks.names())
def test_every_line_of_a_lock_has_hashes_and_none_names_a_server(stack: str) -> None:
    lock = stacks.lock(CHECKOUT, stack).read_text()
    assert "://" not in lock
    blocks = [block for block in lock.replace(" \\\n", " ").splitlines() if "==" in block]
    assert all("--hash=sha256:" in block for block in blocks)


@pytest.mark.parametrize("stack", read_stacks(CHECKOUT), ids=lambda stack: stack.name)
def test_a_lock_has_the_torch_and_nccl_of_its_facts_on_each_architecture(stack: Stack) -> None:
    facts = stack.file
    lock = stacks.lock(CHECKOUT, facts.name).read_text()
    for architecture in facts.architectures:
        locked = locked_versions(lock, architecture)
        assert locked["torch"] == facts.torch
        nccl = next(version for name, version in locked.items() if name.startswith("nvidia-nccl-"))
        assert nccl == facts.nccl
        assert "colorama" not in locked, "of Windows only"


LOCK = """\
numpy==2.5.5 \\
    --hash=sha256:00
colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:00
triton==3.8.0 ; platform_machine == 'x86_64' and sys_platform == 'linux' \\
    --hash=sha256:00
"""


def test_what_is_installed_is_compared_with_the_lock() -> None:
    assert compare_lock(LOCK, {"numpy": "2.5.5", "triton": "3.8.0"}, "x86_64") == []
    assert compare_lock(LOCK, {"numpy": "2.5.5"}, "aarch64") == []
    assert compare_lock(LOCK, {"numpy": "2.5.4", "evil": "1"}, "x86_64") == [
        "evil 1 is installed, the lock has none",
        "numpy 2.5.4 is installed, the lock has 2.5.5",
        "triton 3.8.0 is missing",
    ]


def test_what_libraries_report_is_compared_with_the_facts() -> None:
    facts = next(stack.file for stack in read_stacks(CHECKOUT) if stack.name == "cuda13")
    capabilities = list(facts.compute_capabilities)
    right = {"python": "3.13.5", "torch": "2.14.1", "cuda": "13.0", "cudnn": "9.24.0", "nccl": "2.30.7"}
    assert compare_facts(facts, right, capabilities) == []
    assert compare_facts(facts, right | {"cudnn": "9.2.40"}, capabilities) == [
        "cudnn is 9.2.40, stack.yaml says 9.24.0"
    ]
    assert compare_facts(facts, right | {"cuda": None}, capabilities) == [
        "cuda is None, stack.yaml says 13.0"
    ]
    assert "kernels" in compare_facts(facts, right, capabilities[1:])[0]


def test_many_damaged_files_are_counted_and_not_listed() -> None:
    assert compare_files([f"{number}: changed" for number in range(8)])[-1] == "and 3 files more"


def test_a_build_is_handed_the_hosts_certificates_and_proxies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = tmp_path / "company.pem"
    bundle.write_text("a certificate")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.delenv("https_proxy", raising=False)
    given = buildenv.variables()
    assert given["https_proxy"] == given["HTTPS_PROXY"] == "http://proxy:3128"
    assert given["SSL_CERT_FILE"] == f"{buildenv.MOUNT}/ca.pem"
    assert (buildenv.folder() / "ca.pem").read_text() == "a certificate"


def test_a_bill_of_materials_of_two_parts_has_the_components_of_both(tmp_path: Path) -> None:
    part = {"metadata": {"tools": {"components": [{"name": "tool"}]}}, "components": [{"name": "libc6"}]}
    other = {**part, "components": [{"name": "torch"}], "dependencies": [{"ref": "torch"}]}
    document = sbom.merge("stack-cuda13", "sha256:1", [part, other])
    assert [component["name"] for component in document["components"]] == ["libc6", "torch"]
    assert document["dependencies"] == [{"ref": "torch"}]
    assert json.loads(json.dumps(document))["metadata"]["properties"] == [
        {"name": sbom.OF, "value": "sha256:1"}
    ]
