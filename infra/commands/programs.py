"""`python -m infra programs`: build what no distribution packages, ahead of the command that needs it."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def programs(
    names: Annotated[list[str] | None, typer.Argument(help="Folders of programs/; all when none.")] = None,
) -> None:
    """Build programs from their Go modules into the user's cache; what is there stays as it is.

    Every command builds what it needs by itself. This is for a machine that shall have all of it before.

    Example: python -m infra programs kubernetes kueue
    """
    from infra.base.errors import Mistake
    from infra.base.progress import step
    from infra.images import programs

    for name in names or []:
        if name not in programs.PROGRAMS:
            raise Mistake(f"programs: '{name}' is none of {', '.join(programs.PROGRAMS)}")
    for name in names or programs.PROGRAMS:
        with step(name) as this:
            folder = programs.ensure(name, this)
            this.did(f"{programs.version(name)}  {folder}")
