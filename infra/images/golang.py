"""A Go toolchain: the host's own, else one from the Go module proxy, unpacked into the user's cache.

go.mod's `toolchain` line says which version builds a program. A `go` of 1.21 or newer on PATH fetches that
one by itself and checks it against Go's checksum database; without one we fetch the same archive, checked
against the digests below.
"""

import os
import platform
import re
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from infra.base import download
from infra.base.errors import Failure
from infra.base.once import only_one
from infra.base.paths import cache
from infra.base.process import answer
from infra.base.progress import Step
from infra.base.version import number

if TYPE_CHECKING:
    from packaging.version import Version


PROXY = "https://proxy.golang.org"
# Of golang.org/toolchain@v0.0.1-<version>.linux-<arch>.zip, as `go mod download` of it checked them against
# sum.golang.org. A new `toolchain` line in a go.mod needs its two lines here.
DIGESTS = {
    "go1.26.8.linux-amd64": "30c2b1bf7dcc88d3eb0a1364e47ddd9128edb3110a30e8a0ef61cd5856b31de7",
    "go1.26.8.linux-arm64": "02b36b6787b3ac767668f630e2998df45a3b1f9ffee08d1bf3ef6487cd658d99",
}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
FETCHES_ITSELF = "1.21"  # the first go command that obeys a `toolchain` line


def wanted(go_mod: Path) -> str:
    """`go1.26.8`, from the toolchain line of a go.mod."""
    found = re.search(r"^toolchain (go[\d.]+)$", go_mod.read_text(), re.MULTILINE)
    if not found:
        raise Failure(f"{go_mod}: no toolchain line; write: toolchain go1.26.8")
    return found[1]


def ensure(version: str, step: Step) -> tuple[Path, dict[str, str]]:
    """A go command, and the environment in which it is `version`."""
    own = shutil.which("go")
    if own and _version(own) >= number(FETCHES_ITSELF):
        return Path(own), {"GOTOOLCHAIN": version}
    return _fetched(version, step), {"GOTOOLCHAIN": "local"}


def _version(go: str) -> "Version":
    try:
        return number(answer([go, "env", "GOVERSION"], env={"GOTOOLCHAIN": "local"}))
    except Failure:
        return number("")


def _fetched(version: str, step: Step) -> Path:
    name = f"{version}.linux-{ARCHITECTURES.get(platform.machine(), platform.machine())}"
    folder = cache() / "go" / name
    if (folder / "bin/go").exists():
        return folder / "bin/go"
    if name not in DIGESTS:
        raise Failure(
            f"no Go toolchain for {name} is known here: install Go 1.21 or newer, then run this again"
        )
    with only_one(str(folder)):
        if not (folder / "bin/go").exists():
            archive = cache() / "go" / f"{name}.zip"
            if not archive.exists():
                _download(name, archive, step)
            step.doing(f"unpacking {archive.name}")
            _unpack(archive, name, folder)
            archive.unlink()
    return folder / "bin/go"


def _download(name: str, archive: Path, step: Step) -> None:
    tried = []
    for proxy in proxies():
        url = f"{proxy}/golang.org/toolchain/@v/v0.0.1-{name}.zip"
        try:
            download.file(url, archive, DIGESTS[name], step)
            return
        except OSError as error:
            tried.append(f"{url}: {error}")
    why = "; ".join(tried) or "GOPROXY names no proxy"
    raise Failure(f"no Go 1.21 or newer on this machine, and none could be fetched: {why}")


def proxies() -> list[str]:
    """The module proxies of GOPROXY, in its order; `direct` and `off` are no proxies."""
    words = re.split(r"[,|]", os.environ.get("GOPROXY") or PROXY)
    return [word.strip().rstrip("/") for word in words if word.strip().startswith("http")]


def _unpack(archive: Path, name: str, folder: Path) -> None:
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(archive) as zipped:
        zipped.extractall(part)
    inside = part / f"golang.org/toolchain@v0.0.1-{name}"
    for programs in ("bin", "pkg/tool"):  # module archives carry no modes
        for file in (inside / programs).rglob("*"):
            if file.is_file():
                file.chmod(0o755)
    inside.rename(folder)
    shutil.rmtree(part)
