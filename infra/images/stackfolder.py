"""A stack as a folder: the environment of `images/stacks/<name>/requirements.lock`, in the user's cache.

It is installed by uv in a container of `base`, so that it fits the nodes whatever this host runs, under the
path that it has on every node: /opt/stack/<name>-<lock hash>. Nodes mount it read-only.
"""

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path

from infra.base.errors import Failure, Mistake
from infra.base.paths import CHECKOUT, cache
from infra.base.process import logged
from infra.images import buildenv
from infra.model import stacks

MARKER = "stack.json"  # says what a folder holds; nodes' health checks read it


def make(root: Path, name: str, base: str, log: Path) -> None:
    """Build the folder. What an interrupted build has downloaded is used by the next."""
    final = stacks.path(root, name)
    part = final.with_name(f".{final.name}.part")
    shutil.rmtree(part / final.name, ignore_errors=True)
    part.mkdir(parents=True, exist_ok=True)
    logged(_install_command(root, name, base, part, final), log)
    built = part / final.name
    marker = {"stack": name, "lock": stacks.lock_hash(root, name), "records": records_digest(built)}
    (built / MARKER).write_text(json.dumps(marker, indent=2) + "\n")
    _make_read_only(built)
    built.rename(final)
    shutil.rmtree(part)


def _install_command(root: Path, name: str, base: str, part: Path, final: Path) -> list[str]:
    where = stacks.on_nodes(final)
    script = (
        f"uv venv --quiet --python /usr/bin/python3.13 {where} && "
        f"uv pip install --python {where}/bin/python --require-hashes --compile-bytecode "
        "--requirements /requirements.lock"
    )
    # uv's cache lies below the same mount as the environment, so that files are linked and not copied.
    env = {
        "UV_CACHE_DIR": "/opt/stack/.uv",
        "HOME": "/opt/stack",
        "UV_NO_PROGRESS": "1",
    } | buildenv.variables()
    return [
        *("docker", "run", "--rm", "--init", "--user", f"{os.getuid()}:{os.getgid()}"),
        *(word for key in env for word in ("--env", f"{key}={env[key]}")),
        *("--volume", f"{part}:/opt/stack"),
        *("--volume", f"{uv()}:/usr/local/bin/uv:ro"),
        *("--volume", f"{buildenv.folder()}:{buildenv.MOUNT}:ro"),
        *("--volume", f"{stacks.lock(root, name)}:/requirements.lock:ro"),
        *(base, "sh", "-c", script),
    ]


def uv() -> Path:
    """The uv that made our own environment, else the one on PATH."""
    beside = Path(sys.executable).with_name("uv")
    found = beside if beside.exists() else shutil.which("uv")
    if found is None:
        raise Failure("uv is missing: run make, which installs it")
    return Path(found).resolve()


def relock(name: str, root: Path = CHECKOUT) -> str:
    """Resolve requirements.in into requirements.lock again, for every kind of machine; says what came of it.

    Raises Mistake when there is no such stack.
    """
    place = root / "images/stacks" / name
    if not (place / "requirements.in").is_file():
        raise Mistake(
            f"images/stacks/{name}/requirements.in: no such file; there are {', '.join(stacks.names(root))}"
        )
    before = stacks.lock_hash(root, name) if stacks.lock(root, name).exists() else None
    command: list[str | Path] = [
        uv(),
        "pip",
        "compile",
        "requirements.in",
        "--universal",
        "--python-version",
        "3.13",
    ]
    options = ["--generate-hashes", "--no-annotate", "--upgrade", "--output-file", "requirements.lock"]
    said = ["--custom-compile-command", f"python -m infra images lock {name}"]
    logged(
        [*command, *options, *said], cache() / "logs" / "lock.log", env={"UV_SYSTEM_CERTS": "1"}, cwd=place
    )
    after = stacks.lock_hash(root, name)
    return f"{name} {after}, unchanged" if before == after else f"{name} {before} -> {after}"


def records_digest(folder: Path) -> str:
    """SHA-256 over the lists of files (RECORD) of all installed distributions, with a hash for each."""
    digest = hashlib.sha256()
    for record in sorted(folder.glob("lib/python*/site-packages/*.dist-info/RECORD")):
        digest.update(record.parent.name.encode() + b"\0" + record.read_bytes())
    return digest.hexdigest()


def _make_read_only(folder: Path) -> None:
    for place, _, files in os.walk(folder):
        for name in files:
            file = Path(place, name)
            if not file.is_symlink():
                file.chmod(file.stat().st_mode & 0o555)
        if Path(place) != folder:  # the folder itself must be writable until it has been renamed
            Path(place).chmod(Path(place).stat().st_mode & 0o555)


def folders() -> list[Path]:
    """Every stack folder in the cache, of whatever commit, and what interrupted builds have left."""
    return sorted((cache() / "stacks").glob("*"))


def remove(folder: Path) -> None:
    """Remove a folder, read-only as it is."""
    for place, _, _ in os.walk(folder):
        Path(place).chmod(0o700)
    shutil.rmtree(folder)


def size(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(Path(place, name).lstat().st_size for place, _, files in os.walk(folder) for name in files)
