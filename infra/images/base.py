"""The image `base`: Debian 13's required packages and Python, unpacked by mmdebstrap, without a registry."""

import os
import shutil
import tempfile
from pathlib import Path

from infra.base.errors import Failure
from infra.base.paths import cache
from infra.base.process import logged
from infra.host import apt, docker, engine

# What is essential comes from the release alone; its updates, security's among them, have to be asked for.
UPDATE = 'APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes dist-upgrade'
# mmdebstrap copies these from the host so that its own apt works.
CLEAN = 'rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1"/var/log/*.log "$1"/var/log/apt/*'
# systemd fills an empty machine-id at the first boot; one in the image would be every machine's.
MACHINE_ID = ': > "$1/etc/machine-id"'


def sources(root: Path) -> list[Path]:
    return [root / "images/base/packages", root / "images/base/dpkg.cfg"]


def make(root: Path, inputs: str, tag: str, log: Path) -> None:
    """Build `base` as image `tag`. Raises Failure with what is missing on this host."""
    packages, excludes = (lines(path) for path in sources(root))
    options = [f"--dpkgopt={line}" for line in excludes]
    unpack(apt.DEBIAN_13, packages, options, [f"LABEL {engine.INPUTS}={inputs}", 'CMD ["bash"]'], tag, log)


def unpack(
    suite: str, packages: list[str], options: list[str], settings: list[str], tag: str, log: Path
) -> None:
    """An image of Debian `suite` with `packages`; `options` are mmdebstrap's, `settings` Docker's."""
    _need_mmdebstrap(log)
    command = [
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(packages)}",
        *options,
        f"--customize-hook={UPDATE}",
        f"--customize-hook={CLEAN}",
        f"--customize-hook={MACHINE_ID}",
    ]
    (cache() / "tmp").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache() / "tmp") as folder:
        tar = Path(folder) / "root.tar"
        logged([*command, suite, tar, *_sources(suite)], log)
        changes = [word for setting in ["ENV LANG=C.UTF-8", *settings] for word in ("--change", setting)]
        logged(["docker", "import", *changes, tar, tag], log)


def lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def _sources(suite: str) -> list[str]:
    """Lines of sources.list: Debian `suite` with its updates and security updates, from the host's mirror."""
    codename = docker.read_codename()
    main, security = apt.mirror(codename), apt.security_mirror(codename)
    if main is None or security is None:
        return []  # mmdebstrap knows Debian's own
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
        apt.install(["mmdebstrap", "debian-archive-keyring"], docker.read_codename(), log)
    if not apt.KEYRING.exists():
        raise Failure(f"{apt.KEYRING} is missing; as root: apt-get install debian-archive-keyring")
