"""Searching for a cluster's secrets where none may be: in files, processes, journals, the engine's settings."""

import base64
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

EVERY_S = 0.1


def values(folder: Path) -> dict[str, list[bytes]]:
    """Each generated secret of build/<cluster>, in the forms in which it could show.

    Of long ones the first 24 bytes, which base64 and hex write the same whatever follows.
    """
    secrets = folder / "secrets"
    found = {}
    for name in ("munge.key", "jwt_hs256.key"):
        raw = (secrets / name).read_bytes()[:24]
        found[name] = [raw, base64.b64encode(raw), base64.urlsafe_b64encode(raw), raw.hex().encode()]
    for name in ("database-password", "pulumi-passphrase"):
        found[name] = [(secrets / name).read_text().strip().encode()]
    # The private half of an unencrypted ed25519 key is in its fourth line of base64 (PROTOCOL.key of OpenSSH).
    found["admin"] = [(secrets / "admin").read_text().splitlines()[4].encode()]
    assert all(len(form) >= 24 for forms in found.values() for form in forms)
    return found


def search(
    secrets: Mapping[str, Iterable[bytes]], places: Mapping[str, bytes] | Iterable[tuple[str, bytes]]
) -> list[str]:
    """`secret in place` for each one that is there."""
    listed = places.items() if isinstance(places, Mapping) else places
    return [
        f"{name} in {place}"
        for place, content in listed
        for name, forms in secrets.items()
        if any(form in content for form in forms)
    ]


def files(folder: Path) -> dict[str, bytes]:
    """Everything below a cluster's folder but the secrets themselves."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] != "secrets"
    }


@contextmanager
def watch() -> Iterator[set[tuple[str, bytes]]]:
    """Command lines and environments of every process of this host, machines' too, while the block runs."""
    seen: set[tuple[str, bytes]] = set()
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(EVERY_S):
            for what in ("cmdline", "environ"):
                for path in Path("/proc").glob(f"[0-9]*/{what}"):
                    try:
                        seen.add((what, path.read_bytes()))
                    except OSError:  # it has ended, or is someone else's
                        continue

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield seen
    finally:
        ended.set()
        watcher.join()
