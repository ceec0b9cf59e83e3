"""Whom this host trusts: its bundle of certificates, wherever its distribution keeps it."""

import os
from pathlib import Path

BUNDLES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),  # Debian, Ubuntu, Arch
    Path("/etc/pki/tls/certs/ca-bundle.crt"),  # Fedora, RHEL
    Path("/etc/ssl/ca-bundle.pem"),  # SUSE
)


def host_bundle() -> Path | None:
    """The certificates that this host trusts, in one file; among them a company's that intercepts TLS."""
    chosen = os.environ.get("SSL_CERT_FILE")
    candidates = (*([Path(chosen)] if chosen else []), *BUNDLES)
    return next((bundle for bundle in candidates if bundle.is_file()), None)
