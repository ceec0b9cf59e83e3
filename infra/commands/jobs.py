"""`python -m infra jobs`: what each job description says, as the files that its launchers take."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def jobs(
    name: Annotated[
        str | None, typer.Argument(help="One job, such as ddp; all of them when missing.", show_default=False)
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a file differs.")
    ] = False,
    differences: Annotated[
        bool, typer.Option("--differences", help="Write nothing; say what a launcher cannot be told.")
    ] = False,
) -> None:
    """Render jobs/*.job.yaml to batch scripts, manifests and the rest, which are committed beside them.

    Examples: python -m infra jobs --check; python -m infra jobs ddp --differences
    """
    from infra.base.paths import CHECKOUT
    from infra.model import job as jobfile
    from infra.render import jobdiff, launchers

    chosen = [jobfile.load(each) for each in ([name] if name else jobfile.names())]
    if differences:
        typer.echo("\n\n".join(f"{job.name}\n\n{jobdiff.table(job)}" for job in chosen))
        return
    changed = []
    files = {path: text for job in chosen for path, text in launchers.render(job).items()}
    for file, text in files.items():
        path = CHECKOUT / file
        if not path.is_file() or path.read_text() != text:
            changed.append(file)
            if not check:
                path.write_text(text)
                path.chmod(0o755 if file.endswith(".sh") else 0o644)
    verb = "would change" if check else "changed"
    typer.echo(
        "\n".join(f"{file}: {verb}" for file in changed) or "jobs: every file is as its description says"
    )
    if check and changed:
        raise typer.Exit(1)
