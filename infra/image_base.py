"""The image `base`: Debian 13's required packages and Python, unpacked by mmdebstrap, without a registry."""

import os
import shutil
import tempfile
from pathlib import Path

from infra import apt, engine, host
from infra.errors import Failure
from infra.paths import cache
from infra.process import logged

RECIPE = Path(__file__).read_text()  # this module is an input of what it makes

# mmdebstrap copies these from the host so that its own apt works.
CLEAN = 'rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1"/var/log/*.log "$1"/var/log/apt/*'
# systemd fills an empty machine-id at the first boot; one in the image would be every machine's.
MACHINE_ID = ': > "$1/etc/machine-id"'


def sources(root: Path) -> list[Path]:
    return [root / "images/base/packages", root / "images/base/dpkg.cfg"]


def make(root: Path, inputs: str, tag: str, log: Path) -> None:
    """Build `base` as image `tag`. Raises Failure with what is missing on this host."""
    _need_mmdebstrap(log)
    packages, excludes = (_lines(path) for path in sources(root))
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(packages)}",
        f"--customize-hook={CLEAN}",
        f"--customize-hook={MACHINE_ID}",
        *(f"--dpkgopt={line}" for line in excludes),
    ]
    (cache() / "tmp").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache() / "tmp") as folder:
        tar = Path(folder) / "base.tar"
        logged([*command, apt.DEBIAN_13, tar, *_sources()], log)
        settings = [f"LABEL {engine.INPUTS}={inputs}", "ENV LANG=C.UTF-8", 'CMD ["bash"]']
        changes = [word for setting in settings for word in ("--change", setting)]
        logged(["docker", "import", *changes, tar, tag], log)


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _sources() -> list[str]:
    """Lines of sources.list: Debian 13 with its updates and security updates, from the host's mirror."""
    codename = host.read_codename()
    main, security = apt.mirror(codename), apt.security_mirror(codename)
    if main is None or security is None:
        return []  # mmdebstrap knows Debian's own
    suite = apt.DEBIAN_13
    signed = f"[signed-by={apt.KEYRING}]"
    return [
        f"deb {signed} {main} {suite} main",
        f"deb {signed} {main} {suite}-updates main",
        f"deb {signed} {security} {suite}-security main",
    ]


def _need_mmdebstrap(log: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Failure(
                "mmdebstrap is missing; as root: apt-get install mmdebstrap debian-archive-keyring uidmap"
            )
        apt.install(["mmdebstrap", "debian-archive-keyring"], host.read_codename(), log)
    if not apt.KEYRING.exists():
        raise Failure(f"{apt.KEYRING} is missing; as root: apt-get install debian-archive-keyring")
