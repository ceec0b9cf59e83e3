"""Software bills of materials (CycloneDX JSON): build/images/<name>.cdx.json for each image and stack folder.

What Debian brings is read from the image by debsbom; what PyPI brings, with the hashes of the lock, by
cyclonedx-py. An image of a stack has both. They are written again only when the image is another one.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from infra.base import files
from infra.base.errors import Failure
from infra.base.paths import CHECKOUT, build
from infra.base.process import run
from infra.host import engine
from infra.images.verify import locked_versions
from infra.model import stacks
from infra.model.host import read_host

OF = "slipway:of"  # property of the document: the image's digest, or the folder's name
TIME = "1970-01-01T00:00:00Z"  # the same image has the same document; when it was built says the image
VERSION = "1.7"  # of CycloneDX; both tools write it


def path(name: str) -> Path:
    return build("images") / f"{name}.cdx.json"


def ensure(
    name: str, where: str, *, stack: str | None = None, folder: bool = False, root: Path = CHECKOUT
) -> Path:
    """Write the document of a target unless it is there. `stack`: the one that the target delivers."""
    of = Path(where).name if folder else str(engine.inspect(where)["Id"])
    file = path(name)
    if not _is_of(file, of):
        parts = [] if folder else [_debian(name, where)]
        parts += [_python(stack, root)] if stack else []
        document = merge(name, of, parts)
        file.parent.mkdir(parents=True, exist_ok=True)
        files.put(file, json.dumps(document, indent=1) + "\n")
    return file


def _is_of(file: Path, of: str) -> bool:
    try:
        properties = json.loads(file.read_text())["metadata"]["properties"]
    except (OSError, ValueError, KeyError):
        return False
    return {"name": OF, "value": of} in properties


def merge(name: str, of: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """One document with the components of all `parts`; each part keeps what it says of dependencies."""
    return {
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "version": 1,
        "metadata": {
            "component": {"type": "container", "name": name, "bom-ref": name},
            "tools": {
                "components": [tool for part in parts for tool in part["metadata"]["tools"]["components"]]
            },
            "properties": [{"name": OF, "value": of}],
        },
        "components": [component for part in parts for component in part["components"]],
        "dependencies": [dependency for part in parts for dependency in part.get("dependencies", [])],
    }


def _debian(name: str, image: str) -> dict[str, Any]:
    files = ["tar", "--create", "--directory=/", "usr/lib/os-release", "etc/os-release", "var/lib/dpkg"]
    with tempfile.TemporaryDirectory() as folder:
        tar, out = Path(folder) / "root.tar", Path(folder) / "out"
        with tar.open("wb") as file:
            command = ["docker", "run", "--rm", "--network", "none", image, *files]
            done = run(command, stdout=file, stderr=subprocess.PIPE)
        if done.returncode:
            raise Failure(f"{image}: its list of packages cannot be read: {done.stderr.decode().strip()}")
        _tool(
            *("debsbom", "generate", "--sbom-type", "cdx", "--root", tar, "--out", out),
            *("--distro-name", name, "--timestamp", TIME),
        )
        document: dict[str, Any] = json.loads(out.with_name("out.cdx.json").read_text())
    return document


def _python(stack: str, root: Path) -> dict[str, Any]:
    """From the lock, without the packages that other kinds of machines would have."""
    lock = stacks.lock(root, stack).read_text()
    wanted = locked_versions(lock, read_host().arch)
    kept, keep = [], False
    for line in lock.splitlines():
        if not line.startswith((" ", "#")):
            keep = line.split("==")[0] in wanted
        if keep:
            kept.append(line)
    command = ["cyclonedx-py", "requirements", "--spec-version", VERSION, "--output-reproducible", "-"]
    document: dict[str, Any] = json.loads(_tool(*command, text="\n".join(kept)))
    return document


def _tool(program: str, *arguments: str | Path, text: str = "") -> str:
    """Run a program of our environment; what it prints. Raises Failure with its last line."""
    command = [str(Path(sys.executable).with_name(program)), *(str(argument) for argument in arguments)]
    done = run(command, input=text, capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise Failure(f"{program} failed ({done.returncode}): {lines[-1] if lines else 'no message'}")
    return str(done.stdout)
