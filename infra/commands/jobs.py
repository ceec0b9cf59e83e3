"""`python -m infra jobs`: what each job description says, as the files that Slurm and Kubernetes take."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def jobs(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a file differs.")
    ] = False,
) -> None:
    """Render jobs/*.job.yaml to batch scripts and manifests, which are committed beside them.

    Example: python -m infra jobs --check
    """
    from infra import jobfile
    from infra.paths import CHECKOUT

    changed = []
    for name, text in jobfile.everything().items():
        path = CHECKOUT / name
        if not path.is_file() or path.read_text() != text:
            changed.append(name)
            if not check:
                path.write_text(text)
                path.chmod(0o755 if name.endswith(".sh") else 0o644)
    verb = "would change" if check else "changed"
    typer.echo(
        "\n".join(f"{name}: {verb}" for name in changed) or "jobs: every file is as its description says"
    )
    if check and changed:
        raise typer.Exit(1)
