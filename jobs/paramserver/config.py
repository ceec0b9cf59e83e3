"""What a parameter server can be told: the tree of jobs/config.py and a section `server`. No torch.

`python -m jobs.paramserver.config` with the same arguments only checks them.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

from jobs import config
from jobs.cli import options
from jobs.cli.options import option


@dataclass(frozen=True)
class Server:
    staleness: int = option(
        0, "steps that workers may be apart; 0: synchronous, with every mean of the ranks; -1: no bound", -1
    )
    parts: int = option(0, "tickets of each step, which split the batch; 0: one for each worker", 0)
    workers: int = option(2, "processes to start here where no launcher has started any", 1)
    address: str = option(
        "", "HOST:PORT of a server to work for; otherwise the launcher's ranks find each other"
    )


@dataclass(frozen=True)
class Config(config.Config):
    server: Server = field(default_factory=Server)


# Of these sections everything is used; of the others only what stands here, and the rest has to keep its default.
WHOLE = ("model", "data", "train", "server")
USED = {
    "compute": ("precision", "accumulate", "recompute", "compile", "fused"),
    "checkpoint": ("every", "keep"),
    "run": ("folder", "log_every", "validate", "peer_timeout_s"),
}


def load(arguments: Sequence[str]) -> Config:
    """The configuration of a command line. Raises Mistake with a line for each thing that is wrong."""
    return options.read(Config, arguments, rules, config.variant)


def rules(settings: Config) -> Iterator[str]:
    """What does not hold between the values, a line each."""
    yield from config.rules(settings)
    plain = asdict(Config())
    for section, values in asdict(settings).items():
        for key, value in values.items():
            ignored = section not in WHOLE and key not in USED.get(section, ())
            if ignored and value != plain[section][key]:
                yield f"{section}.{key}: {value!r} does nothing with a parameter server; leave it out"
    if settings.compute.precision == "fp16":
        yield "compute.precision: fp16 needs one scale for all gradients, and workers have none; use bf16"
    if settings.checkpoint.every < 0:
        yield "checkpoint.every: auto is not for a parameter server; give a number of steps"
    parts = settings.server.parts
    if parts and settings.train.batch % parts:
        yield f"server.parts: {settings.train.batch} sequences of train.batch do not split evenly into {parts}"
    host, colon, port = settings.server.address.rpartition(":")
    if settings.server.address and not (host and colon and port.isdecimal()):
        yield f"server.address: {settings.server.address!r} is not HOST:PORT, such as gpu-1:41234"


if __name__ == "__main__":
    sys.exit(options.check(Config, load, sys.argv[1:], config.variant))
