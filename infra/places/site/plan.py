"""`make plan`: what `cluster-up` would do, and what has drifted from what it did, in one report.

Three sources are joined: Pulumi's preview (machines, networks, disks), Ansible in check mode (files, packages,
services) and slurmctld itself (what it runs with beside what was rendered). Nothing on the cluster is changed.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from infra.base.errors import Failure
from infra.base.progress import Step, console, step
from infra.model import hostlist, shape
from infra.model.cluster import Cluster
from infra.places.site import live, release
from infra.places.site.applied import Applied
from infra.places.site.play import Result, play
from infra.places.site.site import Site
from infra.places.site.steps import prepare, variables

SIGNS = {"make": "+", "change": "~", "replace": "±", "remove": "-", "drift": "!"}
STYLES = {"make": "green", "change": "yellow", "replace": "magenta", "remove": "red", "drift": "cyan"}
WORDS = {
    "make": "to make",
    "change": "to change",
    "replace": "to replace",
    "remove": "to remove",
    "drift": "drifted",
}


@dataclass(frozen=True)
class Item:
    """One line of the report. `name` is a machine, a host list or a resource."""

    kind: str  # a key of SIGNS
    what: str  # machine, network, volume, file, package, service, slurm ...
    name: str
    reason: str
    usd_per_hour: float | None = None
    watts: float | None = None


@dataclass(frozen=True)
class Sums:
    """What the cluster costs and draws; None where a price is not stated."""

    machines: int
    usd_per_hour: float | None
    watts: float


@dataclass(frozen=True)
class Plan:
    cluster: str
    items: list[Item]
    before: Sums
    after: Sums
    unreachable: dict[str, str]


def plan(cluster: Cluster, *, as_json: bool) -> int:
    """Print the report; returns 0 for no change and 1 for changes. Raises Failure when it cannot tell."""
    console.quiet = as_json
    cluster, newer = release.running(cluster)
    prepare(cluster)
    found = make(cluster, newer)
    console.quiet = False
    if as_json:
        print(json.dumps(asdict(found), indent=2))
    else:
        show(found)
    if found.unreachable:
        names = ", ".join(found.unreachable)
        raise Failure(
            f"not asked: {names} ({next(iter(found.unreachable.values()))}); the report is without them"
        )
    return 1 if found.items else 0


def make(cluster: Cluster, newer: Sequence[str] = ()) -> Plan:
    """Ask all three. `newer`: what `make upgrade` would change, which is a change of the cluster."""
    from infra.provision.provisioner import Provisioner

    site = Site(cluster)
    with step("machines") as this:
        changes = Provisioner(cluster, this).preview()
        this.did(f"{len(changes)} to make, change or remove" if changes else "no change")
    items = [
        Item(c.kind, c.what, c.name, c.reason or c.hardware or "", c.usd_per_hour, c.watts)
        for c in sorted(changes, key=lambda c: (c.what == "machine", c.what, natural(c.name)))
    ]
    items += [Item("change", "slurm", cluster.name, line) for line in newer]
    unreachable: dict[str, str] = {}
    if site.file.is_file():
        gone = {c.name for c in changes if c.what == "machine"}
        stay = [m.name for m in site.machines if m.name not in gone]
        with step("configure") as this:
            configured, unreachable = check(site, stay, this)
            this.did(f"{len(configured)} differences on {len(stay)} machines" if configured else "no change")
        items += configured
        if site.controller in stay and site.controller not in unreachable:
            with step("slurm") as this:
                running = slurm(site)
                this.did(f"{len(running)} differences" if running else "as rendered")
            told = {item.name for item in items if item.what == "file"}
            items += [item for item in running if site.controller not in told or item.kind == "drift"]
    return Plan(cluster.name, items, before(site), after(cluster), unreachable)


def check(site: Site, machines: list[str], this: Step) -> tuple[list[Item], dict[str, str]]:
    """What Ansible would change on `machines`, and those that it could not ask."""
    if not machines:
        return [], {}
    played = play(site, this, check=True, limit=machines, variables=variables(site))
    applied = Applied.load(site)
    same: dict[tuple[str, str, str, str], list[str]] = {}
    follows: dict[tuple[str, str], list[str]] = {}
    for result in played.changed:
        if result.handler:
            role, _, task = result.task.partition(" : ")
            follows.setdefault((result.host, role), []).append(task[:1].lower() + task[1:])
    for result in played.changed:
        kind, what, reason = explain(result, applied)
        if what and not result.handler:
            then = follows.pop((result.host, result.task.partition(" : ")[0]), [])
            reason += f"; then: {', '.join(then)}" if then else ""
            same.setdefault((kind, what, reason, result.task), []).append(result.host)
    items = [
        Item(kind, what, hostlist.compress(tuple(sorted(hosts, key=natural))), reason)
        for (kind, what, reason, _), hosts in same.items()
    ]
    return items, played.broken


def explain(result: Result, applied: Applied) -> tuple[str, str, str]:
    """kind, what and reason of one changed task: drift when nothing of ours has changed since it was applied."""
    role, _, task = result.task.partition(" : ")
    kind = "drift" if applied.current else "change"
    paths = [what.removesuffix(" (content)").strip() for what, _, _ in result.diffs if what.startswith("/")]
    if paths:
        if not applied.current and any(applied.differs(before) for _, before, _ in result.diffs):
            kind = "drift"
        verb = "was changed on the machine; would be put back" if kind == "drift" else "as rendered now"
        return kind, "file", f"{', '.join(paths)} {verb}"
    named = [what for what, _, _ in result.diffs if what]
    if named and kind == "drift":
        return kind, role, f"{', '.join(named)}: was changed on the machine; would be put back"
    return kind, role or "task", task[:1].lower() + task[1:] if task else result.task


def slurm(site: Site) -> list[Item]:
    """What slurmctld runs with that is not what its own file says."""
    kind = "drift" if Applied.load(site).current else "change"
    same: dict[tuple[str, str, str], list[str]] = {}
    for what, key, rendered, running in live.differences(site):
        same.setdefault((key, rendered, running), []).append(what)
    return [
        Item(kind, "slurm", hostlist.compress(tuple(names)), f"{key} {running} -> {rendered}")
        for (key, rendered, running), names in same.items()
    ]


def before(site: Site) -> Sums:
    machines = site.machines if site.file.is_file() else []
    return _sums([(m.usd_per_hour, m.watts) for m in machines])


def after(cluster: Cluster) -> Sums:
    return _sums([(spec.usd_per_hour, spec.watts) for spec in shape.machines(cluster)])


def _sums(machines: list[tuple[float | None, float]]) -> Sums:
    prices = [price for price, _ in machines]
    total = None if None in prices else round(sum(price or 0 for price in prices), 4)
    return Sums(len(machines), total, sum(watts for _, watts in machines))


def natural(name: str) -> list[Any]:
    """gpu-2 before gpu-10."""
    import re

    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def show(found: Plan) -> None:
    """The report for people."""
    for item in found.items:
        price = f"{item.usd_per_hour:.2f} $/h" if item.usd_per_hour is not None else ""
        power = f"{item.watts / 1000:.1f} kW" if item.watts else ""
        line = f"  {SIGNS[item.kind]} {item.what:<10} {item.name:<16} {item.reason}  {price:>12} {power:>9}"
        console.print(line.rstrip(), style=STYLES[item.kind])
    if not found.items:
        console.print(f"{found.cluster}: no change")
        return
    counts = {kind: sum(item.kind == kind for item in found.items) for kind in SIGNS}
    said = ", ".join(f"{count} {WORDS[kind]}" for kind, count in counts.items() if count)
    a, b = found.before, found.after
    console.print(
        f"{a.machines} machines -> {b.machines}    {_usd(a)} -> {_usd(b)} $/h    "
        f"{a.watts / 1000:.1f} -> {b.watts / 1000:.1f} kW    {said}"
    )


def _usd(sums: Sums) -> str:
    return "?" if sums.usd_per_hour is None else f"{sums.usd_per_hour:.2f}"
