"""What jobs/ uses of torch is in every stack that a shipped machine type chooses, and their tests run there."""

import contextlib
import re

from infra.model import stacks
from infra.model.load import load_profile
from tests import torchnames
from tests.torchnames import CHECKOUT


def test_every_name_of_torch_that_jobs_use_was_looked_for_in_each_stack() -> None:
    new = {name: place for name, place in torchnames.used().items() if name not in torchnames.known()}
    assert not new, f"{torchnames.KNOWN.name} does not have them. {torchnames.__doc__}"


def test_no_name_is_kept_that_nothing_uses() -> None:
    assert torchnames.known() == sorted(torchnames.used())


def test_the_tests_of_jobs_run_on_each_stack_that_a_machine_type_chooses() -> None:
    ours = stacks.read_stacks(CHECKOUT)
    chosen = set()
    for file in (CHECKOUT / "hardware").glob("*.yaml"):
        profile = load_profile(file.stem)
        with contextlib.suppress(ValueError):  # none fits: `check` says so
            chosen.add(stacks.choose(profile, ours, {profile.architecture}).name)
    usual = re.search(r"^stack=(\w+)$", (CHECKOUT / "tests/run-jobs").read_text(), re.MULTILINE)
    assert usual, "tests/run-jobs has no stack"
    others = re.findall(r"--stack=(\w+)", (CHECKOUT / "tests/run-more").read_text())
    assert {usual[1], *others} == chosen
