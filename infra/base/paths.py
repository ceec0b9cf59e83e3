"""Where things lie: the checkout, what is rendered from it, and the user's cache."""

import os
from pathlib import Path

from infra.base.process import home

CHECKOUT = Path(__file__).resolve().parents[2]


def cache() -> Path:
    """The folder for everything downloaded or built, shared by all clones (XDG base directories)."""
    root = os.environ.get("XDG_CACHE_HOME") or Path(home()) / ".cache"
    return Path(root) / "slipway"


def build(cluster: str) -> Path:
    """The folder for what is rendered, generated and logged for one cluster."""
    return CHECKOUT / "build" / cluster
