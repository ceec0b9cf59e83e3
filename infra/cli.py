"""`python -m infra`: every verb, with what each needs imported only when it runs."""

import importlib
import os
import signal
import sys

import typer

from infra.base.errors import Failure, Mistake
from infra.base.process import settle

app = typer.Typer(
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="""Machine types (hardware/) and clusters (clusters/) in; configuration, costs and running labs out.

\b
  python -m infra check                         is everything in clusters/lab.yaml right?
  python -m infra show clusters/lab.yaml        nodes, cores, GPUs, power, price
  python -m infra render clusters/lab.yaml      write build/lab/
  python -m infra up                            start the lab
""",
)

for name in ("model", "cluster", "hostkeys", "jobs", "kubernetes", "programs"):
    app.registered_commands += importlib.import_module(f"infra.commands.{name}").app.registered_commands
for name in ("host", "images", "bench"):  # with verbs below them
    app.add_typer(importlib.import_module(f"infra.commands.{name}").app, name=name)


def main() -> None:
    """Run a verb. A user's mistake exits with 2, a failure with 1, Ctrl-C with 130; none has a traceback."""
    try:
        settle()
        app()
    except Mistake as mistake:
        print(mistake, file=sys.stderr)
        sys.exit(2)
    except Failure as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `... | head`: who reads has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:  # a disk that is full, a file that belongs to someone else
        if not error.strerror:
            raise
        print(f"{error.filename}: {error.strerror}" if error.filename else error.strerror, file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:  # typer's own ending; 130 is what it makes of Ctrl-C
        if end.code == 130:
            print("\nStopped. To go on, run the same command again.", file=sys.stderr)
        raise
