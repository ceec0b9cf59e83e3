"""The YAML that we write says the same to every reader: of version 1.1, as Ansible and Go's are, and of 1.2."""

import math
from typing import Any

import pytest
import yaml as libyaml  # type: ignore[import-untyped]
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from infra.render.text import scalar, yaml

# Words that some reader takes for something else, or that end what they stand in.
TRAPS = [
    *("?0", "0?", "a?b", "a:b"),
    *(
        "yes",
        "No",
        "ON",
        "off",
        "y",
        "N",
        "true",
        "False",
        "null",
        "Null",
        "~",
        "",
        "=",
        "<<",
        "-",
        "?",
        ":",
        "!",
    ),
    *(
        "0o7",
        "07",
        "0x1F",
        "0b1",
        "1_000",
        "1_",
        "-1_0",
        "12:30:45",
        "1:30",
        "1e3",
        "1.",
        ".5",
        "+1",
        "1e+16",
        ".inf",
    ),
    *("-.INF", ".nan", "2001-12-14", "2001-12-14t21:59:43.10-05:00", "1.2.3", "10.0.0.0/16"),
    *(
        "a\tb",
        "\ta",
        "a\rb",
        "a\r\nb\r\n",
        "\r",
        "a\x85b",
        "a\u2028b\n",
        "\ufeffa",
        "\x00",
        "\x7f",
        "\u00a0",
        "😀",
    ),
    *(
        "a: b",
        "a:",
        ":a",
        "a #b",
        "#a",
        "- a",
        "--- a",
        "---",
        "...",
        "%a",
        "@a",
        "`a",
        "&a",
        "*a",
        "|",
        ">",
        "'a'",
    ),
    *('"a"', "{a}", "[a]", "a, b", "a]", "a}", "{{ a }}", "${A}", "\\", "\\n", "a\\"),
    *(
        "a\n",
        "a\n\n",
        "\na\n",
        " a\n",
        "a \n",
        "a\n b\n",
        "a\n\nb\n",
        "a\nb",
        "\n",
        "a\t\n",
        "#a\n",
        "---\na\n",
        "\ta\n",
    ),
]
texts = st.sampled_from(TRAPS) | st.text(max_size=40)
scalars = (
    texts | st.integers() | st.booleans() | st.none() | st.floats() | st.sampled_from([1e16, 5e-324, -1e300])
)
keys = texts | st.integers() | st.booleans() | st.text(min_size=990, max_size=1100)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


def ruamel(version: tuple[int, int], text: str) -> Any:
    reader = YAML(typ="safe", pure=True)
    reader.version = version
    return reader.load(text)


def same(left: Any, right: Any) -> bool:
    """Equal, of the same types, in the same order; and NaN is NaN."""
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    if isinstance(left, dict) and isinstance(right, dict):
        return same(list(left), list(right)) and same(list(left.values()), list(right.values()))
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


@settings(deadline=None)
@given(value=values)
def test_what_is_written_is_what_every_reader_reads(value: Any) -> None:
    text = yaml(value)
    for read in (libyaml.safe_load, lambda it: ruamel((1, 1), it), lambda it: ruamel((1, 2), it)):
        assert same(read(text), value), text


@settings(deadline=None)
@given(words=st.lists(texts, min_size=1))
def test_words_between_brackets_stay_words(words: list[str]) -> None:
    text = f"[{', '.join(scalar(word, flow=True) for word in words)}]"
    assert libyaml.safe_load(text) == ruamel((1, 2), text) == words


def test_it_looks_hand_written() -> None:
    value = {
        "name": "gpu-1",
        "path": "/opt/stack/cuda13",
        "said": "Model training, of all",
        "version": "1.34",
        "on": True,
        "nothing": None,
        "none": [],
        "rules": [{"ports": ["22", "80-90"], "from": {}}, "all"],
        "script": "set -e\n  echo a: b\n",
    }
    assert yaml(value) == (
        "name: gpu-1\npath: /opt/stack/cuda13\nsaid: Model training, of all\n"
        'version: "1.34"\n"on": true\nnothing:\nnone: []\n'
        'rules:\n  - ports:\n      - "22"\n      - "80-90"\n    from: {}\n  - all\n'
        "script: |\n  set -e\n    echo a: b\n"
    )


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}])
def test_what_is_no_plain_data_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="no text, number, switch or None"):
        yaml({"a": value})
