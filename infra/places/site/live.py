"""What slurmctld runs with, beside its own file: asked for, and put right."""

from infra.base.progress import Step
from infra.base.wait import settled
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

    def look() -> str:
        left = differences(site)
        return _said(left[0]) if left else ""

    settled(
        look,
        WAIT_S,
        late=lambda left: (
            f"slurmctld still runs with {left}; on {site.controller}: systemctl restart slurmctld"
        ),
    )
    return [_said(one) for one in found]


def _said(one: tuple[str, str, str, str]) -> str:
    what, key, rendered, running = one
    return f"{what}: {key} {running} -> {rendered}"
