"""Programs and toolchains: what is found, fetched and checked, with a server of our own instead of the vendor's."""

import hashlib
import io
import os
import platform
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from infra import golang, programs
from infra.errors import Failure
from infra.paths import CHECKOUT
from infra.progress import Step
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
