"""What a build is handed from this host and must not keep: certificates, proxies, package caches.

They reach a build container as a folder mounted at MOUNT and as environment of single commands (never of the
container, whose environment would be committed with it).
"""

import os
from pathlib import Path

from infra.base import trust
from infra.base.paths import cache

MOUNT = "/mnt"  # exists in every Debian root, so that mounting there leaves nothing behind
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
INDEXES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")


def folder() -> Path:
    """The folder to mount at MOUNT: certificates and apt's settings for them, written anew."""
    place = cache() / "buildenv"
    place.mkdir(parents=True, exist_ok=True)
    bundle = trust.host_bundle()
    if bundle:
        (place / "ca.pem").write_bytes(bundle.read_bytes())
    (place / "apt.conf").write_text(_apt_settings(trusted=bundle is not None))
    return place


def _apt_settings(*, trusted: bool) -> str:
    # A build that is cut short is thrown away: syncing each file to the disk would double its time.
    lines = ['Acquire::Retries "3";', 'DPkg::Options { "--force-unsafe-io"; };']
    if trusted:
        lines.append(f'Acquire::https::CAInfo "{MOUNT}/ca.pem";')
    return "\n".join(lines) + "\n"


def variables() -> dict[str, str]:
    """Environment of a command in a build container with `folder()` mounted: how to get out from it."""
    found = {"APT_CONFIG": f"{MOUNT}/apt.conf", "DEBIAN_FRONTEND": "noninteractive"}
    for name in PROXIES:
        value = os.environ.get(name) or os.environ.get(name.upper())
        if value:
            found[name] = found[name.upper()] = value
    if trust.host_bundle():
        for name in ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"):
            found[name] = f"{MOUNT}/ca.pem"
    for name in INDEXES:
        if os.environ.get(name):
            found[name] = os.environ[name]
    if "UV_DEFAULT_INDEX" not in found and "PIP_INDEX_URL" in found:
        found["UV_DEFAULT_INDEX"] = found["PIP_INDEX_URL"]  # uv does not read pip's variables
    return found
