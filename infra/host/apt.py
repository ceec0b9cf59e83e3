"""Debian packages for this host itself, without changing the host's own list of sources."""

import os
from pathlib import Path

from infra.base.errors import Failure
from infra.base.paths import cache
from infra.base.process import logged, run

DEBIAN_13 = "trixie"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KEYS_OF_DEBIAN_13 = Path("/usr/share/keyrings/debian-archive-trixie-stable.gpg")
QUIET = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1"}
SOURCE = "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n"


def mirror(codename: str) -> str | None:
    """Where Debian packages come from: SLIPWAY_DEBIAN_MIRROR, else this host's source of its own release.

    None on a host that is not Debian (its mirror of Ubuntu, say, has no Debian on it).
    """
    return os.environ.get("SLIPWAY_DEBIAN_MIRROR") or _source_of(codename)


def security_mirror(codename: str) -> str | None:
    """The same for security updates; a mirror of Debian has them beside it, with `-security` at the end."""
    if chosen := os.environ.get("SLIPWAY_DEBIAN_MIRROR"):
        return f"{chosen.rstrip('/')}-security"
    return _source_of(f"{codename}-security")


def _source_of(release: str) -> str | None:
    if "ID=debian" not in Path("/etc/os-release").read_text().splitlines():
        return None
    fields = "$(RELEASE)|$(COMPONENT)|$(REPO_URI)"
    targets = run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"],
        capture_output=True,
        text=True,
    ).stdout
    for line in str(targets).splitlines():
        found, component, uri = line.split("|", 2)
        if found == release and component == "main":
            return uri.rstrip("/")
    return None


def install(packages: list[str], codename: str, log: Path, *, newer: bool = False) -> None:
    """Install `packages` with what they need; as root. `newer`: on Debian 12 take these (no others) from 13.

    Debian 12's Docker 20.10 cannot run privileged containers without CAP_SYS_RESOURCE, and has no compose v2.
    Debian 13's needs only a libc6 that Debian 12 has, too.
    """
    options = _both_releases(codename) if newer and codename == "bookworm" else []
    wanted = [f"{name}/{DEBIAN_13}" for name in packages] if options else packages
    logged(["apt-get", *options, "update", "--quiet"], log, env=QUIET)
    logged(
        ["apt-get", *options, "install", "--quiet", "--yes", "--no-install-recommends", *wanted],
        log,
        env=QUIET,
    )


def _both_releases(codename: str) -> list[str]:
    """Options for an apt that knows Debian 13 beside the host's own release, in folders of its own.

    Debian 13 is pinned below what is installed: only packages asked for by release come from it.
    """
    uri = mirror(codename)
    if uri is None:
        raise Failure(
            f"no source of Debian {codename} in /etc/apt: name one by SLIPWAY_DEBIAN_MIRROR=http://..."
        )
    if not KEYS_OF_DEBIAN_13.exists():
        raise Failure(
            f"{KEYS_OF_DEBIAN_13} is missing, so Debian 13's packages cannot be verified: "
            "apt-get update && apt-get install --only-upgrade debian-archive-keyring"
        )
    root = cache() / "apt" / codename
    for folder in ("sources", "lists/partial", "archives/partial"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for suite in (codename, DEBIAN_13):
        text = SOURCE.format(uri=uri, suite=suite, keyring=KEYRING)
        (root / "sources" / f"{suite}.sources").write_text(text)
    pin = f"Package: *\nPin: release n={DEBIAN_13}\nPin-Priority: 90\n"
    (root / "preferences").write_text(pin)
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": root / "sources",
        "Dir::Etc::preferences": root / "preferences",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State::lists": root / "lists",
        "Dir::Cache::archives": root / "archives",
        "APT::Sandbox::User": "root",  # apt's own user cannot reach a cache below root's home
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
