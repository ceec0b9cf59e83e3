"""The secrets of a lab cluster: made at first start, in build/<cluster>/secrets, mode 0600, never in git.

Containers see each one as a Compose secret, and only those that they need.
"""

import secrets
from collections.abc import Callable
from pathlib import Path

from infra.base import files, paths

# munge takes keys of 32 to 1024 bytes; its own mungekey makes 128; 32 bytes are a full HS256 key.
FILES: dict[str, Callable[[], bytes]] = {
    "munge.key": lambda: secrets.token_bytes(128),
    "jwt_hs256.key": lambda: secrets.token_bytes(32),
    "database-password": lambda: secrets.token_hex(24).encode(),
}


def folder(cluster: str) -> Path:
    return paths.build(cluster) / "secrets"


def ensure(cluster: str) -> list[str]:
    """Make the secrets that are missing; returns their names."""
    return _write(cluster, [name for name in FILES if not (folder(cluster) / name).is_file()])


def rotate(cluster: str) -> list[str]:
    """Make every secret anew; returns their names. Nodes use them after a restart."""
    return _write(cluster, list(FILES))


def remove(cluster: str) -> None:
    for name in FILES:
        (folder(cluster) / name).unlink(missing_ok=True)
    if folder(cluster).is_dir():
        folder(cluster).rmdir()


def _write(cluster: str, names: list[str]) -> list[str]:
    place = folder(cluster)
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o700)
    for name in names:
        files.put(place / name, FILES[name](), 0o600)
    return names
