"""A run's configuration: one tree is YAML, command line and defaults; a mistake is one line."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.base.paths import CHECKOUT
from jobs import config
from jobs.cli.errors import Mistake


def mistake(*arguments: str) -> str:
    with pytest.raises(Mistake) as caught:
        config.load(arguments)
    return str(caught.value)


def test_command_line_wins_over_file_wins_over_default(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("train:\n  steps: 7\n  batch: 4\n")
    loaded = config.load([f"--config={file}", "--train.batch", "8"])
    assert (loaded.train.steps, loaded.train.batch, loaded.model) == (7, 8, config.Config().model)


def test_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    loaded = config.load(["--train.learning_rate=1e-3", "--run.folder=runs/a b", "--checkpoint.every=auto"])
    assert "every: auto" in config.to_yaml(loaded)
    file.write_text(config.to_yaml(loaded))
    assert config.load([f"--config={file}"]) == loaded


@given(st.floats(min_value=0, max_value=1e9), st.integers(min_value=0, max_value=2**62))
def test_numbers_survive_the_command_line(rate: float, seed: int) -> None:
    loaded = config.load([f"--train.learning_rate={rate!r}", f"--train.seed={seed}"])
    assert (loaded.train.learning_rate, loaded.train.seed) == (rate, seed)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train:\n  stesp: 3\n", ":2: train.stesp: no such option. Did you mean 'train.steps'?"),
        ("trian:\n  steps: 3\n", ":1: trian: no such section. Did you mean 'train'?"),
        ("train:\n  steps: many\n", ":2: train.steps: 'many' is not a whole number, such as 300"),
        ("checkpoint:\n  every: x\n", ":2: checkpoint.every: 'x' is not a whole number or auto, such as 50"),
        ("train:\n  steps: 0\n", ":2: train.steps: 0 is too small; the least is 1"),
        ("train:\n  clip: .nan\n", ":2: train.clip: '.nan' is not a number, such as 1.0"),
        ("train:\n  clip: nan\n", ":2: train.clip: nan is too small; the least is 0"),
        ("train:\n  clip: inf\n", ":2: train.clip: inf is not a finite number, such as 1.0"),
        ("train:\n  steps: [1]\n", ":2: train.steps: needs one value, not a list or a mapping"),
        ("train:\n  steps: 1\n  steps: 2\n", ":3: train.steps: is there twice"),
        ("train: 3\n", ":1: train: needs keys below it"),
        ("- 3\n", ":1: not a configuration; sections are: model, data, train, "),
        ("train: {steps: 1\n", ": not YAML: "),
    ],
)
def test_mistake_in_a_file_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    message = mistake(f"--config={file}")
    assert message.startswith(str(file))
    assert said in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--train.stesp=3", "--train.stesp: no such option. Did you mean 'train.steps'?"),
        ("--steps=3", "Did you mean 'train.steps'?"),
        ("train.steps=3", "train.steps=3: not an option; options are written --section.key=value"),
        ("--train.steps", "--train.steps: has no value"),
        ("--model.heads=5", "model.heads: 5 heads do not split a width of 128 evenly"),
        ("--data.validation=1", "data.validation: 1.0 is a share"),
        ("--config=/nowhere.yaml", "/nowhere.yaml: cannot be read: No such file or directory"),
    ],
)
def test_mistake_on_the_command_line_is_named(argument: str, said: str) -> None:
    assert said in mistake(argument)


def test_all_mistakes_are_told_at_once() -> None:
    assert len(mistake("--train.steps=x", "--train.batch=0").splitlines()) == 2


def test_check_command_exits_2_without_a_traceback_and_without_torch() -> None:
    program = "import sys; from jobs import config; code = config.main(sys.argv[1:])"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{program}; assert 'torch' not in sys.modules; sys.exit(code)",
            "--train.steps=0",
        ],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "--train.steps: 0 is too small; the least is 1\n"


def test_shipped_configuration_is_valid_and_every_option_has_its_line() -> None:
    config.load([f"--config={CHECKOUT / 'jobs/ddp.yaml'}"])
    assert all(f"--{name}" in config.help_text() for name in config.OPTIONS)


def test_what_shapes_the_weights_leaves_out_where_things_lie() -> None:
    moved = config.load(["--data.folder=/elsewhere", "--run.folder=x", "--checkpoint.every=1"])
    assert moved.trajectory() == config.Config().trajectory()
    assert config.load(["--train.seed=9"]).trajectory() != config.Config().trajectory()
