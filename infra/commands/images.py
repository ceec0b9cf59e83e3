"""`python -m infra images`: build, list, verify, prune and lock what nodes and pods run."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from infra.base.errors import Failure

if TYPE_CHECKING:
    from infra.base.progress import Step
    from infra.images.targets import Target
    from infra.images.verify import Verdict

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[
    list[str] | None, typer.Argument(help="base, node, kind-node, a stack (cuda13), or stack-<stack>")
]


@app.callback()
def images() -> None:
    """The images of nodes and pods, and the stacks: locked Python environments as folder and as image."""


@app.command()
def build(
    names: Names = None,
    refresh: Annotated[bool, typer.Option(help="Anew, with the packages that Debian has today.")] = False,
    json: Json = False,
) -> None:
    """Build what is missing of NAMES and write its bill of materials; print hash, size and place.

    Without NAMES: node, cuda13 and stack-cuda13. An unchanged input builds nothing, but for --refresh.

    Example: python -m infra images build node
    """
    from infra.base.paths import CHECKOUT
    from infra.base.progress import console
    from infra.images import targets as images

    with _step("images", json) as this:
        built = (images.refresh if refresh else images.build_all)(names or images.DEFAULT, this)
        for one in built.values():
            one.target.write_sbom(CHECKOUT)
    _table([images.describe(one.target, changed=one.changed) for one in built.values()], json)
    if not json:
        console.print("Next:  python -m infra images verify")


@app.command()
def where(name: Annotated[str, typer.Argument(help="base, node, a stack, or stack-<stack>")]) -> None:
    """Print the tag of an image, or the path of a stack's folder, for scripts; exit code 1 if not built.

    Example: docker run --rm -it $(python -m infra images where node) bash
    """
    from infra.images import targets as images

    typer.echo(images.to_verify([name])[0].where)


@app.command("list")
def list_images(json: Json = False) -> None:
    """Show every image and stack of this checkout: its hash, and its size when it is built.

    Example: python -m infra images list
    """
    from infra.images import targets as images

    _table([images.describe(target) for target in images.targets().values()], json)
    stale = images.stale()
    if stale and not json:
        from infra.base.progress import console

        console.print(f"{len(stale)} of other commits; remove them: python -m infra images prune")


@app.command()
def verify(
    names: Names = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make again what is damaged.")] = False,
    json: Json = False,
) -> None:
    """Compare what is built with its lock: versions that the libraries report, every file's checksum.

    Without NAMES: everything that is built. Exit code 1 when something is not what its lock says.

    Example: python -m infra images verify cuda13
    Example: python -m infra images verify --repair
    """
    from rich import print_json

    from infra.base.progress import console
    from infra.images import targets as images

    verdicts = []
    for target in images.to_verify(names or []):
        verdict = _verdict(target, json)
        if repair and not verdict.right:
            with _step("images", json) as this:
                images.repair(target, this)
            verdict = _verdict(target, json)
        verdicts.append(verdict)
    if json:
        rows = [
            {"name": v.name, "right": v.right, "versions": v.versions, "wrong": v.wrong} for v in verdicts
        ]
        print_json(data=rows)
    if not verdicts:
        raise Failure("nothing is built, so nothing was verified; run: python -m infra images build")
    if not all(verdict.right for verdict in verdicts):
        if not json and not repair:
            console.print("Make it again:  python -m infra images verify --repair")
        raise typer.Exit(1)


def _verdict(target: "Target", json: bool) -> "Verdict":
    """Verify one target and show what is wrong with it."""
    from infra.base.progress import console
    from infra.images import targets as images

    with _step("verify", json) as this:
        this.doing(target.name)
        verdict = images.verify(target)
        said = " ".join(f"{key} {value}" for key, value in verdict.versions.items())
        this.did(
            f"{target.name:<19}{said or 'as its tag says' if verdict.right else 'NOT what its lock says'}"
        )
    for wrong in [] if json else verdict.wrong:
        console.print(f"    {wrong}", style="red")
    return verdict


@app.command()
def updates(json: Json = False) -> None:
    """Say how old the Debian packages of the built images are, and which have fixes since; asks their mirror.

    Example: python -m infra images updates
    """
    from datetime import UTC, datetime

    from rich import print_json

    from infra.base.progress import console
    from infra.images import targets as images

    ages = images.ages()
    if json:
        rows = [
            {
                "name": age.name,
                "built": age.built.isoformat(),
                "known": not age.unknown,
                "security": [str(update) for update in age.security],
                "updates": [str(update) for update in age.updates],
            }
            for age in ages
        ]
        print_json(data=rows)
        return
    for age in ages:
        console.print(f"  {age.said(datetime.now(UTC))}", style="red" if age.unknown else "")
        for update in age.security:
            console.print(f"    {update}")
    if any(age.updates for age in ages):
        console.print("Build them anew with these:  make images REFRESH=1")


@app.command()
def prune() -> None:
    """Remove images and stack folders that this checkout does not name and no container uses.

    Example: python -m infra images prune
    """
    from infra.base.progress import console
    from infra.images import targets as images

    for tag in images.prune():
        console.print(f"  removed {tag}")


@app.command()
def lock(name: Annotated[str, typer.Argument(help="the stack's folder in images/stacks")]) -> None:
    """Resolve a stack's requirements.in into its requirements.lock again, with hashes.

    Example: python -m infra images lock cuda13
    """
    from infra.base.progress import step
    from infra.images import stackfolder

    with step("lock") as this:
        this.did(stackfolder.relock(name))


def _step(name: str, json: bool) -> AbstractContextManager["Step"]:
    """A line of progress; with --json nothing but JSON may be printed."""
    from infra.base.progress import Step, step

    return nullcontext(Step(name, None)) if json else step(name)


def _table(rows: list[dict[str, object]], json: bool) -> None:
    from rich import print_json

    from infra.base.progress import console

    if json:
        print_json(data=rows)
        return
    for row in rows:
        size = f"{row['bytes'] / 1e6:8.0f} MB" if isinstance(row["bytes"], int) else "  not built"
        console.print(f"  {row['name']:<19}{row['inputs']}  {size}  {row['where']}")
