"""TorchX with this checkout's components and schedulers. Takes torchx's arguments; run it in the checkout.

    python -m jobs.torchx run -s local_cwd jobs.job --name ddp -- --train.steps=50
    python -m jobs.torchx run -s slurm jobs.job --name ddp -- --train.steps=50
    python -m jobs.torchx status slurm://torchx/17

TorchX finds plugins as entry points of installed distributions. A checkout is not installed, so the folder with
its entry points is put on Python's path here. For `torchx` itself, or a program that uses its API, do the same:
PYTHONPATH=$PWD:$PWD/jobs/launch/registered

TorchX would copy the folder it is run in, as a "workspace": for Docker into a new image, here with everything
below runs/ and build/. Our nodes see the checkout already, so unless --workspace says so nothing is copied.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from jobs.cli.errors import Failure, Mistake, told

REGISTERED = Path(__file__).parent / "launch" / "registered"


def register() -> None:
    """Let this process find our entry points."""
    if str(REGISTERED) not in sys.path:
        sys.path.append(str(REGISTERED))


def main(arguments: Sequence[str]) -> int:
    register()
    from torchx.cli import main as torchx

    words = list(arguments)
    if words[:1] == ["run"] and not any(word.partition("=")[0] == "--workspace" for word in words):
        words.insert(1, "--workspace=")
    try:
        torchx.main(words)
    except (Mistake, Failure) as error:
        return told(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
