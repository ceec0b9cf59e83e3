"""The few things that we ask of the Docker engine, by its command line, so that the user's contexts count."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from infra.base.errors import Failure
from infra.base.process import output, succeeds

# The name that our images have in the engine before the slash. `bench cold` builds under another one.
REPOSITORY = os.environ.get("SLIPWAY_REPOSITORY") or "slipway"
INPUTS = "slipway.inputs"  # the label that holds the content hash of everything that an image was made from


def tag(name: str, inputs: str) -> str:
    return f"{REPOSITORY}/{name}:{inputs}"


def has(image: str) -> bool:
    """Whether this engine has the image."""
    return succeeds(["docker", "image", "inspect", image])


def size(image: str) -> int:
    """Bytes of the image's layers, unpacked."""
    return int(output(["docker", "image", "inspect", "--format", "{{.Size}}", image]))


def inspect(image: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(output(["docker", "image", "inspect", image]))
    return found[0]


def images() -> list[str]:
    """Tags of every image of ours that this engine has, newest first."""
    ours = ("--filter", f"label={INPUTS}", "--filter", f"reference={REPOSITORY}/*")
    return output(["docker", "image", "ls", *ours, "--format", "{{.Repository}}:{{.Tag}}"]).split()


def mounted() -> set[str]:
    """Folders of this host that containers have, running or not."""
    ids = output(["docker", "ps", "--all", "--quiet"]).split()
    if not ids:
        return set()
    found: list[dict[str, Any]] = json.loads(output(["docker", "inspect", *ids]))
    return {
        mount["Source"] for container in found for mount in container["Mounts"] if mount["Type"] == "bind"
    }


def remove_container(name: str) -> None:
    """Remove a container, running or not; nothing happens when there is none."""
    succeeds(["docker", "rm", "--force", "--volumes", name])


def data_folder() -> Path | None:
    """Where the engine keeps images, when that is on this machine."""
    folder = Path(output(["docker", "info", "--format", "{{.DockerRootDir}}"]))
    return folder if folder.is_dir() else None


def need_disk(folder: Path, gib: float, what: str) -> None:
    """Raise Failure when the disk that `folder` is on has less than `gib` GiB free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 2**30
    if free < gib:
        raise Failure(
            f"{what} needs {gib:.0f} GiB on the disk of {folder}, and {free:.1f} GiB are free: make room"
        )
