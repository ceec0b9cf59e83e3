"""Fetching one file over HTTPS, checked against its SHA-256 before it is used."""

import hashlib
import ssl
import urllib.error
import urllib.request
from pathlib import Path

from infra.base import trust
from infra.base.errors import Failure
from infra.base.progress import Step

TIMEOUT_S = 30  # without a byte


def text(url: str, *, timeout_s: float = TIMEOUT_S) -> str:
    """A small text file. Raises OSError (URLError, TimeoutError) when it cannot be had."""
    with urllib.request.urlopen(url, timeout=timeout_s, context=_trust()) as answer:  # noqa: S310
        return str(answer.read().decode())


def file(url: str, path: Path, sha256: str, step: Step, *, timeout_s: float = TIMEOUT_S) -> None:
    """Write `url` to `path`, which appears only when it is complete and its digest is right.

    Raises OSError when it cannot be had, Failure when its content is not what was pinned.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    digest, got = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(url, timeout=timeout_s, context=_trust()) as answer,  # noqa: S310
        part.open("wb") as out,
    ):
        total = int(answer.headers.get("Content-Length") or 0)
        while block := answer.read(1 << 20):
            out.write(block)
            digest.update(block)
            got += len(block)
            step.doing(f"downloading {path.name}: {got >> 20} MiB{f' of {total >> 20}' if total else ''}")
    if digest.hexdigest() != sha256:
        part.unlink()
        raise Failure(
            f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256}; nothing of it was used."
            " Does a proxy change downloads?"
        )
    part.rename(path)


def _trust() -> ssl.SSLContext:
    """The certificates that this host trusts, a company's own among them."""
    bundle = trust.host_bundle()
    return ssl.create_default_context(cafile=str(bundle) if bundle else None)
