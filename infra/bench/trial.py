"""A cluster beside the user's own, for tests and measurements: the same but for its name."""

import os
from pathlib import Path

from infra.base.paths import CHECKOUT

# What a make, a shell or a package manager around us has set, and which would decide instead of the command.
FOREIGN = (
    "SLIPWAY_STARTED",
    "SLIPWAY_USER",
    "MAKEFLAGS",
    "MFLAGS",
    "MAKELEVEL",
    "JOB",
    "PURGE",
    "NODE",
    "UNDO",
    "FOLLOW",
    "KUBECONFIG",
    "TESTS",
)

# Before a command that is to be interrupted: a shell's background jobs, and all that they start, ignore Ctrl-C.
INTERRUPTIBLE = ("env", "--default-signal=INT")


def cluster_file(name: str, checkout: Path = CHECKOUT, *, like: str = "lab") -> Path:
    """Write clusters/<like>.yaml of `checkout` under another name, below its build/; returns the file."""
    file = checkout / "build" / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    text = (checkout / "clusters" / f"{like}.yaml").read_text()
    file.write_text(text.replace(f"name: {like}", f"name: {name}", 1))
    return file


def environment(name: str, file: Path, checkout: Path = CHECKOUT) -> dict[str, str]:
    """The environment of a shell in which `make` and sbatch mean the cluster `name` of `file`."""
    return {
        **{key: value for key, value in os.environ.items() if key not in FOREIGN},
        "CLUSTER": str(file),
        "PATH": f"{checkout / 'bin'}:{os.environ['PATH']}",
        "SLIPWAY_CLUSTER": name,
    }
