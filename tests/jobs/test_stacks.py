"""This stack has what jobs/ uses of torch. Run on each of them: tests/run-jobs --stack=cuda12 -k stacks."""

import importlib

import pytest

from tests import torchnames

TESTED = {"real": ["stacks"]}


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
