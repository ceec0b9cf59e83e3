"""Images and stack folders: what each is made from, whether it is there, and building what is not.

    base ──┬──> node                     a machine: systemd, Slurm, munge; made by the Ansible roles
           │    machine                  a machine before Ansible was there: systemd and an SSH server
           ├──> cuda13 ──> stack-cuda13  a locked Python stack: as a folder, and as an image
           └──> kube-net ──> kind-node   a machine of a kind cluster, with all that its own pods run

Each is named by the content hash of everything that goes into it, its parent's hash included, so that an
unchanged one is never built again, and two clones of the same commit share theirs.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from infra.base.errors import Failure, Mistake
from infra.base.once import content_hash, only_one
from infra.base.paths import CHECKOUT, build, cache
from infra.base.progress import Step
from infra.host import apt, engine
from infra.images import base as image_base
from infra.images import kind, kube, machine, programs, recipe, sbom, stackfolder, updates
from infra.images import node as image_node
from infra.images import stack as image_stack
from infra.images import verify as imageverify
from infra.images.verify import Verdict
from infra.model import stacks

DEFAULT = ("node", "cuda13", "stack-cuda13")  # the other stacks are for machines that a site names
LOGS = build("images") / "logs"


@dataclass(frozen=True)
class Target:
    """Something that can be built. `where` is the image's tag, or the folder's path."""

    name: str
    parent: str | None
    inputs: str  # content hash, 12 hex digits
    where: str
    folder: bool
    gib: float  # what building it takes on the disk, at most
    make: Callable[["Target", Path], None]  # builds it; told the log file
    stack: str | None = None  # the stack that it delivers
    programs: tuple[str, ...] = ()  # of programs/: what has to be compiled for it

    def exists(self) -> bool:
        return Path(self.where).is_dir() if self.folder else engine.has(self.where)

    def write_sbom(self, root: Path) -> Path:
        return sbom.ensure(self.name, self.where, stack=self.stack, folder=self.folder, root=root)

    def size(self) -> int:
        """Bytes."""
        return stackfolder.size(Path(self.where)) if self.folder else engine.size(self.where)


@dataclass(frozen=True)
class Built:
    """What became of one target."""

    target: Target
    changed: bool  # whether it had to be built


def targets(root: Path = CHECKOUT) -> dict[str, Target]:
    """Every target of the checkout at `root`, parents before children."""
    base = _image(
        "base",
        None,
        _hash(root, "base", image_base.sources(root), apt.DEBIAN_13, *updates.generation()),
        gib=1,
        make=lambda this, log: image_base.make(root, this.inputs, this.where, log),
    )
    node = _image(
        "node",
        base,
        _hash(root, "node", image_node.sources(root), base.inputs),
        gib=3,
        make=lambda this, log: image_node.make(root, base.where, this.inputs, this.where, log),
    )
    machines = [_machine(root, image) for image in machine.SUITES]
    locked = [target for name in stacks.names(root) for target in _stack(root, name, base)]
    return {target.name: target for target in (base, node, *machines, *locked, *_kind(root, base))}


def _kind(root: Path, base: Target) -> tuple[Target, Target]:
    """A machine of a kind cluster, and the image below its pods that change a node's network."""
    net = _image(
        "kube-net",
        base,
        _hash(root, "kube", kube.sources(root), base.inputs),
        gib=1,
        make=lambda this, log: kube.make_net(root, base.where, this.inputs, this.where, log),
    )
    below = {base.name: base.where, net.name: net.where}
    compiled = [programs.folder(name, root).name for name in kube.PROGRAMS]
    node = _image(
        "kind-node",
        net,
        _hash(root, "kind", kind.sources(root), net.inputs, *compiled),
        gib=6,
        make=lambda this, log: kind.make(root, below, this.inputs, this.where, log),
        programs=kube.PROGRAMS,
    )
    return net, node


def _machine(root: Path, image: str) -> Target:
    """A machine as Pulumi makes it on this host, before Ansible was there."""
    return _image(
        machine.name(image),
        None,
        _hash(root, "machine", machine.sources(root), image, *updates.generation()),
        gib=1,
        make=lambda this, log: machine.make(root, image, this.inputs, this.where, log),
    )


def _stack(root: Path, name: str, base: Target) -> tuple[Target, Target]:
    """A stack as a folder and as an image."""
    folder = Target(
        name=name,
        parent=base.name,
        inputs=stacks.lock_hash(root, name),
        where=str(stacks.path(root, name)),
        folder=True,
        gib=8,
        make=lambda _, log: stackfolder.make(root, name, base.where, log),
        stack=name,
    )
    image = _image(
        f"stack-{name}",
        folder,
        _hash(root, "stack", [stacks.lock(root, name)], base.inputs),
        gib=14,
        make=lambda this, log: image_stack.make(Path(folder.where), base.where, this.inputs, this.where, log),
        stack=name,
    )
    return folder, image


def _hash(root: Path, maker: str, sources: list[Path], *more: str) -> str:
    """The name's second half: what an image is made from, what makes it, and `more`, a parent's among it."""
    return content_hash(root, [*sources, *recipe.files(maker, root)], *more)


def _image(
    name: str,
    parent: Target | None,
    inputs: str,
    *,
    gib: float,
    make: Callable[[Target, Path], None],
    stack: str | None = None,
    programs: tuple[str, ...] = (),
) -> Target:
    where = engine.tag(name, inputs)
    return Target(name, parent.name if parent else None, inputs, where, False, gib, make, stack, programs)


def select(names: Sequence[str], known: dict[str, Target]) -> list[Target]:
    """The named targets and their parents, parents first. Raises Mistake for a name that is none."""
    wanted: set[str] = set()
    for name in names:
        here: str | None = name
        while here:
            if here not in known:
                raise Mistake(f"images: no image or stack '{here}'; there are {', '.join(known)}")
            wanted.add(here)
            here = known[here].parent
    return [target for target in known.values() if target.name in wanted]


def current(names: Sequence[str], root: Path = CHECKOUT) -> dict[str, str] | None:
    """Tag or path of each of `names` when all are built for what is in the checkout now, else None."""
    known = targets(root)
    chosen = [known[name] for name in names]
    return {target.name: target.where for target in chosen} if all(t.exists() for t in chosen) else None


def ensure(names: Sequence[str], step: Step, root: Path = CHECKOUT) -> dict[str, str]:
    """Build what is missing of `names` and of what they need; tag or path of each."""
    results = build_all(names, step, root)
    return {name: results[name].target.where for name in names}


def build_all(names: Sequence[str], step: Step, root: Path = CHECKOUT) -> dict[str, Built]:
    """As `ensure`, telling of each target, parents included, whether it had to be built."""
    known = targets(root)
    # A parent matters only when a child of it has to be built: the folder can be there when `base` is not.
    missing = {name for name in names if not select([name], known)[-1].exists()}
    chosen = select(list(missing), known) if missing else []
    building = [target for target in chosen if not target.exists()]
    _check_disk(building)
    results = {name: Built(known[name], changed=False) for name in names}
    results |= _run(building, step, root)
    _say(results, names, step)
    return results


def _run(building: Sequence[Target], step: Step, root: Path) -> dict[str, Built]:
    """Build each as soon as its parent is there; independent ones at the same time."""
    futures: dict[str, Future[Built]] = {}
    running: set[str] = set()

    def one(target: Target) -> Built:
        programs.ensure_all(target.programs, step, root)
        if target.parent in futures:
            futures[target.parent].result()
        running.add(target.name)
        step.doing(f"building {' and '.join(sorted(running))}")
        try:
            with only_one(target.where):
                if target.exists():  # built by another command while we waited
                    return Built(target, changed=False)
                log = LOGS / f"{target.name}.log"
                log.unlink(missing_ok=True)
                target.make(target, log)
                target.write_sbom(root)
        finally:
            running.discard(target.name)
        step.doing(f"building {' and '.join(sorted(running))}")
        return Built(target, changed=True)

    # One thread for each, so that none waits for a parent that has no thread to run in.
    with ThreadPoolExecutor(max_workers=max(1, len(building))) as pool:
        for target in building:
            futures[target.name] = pool.submit(one, target)
        return {name: future.result() for name, future in futures.items()}


def _check_disk(building: Sequence[Target]) -> None:
    images = [target for target in building if not target.folder]
    folders = [target for target in building if target.folder]
    place = engine.data_folder() if images else None
    if place:
        engine.need_disk(place, sum(t.gib for t in images), f"building {', '.join(t.name for t in images)}")
    if folders:
        engine.need_disk(
            cache(), sum(t.gib for t in folders), f"building {', '.join(t.name for t in folders)}"
        )


def _say(results: dict[str, Built], names: Sequence[str], step: Step) -> None:
    changed = [built for built in results.values() if built.changed]
    total = sum(results[name].target.size() for name in names) / 1e9
    fate = "built" if changed else "unchanged"
    shown = [name for name in results if results[name].changed or name in names]
    step.did(f"{' · '.join(shown):<40} {total:.1f} GB, {fate}", changed=bool(changed))


def describe(target: Target, *, changed: bool = False) -> dict[str, object]:
    """A target as a row of a table; `bytes` is None when it is not built."""
    return {
        "name": target.name,
        "inputs": target.inputs,
        "where": target.where,
        "bytes": target.size() if target.exists() else None,
        "changed": changed,
    }


def to_verify(names: Sequence[str], root: Path = CHECKOUT) -> list[Target]:
    """The named targets, all that are built when none is named. Raises Failure for one that is not."""
    known = targets(root)
    if not names:
        return [target for target in known.values() if target.exists()]
    chosen = [select([name], known)[-1] for name in names]
    missing = [target.name for target in chosen if not target.exists()]
    if missing:
        raise Failure(
            f"{', '.join(missing)}: not built; run: python -m infra images build {' '.join(missing)}"
        )
    return chosen


def verify(target: Target, root: Path = CHECKOUT) -> Verdict:
    """Compare a target that is built with what it was built from."""
    if target.stack is None:
        return imageverify.verify_inputs(target.name, target.where, target.inputs)
    if not target.folder:
        return imageverify.verify_image(target.stack, target.where, root)
    base = targets(root)["base"]
    if not base.exists():
        raise Failure(
            "base is not built, and the folder is checked in it; run: python -m infra images build base"
        )
    return imageverify.verify_folder(target.stack, Path(target.where), base.where, root)


def repair(target: Target, step: Step, root: Path = CHECKOUT) -> None:
    """Make a damaged target again. Raises Failure while a container uses it."""
    if not _remove(target.where, engine.mounted()):
        raise Failure(f"{target.name}: a container uses it; stop that first (make cluster-down), then repair")
    build_all([target.name], step, root)


def ages(root: Path = CHECKOUT) -> list[updates.Age]:
    """How old the packages of the built images are; of one that others are made from, theirs say it, too."""
    built = [t for t in targets(root).values() if not t.folder and not t.stack and t.exists()]
    parents = {target.parent for target in built}
    return [updates.look(target.name, target.where) for target in built if target.name not in parents]


def refresh(names: Sequence[str], step: Step, root: Path = CHECKOUT) -> dict[str, Built]:
    """Build `names` with the packages that Debian has today. What could not be built leaves all as it was."""
    before = updates.refresh()
    try:
        return build_all(names, step, root)
    except BaseException:
        updates.back(before)
        raise


def stale(root: Path = CHECKOUT) -> list[str]:
    """Images and stack folders of ours that this checkout does not name any more."""
    named = {target.where for target in targets(root).values()}
    return [where for where in (*engine.images(), *map(str, stackfolder.folders())) if where not in named]


def prune(root: Path = CHECKOUT) -> list[str]:
    """Remove the stale images and folders that no container uses; returns their tags and paths."""
    mounted = engine.mounted()
    return [where for where in stale(root) if _remove(where, mounted)]


def _remove(where: str, mounted: set[str]) -> bool:
    if not where.startswith("/"):
        return engine.remove_image(where)
    if {where, *map(str, Path(where).parents)} & mounted:
        return False
    stackfolder.remove(Path(where))
    return True
