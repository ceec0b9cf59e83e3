"""What slurmctld runs with, beside its own file: asked for, and put right."""

import time

from infra.base.errors import Failure
from infra.base.progress import Step
from infra.places.site import slurmconf
from infra.places.site.site import Site

SHOW = ("show config", "-o show node", "-o show partition")
MARK = "== slipway =="
WAIT_S = 15  # for slurmctld to have read its files again


def differences(site: Site) -> list[tuple[str, str, str, str]]:
    """(what, key, rendered, running) of everything that slurmctld runs with otherwise."""
    conf = (site.folder / "slurm" / "slurm.conf").read_text()
    script = f" && echo '{MARK}' && ".join(f"scontrol {words}" for words in SHOW)
    shown = site.run(site.controller, "sh", "-c", script).split(MARK)
    return slurmconf.differences(conf, *shown)


def put_right(site: Site, this: Step) -> list[str]:
    """Have slurmctld read its files again when someone changed it live; what differed, in words.

    Raises Failure for what it still runs with afterwards.
    """
    found = differences(site)
    if not found:
        return []
    this.doing("slurmctld reads its configuration again")
    site.run(site.controller, "scontrol", "reconfigure")
    deadline = time.monotonic() + WAIT_S
    while left := differences(site):
        if time.monotonic() > deadline:
            raise Failure(
                f"slurmctld still runs with {_said(left[0])}; on {site.controller}: systemctl restart slurmctld"
            )
        time.sleep(0.5)
    return [_said(one) for one in found]


def _said(one: tuple[str, str, str, str]) -> str:
    what, key, rendered, running = one
    return f"{what}: {key} {running} -> {rendered}"
