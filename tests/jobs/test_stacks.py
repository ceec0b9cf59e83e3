"""This stack has what jobs/ uses of torch. Run on each of them: tests/run-jobs --stack=cuda12 -k stacks."""

import importlib.util

import pytest

from jobs.cli.errors import Mistake
from jobs.parallel import versions
from jobs.parallel.mesh import Mesh
from tests import torchnames

TESTED = {"real": ["training on one node"]}


@pytest.mark.parametrize("name", torchnames.known())
def test_it_has_the_name(name: str) -> None:
    words = name.split(".")
    for count in range(len(words), 0, -1):  # the longest that is a module
        try:
            found = importlib.import_module(".".join(words[:count]))
        except ModuleNotFoundError:
            continue
        for word in words[count:]:
            found = getattr(found, word)
        return
    raise AssertionError(f"nothing of {name} can be imported")


def test_a_mesh_that_its_torch_cannot_compute_on_is_refused_in_a_line() -> None:
    """By what is there: on cuda12 it is not, on cuda13 it is."""
    able = importlib.util.find_spec(versions.REPLICATE) is not None
    for simple in (Mesh(replicate=4), Mesh(form="fsdp", shard=4)):
        versions.allow(simple)
    for other in (Mesh(tensor=2), Mesh(pipeline=2), Mesh(context=2), Mesh(form="fsdp", replicate=2, shard=2)):
        if able:
            versions.allow(other)
        else:
            with pytest.raises(
                Mistake, match=r"^mesh: torch 2\.7\.1.* knows ddp, and fsdp over all ranks; [^\n]+$"
            ):
                versions.allow(other)
