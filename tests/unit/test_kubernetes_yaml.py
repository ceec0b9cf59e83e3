"""Every file of Kubernetes, rendered or committed, is what its reader takes: no key twice, no field that nobody knows.

Also in the YAML that is inside of YAML, such as kind's patches of kubeadm's configuration.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from infra.base.errors import Mistake
from infra.base.paths import CHECKOUT
from infra.model.load import load_cluster
from infra.places.kind.manifests import documents
from infra.render import render
from tests.checkout import GOLDEN, LAPTOP, checkout

TESTED = {"text": ["Kubernetes"]}
PARTS = {"k8s/overlays/lab/names/coredns.yaml"}  # the rest of its objects is kubeadm's: server-side apply
RENDERED = ("kind", "both", "mixed")
BUILT_IN = ("v1", "apps/v1", "batch/v1", "scheduling.k8s.io/v1", "rbac.authorization.k8s.io/v1",
            "networking.k8s.io/v1", "storage.k8s.io/v1", "admissionregistration.k8s.io/v1",
            "policy/v1")  # fmt: skip
Object = dict[str, Any]


def files(root: Path) -> Iterator[tuple[str, str]]:
    """Name and text of all that is rendered for Kubernetes, and of k8s/."""
    for name in RENDERED:
        source = CHECKOUT / f"clusters/{name}.yaml"
        source = source if source.is_file() else GOLDEN / "clusters" / f"{name}.yaml"
        (root / f"clusters/{name}.yaml").write_text(source.read_text())
        for path, text in render(load_cluster(f"clusters/{name}.yaml", root=root, host=LAPTOP)).items():
            if path == "kind.yaml" or (path.startswith("kubernetes/") and path.endswith(".yaml")):
                yield f"{name}/{path}", text
    for file in sorted((CHECKOUT / "k8s").rglob("*")):
        if file.suffix in (".yaml", ".yml"):
            text = re.sub(
                r"\{\{.*?\}\}", "x", file.read_text()
            )  # one is a template of the training operator's
            yield str(file.relative_to(CHECKOUT)), text


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return {name: documents(text, name) for name, text in files(checkout(tmp_path_factory.mktemp("root")))}


def inside(value: Any, where: str) -> Iterator[tuple[str, str]]:
    """Every text of several lines in a document that looks like YAML, and where it is."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from inside(each, f"{where}.{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from inside(each, f"{where}[{number}]")
    elif isinstance(value, str) and "\n" in value and not value.startswith("#!"):
        first = value.lstrip().split(maxsplit=1)[0]
        if first.endswith(":") or first == "-":
            yield where, value


def test_no_key_is_there_twice_not_even_in_yaml_that_is_inside(read: dict[str, list[Any]]) -> None:
    assert len(read) > 40
    looked = []
    for name, found in read.items():
        for where, text in inside(found, name):
            looked.append(where)
            documents(text, where)  # raises Mistake
    assert any("kubeadmConfigPatches" in each for each in looked)


def test_a_key_that_is_there_twice_inside_is_found() -> None:
    outer = "patches:\n  - |\n    kind: A\n    a: {b: 1}\n    a: {b: 2}\n"
    ((where, text),) = inside(documents(outer, "file"), "file")
    with pytest.raises(Mistake, match=r"file\[0\].patches\[0\]:3: a: there twice"):
        documents(text, where)


def model(each: Object) -> type[BaseModel] | None:
    """The client's own model of an object, which is made from the API's definition; None for what is not built in."""
    from kubernetes.client import models

    if each.get("apiVersion") not in BUILT_IN:
        return None
    group, _, version = each["apiVersion"].rpartition("/")
    names = (
        f"{version.capitalize()}{each['kind']}",
        f"{group.split('.')[0].capitalize()}{version.capitalize()}{each['kind']}",
    )
    found = [getattr(models, name) for name in names if hasattr(models, name)]
    assert found, f"{each['apiVersion']} {each['kind']}: the client knows no such kind"
    kind: type[BaseModel] = found[0]
    return kind


def wrong(each: Object, kind: type[BaseModel], where: str, *, patch: bool = False) -> list[str]:
    """What the API server would refuse, or drop: keys that nobody knows, values of another type, what is missing.

    A patch of kustomize is a part of an object, and has orders of its own ($patch).
    """
    try:
        kind.model_validate_json(json.dumps(each), by_alias=True, by_name=False)
    except ValidationError as error:
        return [
            f"{where}.{'.'.join(map(str, one['loc']))}: {one['msg']}"
            for one in error.errors()
            if not (patch and (one["type"] == "missing" or one["loc"][-1] == "$patch"))
        ]
    return []


def patches(read: dict[str, list[Any]]) -> set[str]:
    """Files that a kustomization names as patches."""
    return {
        str(Path(name).parent / each["path"])
        for name, (top, *_) in read.items()
        if Path(name).name == "kustomization.yaml"
        for each in top.get("patches", [])
        if "path" in each
    }


def test_built_in_objects_are_what_kubernetes_knows(read: dict[str, list[Any]]) -> None:
    looked, found, parts = 0, [], PARTS | patches(read)
    for name, there in read.items():
        for each in there:
            kind = model(each) if isinstance(each, dict) and "kind" in each else None
            if kind:
                looked += 1
                found += wrong(each, kind, f"{name}: {each['kind']}", patch=name in parts)
    assert looked > 40
    assert found == []


def test_a_field_that_nobody_knows_and_a_wrong_type_are_found() -> None:
    pod = {"containers": [{"name": "a", "imagePolicy": "Never"}]}
    spec = {"selector": {}, "template": {"spec": pod}, "replicas": "1"}
    each = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": spec}
    kind = model(each)
    assert kind
    found = [line.split(":")[0] for line in wrong(each, kind, "d")]
    assert sorted(found) == ["d.spec.replicas", "d.spec.template.spec.containers.0.imagePolicy"]
