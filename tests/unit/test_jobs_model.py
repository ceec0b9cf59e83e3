"""A model is a folder with a contract: named in the configuration, refused in a line, known by nobody else."""

import ast
from dataclasses import fields
from pathlib import Path

import pytest

from infra.base.paths import CHECKOUT
from jobs import config, train
from jobs.cli.errors import Mistake
from jobs.model import code, contract, gpt, of
from jobs.paramserver import config as served
from jobs.telemetry import folder as runfolder
from jobs.tools import preflight

RNN = "--model.name=tests.jobs.rnn"


def test_the_section_is_that_of_the_model(tmp_path: Path) -> None:
    loaded = config.load([RNN, "--model.hidden=8"])
    assert (loaded.model.hidden, loaded.model.context) == (8, 128)  # type: ignore[attr-defined]
    file = tmp_path / "config.yaml"
    file.write_text(config.to_yaml(loaded))
    assert config.load([f"--config={file}"]) == loaded
    assert loaded.trajectory()["model.name"] == "tests.jobs.rnn"
    assert config.load([f"--config={CHECKOUT / 'jobs/ddp.yaml'}", RNN, "--model.hidden=8"]).train.steps == 150
    assert "--model.hidden" in config.help_text([RNN])
    assert "--model.hidden" not in config.help_text()


def test_its_code_is_an_input_of_a_run_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert code(config.load([]).model) is None  # a part of jobs/, whose hash has it
    assert code(config.load([RNN]).model) == CHECKOUT / "tests/jobs/rnn"
    alone = tmp_path / "alone_model.py"
    alone.write_text("from tests.jobs.rnn import MODEL\n")
    monkeypatch.syspath_prepend(tmp_path)
    shape = config.load(["--model.name=alone_model"]).model
    assert code(shape) == alone
    before = runfolder.code(alone)
    alone.write_text("from tests.jobs.rnn import MODEL  # changed\n")
    assert runfolder.code(alone) != before


def test_a_parameter_server_takes_it_too() -> None:
    loaded = served.load([RNN, "--model.hidden=8", "--server.staleness=1"])
    assert (loaded.model.hidden, loaded.server.staleness) == (8, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model.name=gtp"], "model.name: no model and no Python package 'gtp'. Did you mean 'gpt'?"),
        (
            ["--model.name=my.net"],
            "model.name: no model and no Python package 'my.net'. jobs/model/ has: gpt",
        ),
        (
            ["--model.name=jobs.cli"],
            "model.name: jobs.cli has no MODEL that is a Contract of jobs/model/contract.py",
        ),
        ([RNN, "--model.layers=2"], "--model.layers: no such option."),
        (
            [RNN, "--mesh.tensor=2"],
            "mesh.tensor: model tests.jobs.rnn does not offer this, it has no `cut_matrices`",
        ),
        ([RNN, "--mesh.context=2"], "mesh.context: model tests.jobs.rnn does not offer this"),
        ([RNN, "--mesh.pipeline=2"], "mesh.pipeline: model tests.jobs.rnn does not offer this"),
        ([RNN, "--compute.recompute=true"], "compute.recompute: model tests.jobs.rnn does not offer this"),
        ([RNN, "--compute.precision=fp8"], "compute.precision: model tests.jobs.rnn does not offer fp8"),
    ],
)
def test_what_it_does_not_offer_is_one_line_before_anything_starts(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(said)
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_a_package_that_cannot_be_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "with_torch.py").write_text("raise ModuleNotFoundError('no torch', name='torch')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Mistake) as caught:
        config.load(["--model.name=with_torch"])
    assert str(caught.value) == (
        "model.name: with_torch cannot be imported: ModuleNotFoundError: no torch; import torch where it is used"
    )


def test_all_other_options_are_those_of_every_model() -> None:
    assert config.load([RNN, "--mesh.form=fsdp", "--compute.compile=true"]).mesh.form == "fsdp"


def test_the_formula_of_operations() -> None:
    shape = gpt.Shape(layers=2, heads=2, width=8, context=16)
    products = (
        2 * (3 * 8 * 8 + 8 * 8 + 2 * 4 * 8 * 8) + 256 * 8
    )  # qkv, out, up and down of each block; the head
    assert of(shape).flops_per_token(shape) == 6 * products + 12 * 2 * 8 * 16


OWN = {each.name for each in fields(gpt.Shape)} - {each.name for each in fields(contract.Shape)}
INSIDE = OWN | {"embedding", "attention", "qkv"}
# The default of the configuration, and the benchmark that fills a card with one.
NAME_IT = {"jobs/config.py", "jobs/bench/gpu.py"}


def test_nobody_else_knows_what_the_gpt_is_made_of() -> None:
    found = []
    for path in sorted((CHECKOUT / "jobs").rglob("*.py")):
        name = path.relative_to(CHECKOUT).as_posix()
        if name.startswith("jobs/model/gpt/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in INSIDE:
                found.append(f"{name}:{node.lineno}: .{node.attr}")
            if isinstance(node, ast.ImportFrom) and name not in NAME_IT:
                imported = {f"{node.module}.{each.name}" for each in node.names}
                found += [
                    f"{name}:{node.lineno}: {each}" for each in imported if each.startswith("jobs.model.gpt")
                ]
    assert found == []


def test_preflight_of_a_model_without_formulas_needs_torch_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert preflight.main([RNN, "--ranks=2"]) == 2
    shown = capsys.readouterr()
    assert "torch" in shown.err
    assert (shown.err.count("\n"), shown.out) == (1, "")


def test_help_shows_the_options_of_the_model_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--help", RNN]) == 0
    shown = capsys.readouterr().out
    assert "sbatch jobs/ddp.sbatch" in shown
    assert "--model.hidden" in shown
    assert train.main(["--help", "--model.name=gtp"]) == 2
    assert capsys.readouterr().err.startswith("model.name: no model and no Python package 'gtp'")
