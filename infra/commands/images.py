"""`python -m infra images`: build, list, verify, prune and lock what nodes and pods run."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True, help="Images and stack folders.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Names = Annotated[list[str] | None, typer.Argument(help="base, node, a stack (cuda13) or stack-<stack>")]


@app.command()
def build(names: Names = None, json: Json = False) -> None:
    """Build what is missing of NAMES (all but the optional stacks, when none are given); print size and hash.

    Example: python -m infra images build node
    """
    from infra import images
    from infra.progress import step

    with step("images") as this:
        built = images.build_all(names or images.DEFAULT, this)
    _table([images.describe(one.target, changed=one.changed) for one in built.values()], json)


def _table(rows: list[dict[str, object]], json: bool) -> None:
    from rich import print_json

    from infra.progress import console

    if json:
        print_json(data=rows)
        return
    for row in rows:
        size = f"{row['bytes'] / 1e6:8.0f} MB" if isinstance(row["bytes"], int) else "   not built"
        console.print(f"  {row['name']:<14}{row['inputs']}  {size}  {row['where']}", markup=False)
