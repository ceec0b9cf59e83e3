"""`python -m infra host`: a Docker engine for the lab."""

from typing import Annotated

import typer

app = typer.Typer(rich_markup_mode=None, invoke_without_command=True)


@app.callback()
def host(json: Annotated[bool, typer.Option("--json", help="Print what is there as JSON.")] = False) -> None:
    """Make Docker work on this host: use the engine that is there, else install and start one.

    A working engine with compose v2 and buildx is used, and nothing is changed. Else, on Debian 12 or
    newer and Ubuntu 22.04 or newer as root, one is installed and started. After a reboot of a host without
    an init system, run it again.

    Example: python -m infra host
    """
    from infra.base.progress import Step, step
    from infra.host import docker as hosts

    if not json:
        with step("host") as this:
            hosts.ensure(this)
        return
    from rich import print_json

    hosts.ensure(Step("host", None))
    print_json(data=hosts.describe())
