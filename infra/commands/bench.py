"""`python -m infra bench`: what Slipway costs, each figure beside its limit or goal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    help="""Measure, each figure beside its limit or goal, with the method.

\b
  python -m infra bench all --write docs/measured.md    everything; most of an hour
  python -m infra bench submit                          one, in a cluster of its own
""",
)

Write = Annotated[Path | None, typer.Option(help="Put the lines into this file, between its markers.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("all")
def everything(
    write: Write = None,
    json: Json = False,
    skip_cold: Annotated[
        bool, typer.Option("--skip-cold", help="Use the images that are there instead of building all anew.")
    ] = False,
) -> None:
    """Measure everything. One that fails does not stop the others; exit code 1 at the end.

    Example: python -m infra bench all --write docs/measured.md
    """
    from infra.bench.run import ALL

    _run([name for name in ALL if not (skip_cold and name == "cold")], write, json)


@app.command()
def cold(write: Write = None, json: Json = False) -> None:
    """Time of `make cluster-up` to the first training step with an empty cache and without images.

    Your cache and images are not touched: it has its own, and removes them at the end.

    Example: python -m infra bench cold
    """
    _run(["cold"], write, json)


@app.command()
def warm(write: Write = None, json: Json = False) -> None:
    """Time of `make cluster-up` to the first training step with images there and no cluster.

    Example: python -m infra bench warm --json
    """
    _run(["warm"], write, json)


@app.command()
def second(write: Write = None, json: Json = False) -> None:
    """Time of `make cluster-up` where there is nothing to do.

    Example: python -m infra bench second
    """
    _run(["second"], write, json)


@app.command()
def submit(write: Write = None, json: Json = False) -> None:
    """Time of `sbatch` to the first training step, by phase, beside one `import torch` on the same node.

    Example: python -m infra bench submit
    """
    _run(["submit"], write, json)


@app.command()
def kill(write: Write = None, json: Json = False) -> None:
    """Time from a node's death to the next training step, by phase.

    Example: python -m infra bench kill
    """
    _run(["kill"], write, json)


@app.command()
def site(write: Write = None, json: Json = False) -> None:
    """Time of plan and of `make cluster-up` for machines of this host, to the first training step, by phase.

    Example: python -m infra bench site
    """
    _run(["site"], write, json)


@app.command("site-second")
def site_second(write: Write = None, json: Json = False) -> None:
    """Time of `make cluster-up` on machines where there is nothing to do, by phase.

    Example: python -m infra bench site-second
    """
    _run(["site-second"], write, json)


@app.command("site-grow")
def site_grow(write: Write = None, json: Json = False) -> None:
    """Time of `make cluster-up` with one machine more, by phase, and with one less.

    Example: python -m infra bench site-grow
    """
    _run(["site-grow"], write, json)


@app.command()
def growth(write: Write = None, json: Json = False) -> None:
    """Time of Ansible's dry run on one machine, and on all, with 3, 10 and 30 machines in the inventory.

    Example: python -m infra bench growth
    """
    _run(["growth"], write, json)


@app.command()
def kind(write: Write = None, json: Json = False) -> None:
    """Time of `make cluster-up` for Kubernetes, all built: to nodes ready, to the first training step; and again.

    Example: python -m infra bench kind
    """
    _run(["kind"], write, json)


@app.command("kind-job")
def kind_job(write: Write = None, json: Json = False) -> None:
    """Time of `kubectl apply` to the first training step, by phase, and from a pod's death to the next step.

    Example: python -m infra bench kind-job
    """
    _run(["kind-job"], write, json)


@app.command("kind-disk")
def kind_disk(write: Write = None, json: Json = False) -> None:
    """Disk of the node image, of three nodes, and of all that they are made from.

    Example: python -m infra bench kind-disk
    """
    _run(["kind-disk"], write, json)


@app.command("kubernetes-scale")
def kubernetes_scale(write: Write = None, json: Json = False) -> None:
    """Order and pace of the admission of 500 jobs to 1,000 nodes that kwok plays, and memory; beside 50 to 100.

    Example: python -m infra bench kubernetes-scale
    """
    _run(["kubernetes-scale"], write, json)


@app.command()
def programs(
    write: Write = None,
    json: Json = False,
    cold: Annotated[
        bool,
        typer.Option("--cold", help="Compile all of them first, with an empty cache of Go's: half an hour."),
    ] = False,
) -> None:
    """Time in which each program of Kubernetes was compiled on this machine, as its build has logged it.

    Example: python -m infra bench programs --cold
    """
    if cold:
        from infra.bench.compiled import anew

        anew()
    _run(["programs"], write, json)


@app.command()
def inventory(
    nodes: Annotated[int, typer.Option(min=100, help="Machines in the cluster.")] = 10_000,
    write: Write = None,
    json: Json = False,
) -> None:
    """Time in which Ansible reads an inventory of NODES machines, beside a plain parse of the same files.

    Example: python -m infra bench inventory --nodes 1000
    """
    _run(["inventory"], write, json, nodes)


@app.command()
def preview(
    nodes: Annotated[int, typer.Option(min=100, help="Machines in the cluster.")] = 1_000,
    write: Write = None,
    json: Json = False,
) -> None:
    """Time of the resource graph of NODES machines on AWS, under Pulumi's mocks.

    Example: python -m infra bench preview --nodes 200
    """
    _run(["preview"], write, json, nodes)


@app.command()
def render(
    nodes: Annotated[int, typer.Option(min=1, help="Machines in the cluster.")] = 10_000,
    write: Write = None,
    json: Json = False,
) -> None:
    """Time from a cluster file of NODES machines to its files on disk, beside writing the same bytes.

    Example: python -m infra bench render --nodes 1000
    """
    _run(["render"], write, json, nodes)


@app.command()
def ddp(write: Write = None, json: Json = False) -> None:
    """Training on two ranks beside one on the same cores, and beside the bound from the measured all-reduce.

    Example: python -m infra bench ddp
    """
    _run(["ddp"], write, json)


@app.command()
def allreduce(write: Write = None, json: Json = False) -> None:
    """All-reduce by size, beside TCP between the same processes.

    Example: python -m infra bench allreduce
    """
    _run(["allreduce"], write, json)


@app.command()
def scaling(write: Write = None, json: Json = False) -> None:
    """Training on 1, 2 and 4 ranks beside its bounds.

    Example: python -m infra bench scaling
    """
    _run(["scaling"], write, json)


@app.command()
def compute(write: Write = None, json: Json = False) -> None:
    """Time of a step and loss in each precision, and with each other key of `compute`, beside fp32.

    Example: python -m infra bench compute
    """
    _run(["compute"], write, json)


@app.command()
def faults(write: Write = None, json: Json = False) -> None:
    """A job that is signalled, whose rank is killed, whose rank hangs: seconds to saved, to the next step, to known.

    Example: python -m infra bench faults
    """
    _run(["faults"], write, json)


@app.command()
def launchers(write: Write = None, json: Json = False) -> None:
    """Seconds from the command to both ranks, by each launcher beside bare torchrun.

    Example: python -m infra bench launchers
    """
    _run(["launchers"], write, json)


@app.command()
def resume(write: Write = None, json: Json = False) -> None:
    """Checkpoints of 1 to 4 ranks read by 1 to 4, beside a plain read.

    Example: python -m infra bench resume
    """
    _run(["resume"], write, json)


@app.command()
def checkpoint(write: Write = None, json: Json = False) -> None:
    """Writing a checkpoint beside the disk's own speed, and how long the training waits for it.

    Example: python -m infra bench checkpoint
    """
    _run(["checkpoint"], write, json)


def _run(names: Sequence[str], write: Path | None, json: bool, nodes: int | None = None) -> None:
    import signal

    from infra.bench.run import run

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, so that nothing is left behind
    run(names, write=write, as_json=json, nodes=nodes)
