"""Programs and toolchains: what is found, fetched and checked, with a server of our own instead of the vendor's."""

import hashlib
import io
import os
import platform
import re
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT
from infra.base.progress import Step
from infra.images import golang, kube, programs
from infra.model.cluster import REGISTRY
from infra.provision import cli

ARCH = golang.ARCHITECTURES[platform.machine()]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """An HTTP server and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", folder
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/slipway"


def pulumi(path: Path, version: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("version", "fits"),
    [("v3.250.0", True), ("v3.272.0", True), ("v3.249.9", False), ("v4.0.0", False), ("what", False)],
)
def test_only_a_pulumi_that_the_sdk_can_talk_to_is_used(tmp_path: Path, version: str, fits: bool) -> None:
    assert cli.fits(pulumi(tmp_path / "pulumi", version)) == fits


def test_a_pulumi_that_is_not_there_does_not_fit(tmp_path: Path) -> None:
    assert not cli.fits(tmp_path / "pulumi")


def test_sdk_and_command_line_have_one_version() -> None:
    version = programs.version("pulumi")
    assert f"\npulumi=={version.lstrip('v')} \\\n" in (CHECKOUT / "requirements-provision.lock").read_text()
    assert f"v{cli.MINIMUM[0]}.{cli.MINIMUM[1]}." in version


def test_every_program_can_be_built_from_what_is_committed() -> None:
    for name in programs.PROGRAMS:
        assert programs.version(name)
        wanted = golang.wanted(programs.source(name) / "go.mod")
        for arch in ("amd64", "arm64"):
            assert f"{wanted}.linux-{arch}" in golang.DIGESTS


def _archive(folder: Path, version: str) -> tuple[str, str]:
    """A vendor's archive with a pulumi in it; its name and digest."""
    name = f"pulumi-{version}-linux-x64.tar.gz"
    content = f"#!/bin/sh\necho {version}\n".encode()
    with tarfile.open(folder / name, "w:gz") as tar:
        entry = tarfile.TarInfo("pulumi/pulumi")
        entry.size, entry.mode = len(content), 0o755
        tar.addfile(entry, io.BytesIO(content))
    return name, hashlib.sha256((folder / name).read_bytes()).hexdigest()


def fetch(url: str, final: Path) -> Path:
    archive, checksums = url + "/pulumi-{version}-linux-{arch}.tar.gz", url + "/pulumi-{number}-checksums.txt"
    return cli.fetch(archive, checksums, "v3.250.0", "x64", final, Step("pulumi", None))


def test_the_vendors_archive_is_checked_and_used(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    name, digest = _archive(folder, "v3.250.0")
    (folder / "pulumi-3.250.0-checksums.txt").write_text(f"{'0' * 64}  other.tar.gz\n{digest}  {name}\n")
    found = fetch(url, tmp_path / "vendor")
    assert cli.fits(found)
    assert [path.name for path in (tmp_path / "vendor").iterdir()] == ["pulumi"]


def test_an_archive_that_was_changed_on_the_way_is_refused(server: tuple[str, Path], tmp_path: Path) -> None:
    url, folder = server
    name, _ = _archive(folder, "v3.250.0")
    (folder / "pulumi-3.250.0-checksums.txt").write_text(f"{'0' * 64}  {name}\n")
    with pytest.raises(Failure, match=r"SHA-256 is .*, expected 0000"):
        fetch(url, tmp_path / "vendor")
    assert not (tmp_path / "vendor").exists()


def test_a_vendor_that_is_not_reached_is_no_failure(server: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(OSError):  # `ensure` goes on to build it
        fetch(server[0], tmp_path / "vendor")


def _toolchain(folder: Path, name: str) -> str:
    """A toolchain archive as the module proxy serves it; its digest."""
    path = folder / f"golang.org/toolchain/@v/v0.0.1-{name}.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as zipped:
        for file in ("bin/go", "pkg/tool/x/compile"):
            zipped.writestr(f"golang.org/toolchain@v0.0.1-{name}/{file}", "#!/bin/sh\n")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_without_go_a_toolchain_comes_from_the_module_proxy(
    server: tuple[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    name = f"go9.9.9.linux-{ARCH}"
    monkeypatch.setitem(golang.DIGESTS, name, _toolchain(folder, name))
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("GOPROXY", f"{url}/missing,{url}|direct")
    go, environment = golang.ensure("go9.9.9", Step("go", None))
    assert go == cache / "go" / name / "bin/go" and os.access(go, os.X_OK)
    assert os.access(go.parent.parent / "pkg/tool/x/compile", os.X_OK)
    assert environment == {"GOTOOLCHAIN": "local"}


def test_a_wrong_toolchain_is_refused(
    server: tuple[str, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, folder = server
    name = f"go9.9.9.linux-{ARCH}"
    _toolchain(folder, name)
    monkeypatch.setitem(golang.DIGESTS, name, "0" * 64)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("GOPROXY", url)
    with pytest.raises(Failure, match="expected 0000"):
        golang.ensure("go9.9.9", Step("go", None))


def test_without_go_and_proxy_the_message_says_so(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setenv("GOPROXY", "off")
    monkeypatch.setitem(golang.DIGESTS, f"go9.9.9.linux-{ARCH}", "0" * 64)
    with pytest.raises(Failure, match=r"no Go 1\.21 or newer on this machine.*GOPROXY names no proxy"):
        golang.ensure("go9.9.9", Step("go", None))
    with pytest.raises(Failure, match=r"no Go toolchain for go1\.0"):
        golang.ensure("go1.0", Step("go", None))


def test_a_failed_build_names_its_log(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go = tmp_path / "bin/go"
    go.parent.mkdir()
    go.write_text(
        "#!/bin/sh\n[ $1 = env ] && echo go1.26.8 && exit\necho internal/x\necho x.go:1: bad >&2\nexit 1\n"
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    with pytest.raises(
        Failure, match=r"(?s)pulumi could not be built \(1\): x.go:1: bad\n  log: .*pulumi.log"
    ):
        programs.ensure("pulumi", Step("pulumi", None))
    assert not programs.folder("pulumi").exists()
    assert programs.took("pulumi") is None


def test_a_build_leaves_what_it_took(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    go = tmp_path / "bin/go"
    go.parent.mkdir()
    go.write_text(
        "#!/bin/sh\n[ $1 = env ] && echo go1.26.8 && exit\necho go: downloading x\necho a\necho b\n"
        f"echo $GOCACHE >{tmp_path}/gocache\n"
        'for last; do [ "$before" = -o ] && folder=$last; before=$last; done\ntouch $folder/kind\n'
    )
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}:/usr/bin:/bin")
    assert programs.took("kind") is None
    programs.ensure("kind", Step("kind", None))
    took = programs.took("kind")
    assert took and (took.downloaded, took.compiled) == (1, 2)
    programs.compile_anew("kind", tmp_path / "anew", Step("kind", None))
    assert (tmp_path / "gocache").read_text().strip() == str(tmp_path / "anew/cache")
    assert (tmp_path / "anew/kind").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("gitVersion", "v1.34.4"), ("gitMajor", "1"), ("gitMinor", "34"), ("VERSION", "v1.34.4")],
)
def test_the_linker_is_told_the_part_of_a_version_that_a_variable_is_named_for(
    variable: str, value: str
) -> None:
    assert programs._of(f"k8s.io/component-base/version.{variable}", "v1.34.4") == value


def test_kubernetes_own_libraries_have_its_version() -> None:
    """All of them are moved together: go.mod says how."""
    go_mod = (programs.source("kubernetes") / "go.mod").read_text()
    replaced = re.findall(r"^\t(k8s.io/\S+) => (k8s.io/\S+) (v\S+)$", go_mod, re.MULTILINE)
    assert len(replaced) > 25
    number = programs.version("kubernetes").removeprefix("v1.")
    assert [line for line in replaced if line != (line[0], line[0], f"v0.{number}")] == []


def fake_go(folder: Path, script: str) -> str:
    """A PATH on which a go of our own builds by `script`, in which $out is the folder to build into."""
    go = folder / "bin/go"
    go.parent.mkdir(parents=True)
    start = "#!/bin/sh\n[ $1 = env ] && echo go1.26.8 && exit\n"
    out = "for word; do case $word in */.*.part/) out=$word;; esac; done\n"
    go.write_text(start + out + script)
    go.chmod(0o755)
    return f"{go.parent}:/usr/bin:/bin"


def test_manifests_of_a_module_come_with_its_program(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    crd = tmp_path / "module/config/components/crd/queue.yaml"
    (tmp_path / "module/config/default").mkdir(parents=True)
    crd.parent.mkdir(parents=True)
    crd.write_text("kind: CustomResourceDefinition\n")
    for path in (crd, crd.parent):
        path.chmod(0o555)  # as Go's module cache is
    script = f'[ $1 = list ] && echo {tmp_path}/module && exit\necho x; touch "$out/kueue"\n'
    monkeypatch.setenv("PATH", fake_go(tmp_path, script))
    folder = programs.ensure("kueue", Step("kueue", None))
    copy = folder / programs.UPSTREAM / "config/components/crd/queue.yaml"
    assert copy.read_text() == crd.read_text()
    assert copy.stat().st_mode & 0o200 and copy.parent.stat().st_mode & 0o200, "can be removed again"
    crd.parent.chmod(0o755)


def test_programs_are_built_in_the_background_one_after_another(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    script = f'echo begin >>{log}; sleep 0.2; echo x; touch "$out/kind" "$out/coredns"; echo end >>{log}\n'
    monkeypatch.setenv("PATH", fake_go(tmp_path, script))
    step = Step("programs", None)
    with programs.in_background(["kind", "coredns"]) as builds:
        builds.wait(step)
        assert (programs.folder("kind") / "kind").exists() and (
            programs.folder("coredns") / "coredns"
        ).exists()
    assert log.read_text().split() == ["begin", "end"] * 2
    assert "building" in step.text


def test_a_failure_in_the_background_is_raised_where_it_is_waited_for(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", fake_go(tmp_path, "echo no space; exit 1\n"))
    with (
        programs.in_background(["kind", "coredns"]) as builds,
        pytest.raises(Failure, match="kind could not be built"),
    ):
        builds.wait(Step("programs", None))
    assert not programs.folder("coredns").exists()


def test_a_command_that_ends_early_ends_what_it_builds(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started = tmp_path / "started"
    monkeypatch.setenv("PATH", fake_go(tmp_path, f"echo $$ >{started}; exec sleep 600\n"))
    with pytest.raises(KeyboardInterrupt), programs.in_background(["kind", "coredns"]):
        while not (started.exists() and started.read_text()):
            time.sleep(0.01)
        raise KeyboardInterrupt
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
    assert not programs.folder("kind").exists()


def test_committed_manifests_name_images_that_a_node_has() -> None:
    """A new version of a program is one line in its go.mod, and then these."""
    known = set(kube.references(CHECKOUT).values())
    for folder in ("k8s", "infra/render/templates", "jobs"):
        for file in (CHECKOUT / folder).rglob("*"):
            if file.suffix in (".yaml", ".j2", ".sbatch"):
                named = set(re.findall(rf"{re.escape(REGISTRY)}/[\w-]+:[\w.]+", file.read_text()))
                assert named <= known, file.relative_to(CHECKOUT)


@pytest.mark.parametrize("name", ["kueue", "local-path-provisioner"])
def test_what_is_compiled_for_kubernetes_is_not_compiled_once_more(name: str) -> None:
    """Go compiles a package again for another version of anything that it imports: Kueue has 1,074 in common."""

    def modules(program: str) -> dict[str, str]:
        text = (programs.source(program) / "go.mod").read_text()
        required = dict(re.findall(r"^\t(\S+) (v\S+)(?: // indirect)?$", text, re.MULTILINE))
        return required | dict(re.findall(r"^\t(\S+) => \S+ (v\S+)$", text, re.MULTILINE))

    theirs, ours = modules("kubernetes"), modules(name)
    common = theirs.keys() & ours.keys()
    assert len(common) >= 50
    assert {each: ours[each] for each in common} == {each: theirs[each] for each in common}
