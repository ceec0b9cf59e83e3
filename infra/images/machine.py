"""Images `machine` and `machine-debian-12`: what a cloud's Debian image is, as a container.

systemd, an SSH server and a user `admin` who may become root; no key, no host key, nothing else. Pulumi makes
machines of place `docker` from it, and Ansible finds on them what it finds on a new server.
"""

from pathlib import Path

from infra.host import apt, engine
from infra.images import base, box

SUITES = {"debian-13": apt.DEBIAN_13, "debian-12": "bookworm"}


def name(image: str) -> str:
    """The target that stands for an operating system of the cluster file: debian-13, debian-12."""
    return "machine" if image == "debian-13" else f"machine-{image}"


def sources(root: Path) -> list[Path]:
    return [root / "images/machine", root / "images/base/dpkg.cfg"]


def make(root: Path, image: str, inputs: str, tag: str, log: Path) -> None:
    """Build the machine image of operating system `image` as `tag`."""
    folder = root / "images/machine"
    options = [f"--dpkgopt={line}" for line in base.lines(root / "images/base/dpkg.cfg")]
    options.append(f"--customize-hook=copy-in {folder}/root/etc /")
    options.append(f'--customize-hook=chroot "$1" bash < {folder}/finish')
    settings = [f"LABEL {engine.INPUTS}={inputs}", *box.BOOTS]
    base.unpack(SUITES[image], base.lines(folder / "packages"), options, settings, tag, log)
