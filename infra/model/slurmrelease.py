"""Releases of Slurm: which Debian suite has which, and from which to which one may go in one step."""

from infra.base.errors import Mistake
from infra.base.version import number
from infra.model.cluster import Cluster

# packages.debian.org/source/slurm-wlm; sources.debian.org for those that are no more
SUITES = {"bookworm": "22.05", "trixie": "24.11", "forky": "26.05", "sid": "26.05"}
IMAGES = {"debian-12": "bookworm", "debian-13": "trixie"}
OWN = "trixie"  # the suite of images that we do not know, and of the lab's

# In their order; slurm.schedmd.com/upgrades.html, "Release Cycle"
RELEASES = ["22.05", "23.02", "23.11", "24.05", "24.11", "25.05", "25.11", "26.05", "26.11"]
THREE_SINCE = "24.11"  # it and those after it take over from three releases before them, older ones from two


def own(cluster: Cluster) -> str:
    """The suite of the cluster's machines."""
    return IMAGES.get(cluster.spec.machines.image, OWN)


def suite(cluster: Cluster) -> str:
    """The suite that Slurm is installed from."""
    return cluster.spec.software.slurm_suite or own(cluster)


def release(cluster: Cluster) -> str:
    """What the cluster file asks for, as 24.11. Raises Mistake for a suite whose Slurm we do not know."""
    found = SUITES.get(suite(cluster))
    if not found:
        known = ", ".join(SUITES)
        raise Mistake(f"{cluster.file}: software.slurm_suite: '{suite(cluster)}'; known are {known}")
    return found


def of(version: str) -> str:
    """24.11 of 24.11.5-4+deb13u1, or of `slurm-wlm 24.11.5`."""
    return ".".join(version.split()[-1].split(".")[:2])


def newer(one: str, other: str) -> bool:
    """Whether release `one` came after `other`."""
    return number(one) > number(other)


def refusal(before: str, after: str) -> str:
    """Why Slurm cannot go from release `before` to the newer `after` in one step; empty when it can."""
    if before not in RELEASES or after not in RELEASES:
        unknown = before if before not in RELEASES else after
        return (
            f"release {unknown} is not in infra/model/slurmrelease.py: add it after reading its release notes"
        )
    last = RELEASES.index(after)
    reach = 3 if last >= RELEASES.index(THREE_SINCE) else 2
    oldest = RELEASES[max(last - reach, 0)]
    if RELEASES.index(before) >= last - reach:
        return ""
    return f"Slurm {after} takes over from {oldest} and later, not from {before}: go by a release between"
