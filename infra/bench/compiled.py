"""What compiling costs: seconds by program, from the logs of their builds on this machine."""

import shutil

from infra.base.errors import Failure
from infra.base.paths import cache
from infra.base.progress import step
from infra.bench.figure import Figure, Result
from infra.images import programs

GOAL_S = 1800  # all of them, on two cores
NAMES = ("kubernetes", "kueue", "training-operator", "local-path-provisioner", "coredns", "kwok", "kind")
SCRATCH = "bench-programs"


def anew() -> None:
    """Compile every program with an empty cache of Go's, half an hour on two cores; what is built stays as it is.

    Modules that were downloaded before are not downloaded again.
    """
    folder = cache() / "tmp" / SCRATCH
    for name in NAMES:
        with step(name) as this:
            shutil.rmtree(folder, ignore_errors=True)
            try:
                programs.compile_anew(name, folder, this)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            this.did("compiled")


def measure() -> Result:
    """What the last build of each program took. Raises Failure when one has left no time."""
    took = {name: programs.took(name) for name in NAMES}
    missing = [name for name, each in took.items() if not each]
    if missing:
        raise Failure(
            f"no time is kept of the build of {', '.join(missing)}; compile anew: python -m infra bench programs --cold"
        )
    found = {name: each for name, each in took.items() if each}
    return Result(
        "programs",
        "the last build of each program on this machine, by its log: after `python -m infra bench programs --cold`"
        " each with an empty cache of Go's, else with what Go had compiled before, which the number of packages"
        " shows: "
        + ", ".join(
            f"{name} {programs.version(name)} {each.compiled:,}"
            + (f" and {each.downloaded:,} modules downloaded" if each.downloaded else "")
            for name, each in found.items()
        ),
        [
            Figure(
                "programs of Kubernetes, compiled",
                sum(each.seconds for each in found.values()),
                "s",
                GOAL_S,
                "goal",
            ),
            *(Figure(f"  of it {name}", each.seconds, "s") for name, each in found.items()),
        ],
    )
