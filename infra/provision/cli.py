"""The Pulumi command line and the executable that runs our dynamic providers, together in one folder.

Used: a `pulumi` on PATH of a version that fits; else the vendor's archive, where its site can be reached; else
one built from its Go modules (programs/pulumi), once, into the user's cache.
"""

import platform
import re
import shutil
import tarfile
from pathlib import Path

from infra.base import download
from infra.base.errors import Failure
from infra.base.once import only_one
from infra.base.paths import CHECKOUT, cache
from infra.base.process import answer
from infra.base.progress import Step
from infra.images import programs

# The SDK in .venv speaks to this version and newer ones of the same major version.
MINIMUM = (3, 250)
VENDOR = "https://get.pulumi.com/releases/sdk/pulumi-{version}-linux-{arch}.tar.gz"
# The digests stand at another place than the archive.
CHECKSUMS = "https://github.com/pulumi/pulumi/releases/download/{version}/pulumi-{number}-checksums.txt"
ARCHITECTURES = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}
VENDOR_TIMEOUT_S = 5  # many sites cannot reach it, and then it is built
PROVIDER = "pulumi-resource-pulumi-python"


def home() -> Path:
    """PULUMI_HOME: plugins and credentials, not the user's own ones."""
    return cache() / "pulumi"


def ensure(step: Step) -> Path:
    """The folder with `pulumi` and the provider's executable; found, fetched or built."""
    folder = CHECKOUT / ".venv/pulumi/bin"
    pulumi = folder / "pulumi"
    own = _own()
    if not own and not fits(pulumi):
        step.doing("looking for the Pulumi command line")
    _link(pulumi, own or _kept(pulumi) or _vendor(step) or programs.ensure("pulumi", step) / "pulumi")
    _link(folder / PROVIDER, CHECKOUT / "infra/provision/bin" / PROVIDER)
    return folder


def fits(pulumi: Path | str) -> bool:
    """Whether this command is a Pulumi that the SDK can talk to."""
    try:
        said = answer([pulumi, "version"], env={"PULUMI_SKIP_UPDATE_CHECK": "1", "HOME": "/nonexistent"})
    except Failure:
        return False
    found = re.fullmatch(r"v?(\d+)\.(\d+)\.\S+", said.strip())
    if not found:
        return False
    return int(found[1]) == MINIMUM[0] and int(found[2]) >= MINIMUM[1]


def _own() -> Path | None:
    """A pulumi that the person has installed, when its version fits."""
    found = shutil.which("pulumi")
    return Path(found) if found and fits(found) else None


def _kept(pulumi: Path) -> Path | None:
    """What an earlier run fetched or built, while programs/pulumi still says the same version."""
    if not pulumi.is_symlink():
        return None
    kept = pulumi.resolve()
    current = (programs.folder("pulumi"), _vendor_folder())
    return kept if kept.is_file() and kept.parent in current else None


def _vendor_folder() -> Path:
    return cache() / "programs" / f"pulumi-{programs.version('pulumi')}-vendor"


def _vendor(step: Step) -> Path | None:
    """The vendor's own build; None where it cannot be had. Raises Failure when its digest is wrong."""
    final = _vendor_folder()
    if programs.folder("pulumi").is_dir() or (final / "pulumi").is_file():
        return final / "pulumi" if (final / "pulumi").is_file() else None
    version, arch = programs.version("pulumi"), ARCHITECTURES.get(platform.machine())
    if not arch:
        return None
    step.doing("asking the vendor for the Pulumi command line")
    try:
        return fetch(VENDOR, CHECKSUMS, version, arch, final, step)
    except OSError:
        return None


def fetch(archive: str, checksums: str, version: str, arch: str, final: Path, step: Step) -> Path:
    """Fetch and unpack the vendor's archive into `final`. Raises OSError where it cannot be reached."""
    url = archive.format(version=version, arch=arch)
    listed = download.text(
        checksums.format(version=version, number=version.lstrip("v")), timeout_s=VENDOR_TIMEOUT_S
    )
    name = url.rsplit("/", 1)[-1]
    digests = [line.split()[0] for line in listed.splitlines() if line.split()[1:] == [name]]
    if not digests:
        raise Failure(f"{checksums}: names no {name}")
    with only_one(str(final)):
        packed = final.with_name(name)
        download.file(url, packed, digests[0], step, timeout_s=VENDOR_TIMEOUT_S)
        part = final.with_name(f".{final.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        with tarfile.open(packed) as tar:
            member = tar.getmember("pulumi/pulumi")
            member.name = "pulumi"
            tar.extract(member, part, filter="data")
        packed.unlink()
        part.rename(final)
    return final / "pulumi"


def _link(link: Path, target: Path) -> None:
    """Make `link` point to `target`; another run may do the same at the same time."""
    if link.is_symlink() and link.readlink() == target:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    part = link.with_name(f".{link.name}.part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.replace(link)
