"""The image `stack-<name>`: the folder that nodes mount, on `base`, for clusters that pull images."""

from pathlib import Path

from infra.base.process import logged
from infra.host import engine
from infra.model import stacks


def make(folder: Path, base: str, inputs: str, tag: str, log: Path) -> None:
    """Build the image from a finished stack folder.

    A copy in a container that is then committed: to hand 5 GB to a builder takes a minute more.
    """
    container = f"slipway-build-{tag.split('/')[-1].replace(':', '-')}"
    where = stacks.on_nodes(folder)
    copy = f"mkdir -p /opt/stack && cp -a /mnt {where} && ln -s {folder.name} /opt/stack/current"
    settings = [
        f"LABEL {engine.INPUTS}={inputs}",
        f"ENV PATH={where}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        'CMD ["python"]',
    ]
    engine.remove_container(container)
    try:
        command = ["docker", "run", "--name", container, "--network", "none", "--volume", f"{folder}:/mnt:ro"]
        logged([*command, base, "sh", "-ec", copy], log)
        changes = [word for setting in settings for word in ("--change", setting)]
        logged(["docker", "commit", *changes, container, tag], log)
    finally:
        engine.remove_container(container)
