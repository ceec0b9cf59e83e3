"""Everything rendered passes the strict parser of the program that reads it, whatever words people wrote.

Here are the parsers that need no other program: YAML of both versions with no key twice, also YAML inside YAML; JSON
with no key twice; a shell's own; Python's. Slurm's own is tests/lab/test_daemons.py, Compose's tests/images.
"""

import ast
import json
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml as libyaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from infra.base.paths import CHECKOUT
from infra.model import job as jobfile
from infra.model.load import load_cluster
from infra.render import launchers, render
from tests.checkout import LAPTOP, checkout
from tests.strategies import clusters, lines, schedulable

TESTED = {"text": ["place lab", "Kubernetes"]}

SHELLS = (".sbatch", ".sh", "slurm/accounts")


class Strict(libyaml.CSafeLoader):  # type: ignore[misc]
    """YAML 1.1 with no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        assert len({*keys}) == len(keys), f"a key twice among {keys}"
        return super().construct_mapping(node, deep)


def strict_yaml(text: str) -> list[Any]:
    """Every document, when no key is there twice, at any depth."""
    found = list(libyaml.load_all(text, Strict))
    for inner in inside(found):
        strict_yaml(inner)
    return found


def inside(value: Any) -> Iterator[str]:
    """Texts in a document that are YAML themselves: patches of kubeadm, and what a ConfigMap has as a file."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(item, str) and str(key).endswith((".yaml", ".yml")):
                yield item
            elif key == "kubeadmConfigPatches":
                yield from item
            else:
                yield from inside(item)
    elif isinstance(value, list):
        for item in value:
            yield from inside(item)


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), f"a key twice in {pairs}"
    return dict(pairs)


def parse(name: str, text: str) -> object:
    """What a file says; the test fails where its reader would refuse it, or read it otherwise."""
    if name.endswith(".yaml"):
        return strict_yaml(text)
    if name.endswith(".json"):
        return json.loads(text, object_pairs_hook=once)
    if name.endswith(".py"):
        return ast.parse(text)
    if name.endswith(SHELLS):
        done = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr, f"{name}: {done.stderr}"
    return text


SHIPPED = sorted(path.name for path in (CHECKOUT / "clusters").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_file_of_a_shipped_cluster_is_what_its_reader_takes(name: str, tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (root / "clusters" / name).write_text((CHECKOUT / "clusters" / name).read_text())
    for path, text in render(load_cluster(f"clusters/{name}", root=root, host=LAPTOP)).items():
        read = parse(path, text)
        if path.endswith(".yaml"):  # and readers of YAML 1.2 read the same
            assert list(YAML(typ="safe", pure=True).load_all(text)) == read, path


@settings(max_examples=10, deadline=None)
@given(data=clusters(schedulable()), said=lines, where=lines)
def test_words_of_people_end_no_file_early_and_change_none(
    data: dict[str, Any], said: str, where: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data |= {"description": said, "place": "lab"}
    data["schedulers"] = ["slurm", "kubernetes"]
    del data["services"]  # the lab's own
    for pool in data["pools"].values():
        pool["count"] = 2
    for account in data["accounts"].values():
        account["description"] = said
    root = checkout(tmp_path_factory.mktemp("words"))
    file = root / "clusters" / f"{data['name']}.yaml"
    file.write_text(json.dumps(data, ensure_ascii=False))
    here = Path("/home") / where.replace("/", "").replace("\\", "")
    cluster = load_cluster(file, root=root, host=replace(LAPTOP, checkout=here, cache=here / "cache"))
    read = {path: parse(path, text) for path, text in render(cluster).items()}
    compose: Any = read["compose.yaml"][0]  # type: ignore[index]
    mounted = {volume["source"] for volume in compose["services"]["login"]["volumes"]}
    assert str(here).replace("$", "$$") in mounted
    spaces = [each for each in read["kubernetes/teams.yaml"] if each["kind"] == "Namespace"]  # type: ignore[attr-defined]
    assert {each["metadata"]["annotations"]["slipway.dev/description"] for each in spaces} == {said}
    adds = [shlex.split(line) for line in str(read["slurm/accounts"]).splitlines() if "add account" in line]
    assert all(f"description={said}" in words for words in adds)


EXAMPLE = jobfile.load("ddp")


@settings(max_examples=25, deadline=None)
@given(said=lines, value=lines, words=st.lists(lines, max_size=3))
def test_words_of_people_reach_the_program_by_every_launcher(said: str, value: str, words: list[str]) -> None:
    job = EXAMPLE.model_copy(
        update={"description": said, "environment": {"A": value}, "arguments": words, "retries": 1}
    )
    read = {path: parse(path, text) for path, text in launchers.render(job).items()}
    manifest = read[job.kubernetes.file][0]  # type: ignore[union-attr, index]
    container = manifest["spec"]["pytorchReplicaSpecs"]["Master"]["template"]["spec"]["containers"][0]
    assert [each["value"] for each in container["env"] if each["name"] == "A"] == [value]
    assert container["args"][2:-1] == job.options
    (role,) = read[job.torchx.file][0]["roles"]  # type: ignore[union-attr, index]
    assert role["env"]["A"] == value
    script: ast.Module = read[job.submitit.file]  # type: ignore[union-attr, assignment]
    (call,) = (each.value for each in script.body if isinstance(each, ast.Assign))
    given_ = {word.arg: ast.literal_eval(word.value) for word in call.keywords}  # type: ignore[attr-defined]
    assert (given_["environment"], given_["options"]) == ({"A": value}, job.options)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "a: 1\nb: {c: 1, c: 2}\n"),
        ("a.yaml", "kubeadmConfigPatches:\n  - |\n    a: 1\n    a: 2\n"),
        ("a.yaml", "data:\n  x.yaml: |\n    a: 1\n    a: 2\n"),
        ("a.json", '{"a": 1, "a": 2}'),
        ("a.sh", "if true\n"),
    ],
)
def test_what_a_reader_would_refuse_is_found(name: str, text: str) -> None:
    with pytest.raises(AssertionError, match=r"twice|syntax error"):
        parse(name, text)


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [("cluster", "clusters/*.yaml"), ("hardware", "hardware/*.yaml"), ("job", "jobs/*.job.yaml")],
)
def test_files_that_ship_keep_their_schema(kind: str, pattern: str) -> None:
    schema = json.loads((CHECKOUT / "schemas" / f"{kind}.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for path in CHECKOUT.glob(pattern):
        document = json.loads(json.dumps(YAML(typ="safe").load(path), default=str))  # dates are text in JSON
        assert [error.message for error in validator.iter_errors(document)] == [], path
