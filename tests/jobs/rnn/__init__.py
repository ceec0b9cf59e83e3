"""Another model than the one that ships, behind the same contract: a recurrent network over bytes, in own files."""

from dataclasses import dataclass
from typing import Any

from jobs.cli.options import option
from jobs.model import contract


@dataclass(frozen=True)
class Shape(contract.Shape):
    name: str = option(__name__, "this package")
    hidden: int = option(32, "size of the state", 1)


class Model(contract.Contract):
    section = Shape

    def build(self, shape: Shape) -> Any:
        from tests.jobs.rnn.network import RNN

        return RNN(shape.hidden)


MODEL = Model()
