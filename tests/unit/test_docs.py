"""The documentation keeps its rules: blocks are marked, links and names lead somewhere, no verb is untold."""

import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer.main
from ruamel.yaml import YAML

from infra.base.paths import CHECKOUT
from infra.base.process import output
from infra.cli import app
from jobs.config import Config
from tests import docs

PAGES = docs.pages(CHECKOUT)
VERBS = set(re.findall(r"^([a-z-]+):.*## ", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
# A file or folder of the checkout as prose names it: `infra/host/docker.py`, `hardware/<type>.yaml`
PATH = re.compile(r"[\w.-]+/[\w./<>*-]*")
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


@each_page
def test_blocks_keep_the_rules(page: docs.Page) -> None:
    assert page.mistakes == []


@each_page
def test_links_lead_to_something(page: docs.Page) -> None:
    for line, link in page.links():
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (CHECKOUT / page.name).parent / file if file else CHECKOUT / page.name
        assert target.exists(), f"{page.name}:{line}: no file {link}"
        if anchor:
            there = docs.parse(target.name, target.read_text()).anchors()
            assert anchor in there, f"{page.name}:{line}: no heading for {link}"


@each_page
def test_files_that_a_page_names_are_there(page: docs.Page) -> None:
    folders = {name.split("/")[0] for name in tracked() if "/" in name} - {"runs", "build"}
    for line, text in page.prose:
        for name in docs.CODE.findall(text):
            if PATH.fullmatch(name) and name.split("/")[0] in folders:
                pattern = re.sub(r"<[^>]*>", "*", name).rstrip("/")
                assert any(CHECKOUT.glob(pattern)), f"{page.name}:{line}: no file {name}"


@functools.cache
def tracked() -> list[str]:
    # with what is new and not ignored, as the formatter sees it
    listed = ["ls-files", "--cached", "--others", "--exclude-standard"]
    return [
        name for name in output(["git", "-C", CHECKOUT, *listed]).splitlines() if (CHECKOUT / name).exists()
    ]


CODE = (
    "infra/",
    "jobs/",
    "tests/",
    "ansible/",
    "slurm/",
    "images/",
    "bin/",
    "k8s/",
    "Makefile",
    "pyproject.toml",
)
# What code names as one of its own: a file with an ending, or a module of a package.
FILE = re.compile(
    r"(?<![\w./*<{$-])((?:infra|jobs|tests|ansible|slurm|images|docs)/[\w./-]*\.(?:py|sh|md|ya?ml|j2|sbatch))\b"
)
MODULE = re.compile(
    r"\b(?:from|import) ((?:infra|jobs|tests)(?:\.\w+)+) import|(?<=-m )((?:infra|jobs|tests)(?:\.\w+)+)"
)
# Made-up names of tests, and files that a command or a job writes.
MADE_UP = re.compile(
    r"/(none|whole\w*|dpp|ddp-submitit|test_x|x|mine|own|missing|my\w*)\b|ansible/inventory\.yaml"
)


@pytest.mark.parametrize(
    "name", [name for name in tracked() if name.startswith(CODE) and "/golden/" not in name]
)
def test_files_and_modules_that_code_names_are_there(name: str) -> None:
    """In comments, messages and programs that are text in another: where files move, these are left behind."""
    try:
        text = (CHECKOUT / name).read_text()
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        for file in FILE.findall(line):
            if not MADE_UP.search(file):
                assert (CHECKOUT / file).exists(), f"{name}:{number}: no file {file}"
        for found in MODULE.finditer(line):
            path = CHECKOUT / (found[1] or found[2]).replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").exists(), f"{name}:{number}: no module {found[0]}"


def test_a_file_that_moved_is_found_in_a_comment() -> None:
    assert FILE.findall("# as infra/render/text.py and `jobs/train.py` say, not build/infra/x.py") == [
        "infra/render/text.py",
        "jobs/train.py",
    ]
    (found,) = MODULE.finditer('UP = "from infra.' + 'load import load_cluster"')
    assert found[1] == "infra.load"


def yaml(name: str) -> Any:
    return YAML(typ="safe").load(CHECKOUT / name)


def written(name: str, pattern: str) -> str:
    """The one group of `pattern` in a file."""
    found = re.search(pattern, (CHECKOUT / name).read_text(), re.MULTILINE)
    assert found, f"{name}: no {pattern}"
    return found[1]


# A figure in a page, and what it is of: the page must say it, and say what its source says.
STEPS = functools.partial(lambda: yaml("jobs/ddp.yaml")["train"]["steps"])
SLURM = "infra/render/templates/slurm.conf.j2"
FIGURES: list[tuple[str, str, Callable[[], object]]] = [
    ("README.md", r"step +\d+/(\d+)", STEPS),
    ("README.md", r"step (\d+)/\d+   ", STEPS),
    ("docs/preemption.md", r"`warning_s`, (\d+) s", lambda: yaml("jobs/ddp.job.yaml")["warning_s"]),
    (
        "docs/preemption.md",
        r"from `retries` of the job's description \((\d+)\)",
        lambda: yaml("jobs/ddp.job.yaml")["retries"],
    ),
    (
        "docs/preemption.md",
        r"`--run.heartbeat_s` changes the (\d+) s",
        lambda: round(Config().run.heartbeat_s),
    ),
    (
        "docs/troubleshooting.md",
        r"two minutes by default, (\d+) s in the lab",
        lambda: written(SLURM, r"cred_expire=(\d+)"),
    ),
    (
        "docs/troubleshooting.md",
        r"`MessageTimeout` \((\d+) s and",
        lambda: written(SLURM, r"cred_expire=(\d+)"),
    ),
    (
        "docs/troubleshooting.md",
        r"`MessageTimeout` \(\d+ s and (\d+) s",
        lambda: written(SLURM, r"^MessageTimeout=(\d+)"),
    ),
    (
        "docs/troubleshooting.md",
        r"Slurm looks every (\d+) s, counts pages",
        lambda: written(SLURM, r"JobAcctGatherFrequency=task=(\d+)"),
    ),
]


@pytest.mark.parametrize(("page", "pattern", "source"), FIGURES)
def test_a_figure_in_prose_is_that_of_its_source(
    page: str, pattern: str, source: Callable[[], object]
) -> None:
    said = re.findall(pattern, (CHECKOUT / page).read_text())
    assert said, f"{page} no longer says it: {pattern}"
    assert set(said) == {str(source())}, f"{page}: {pattern}"


def test_every_tier_and_every_folder_of_tests_is_in_their_table() -> None:
    rows = re.findall(
        r"^\| `(tests/\S+)` \| (.*?) \|", (CHECKOUT / "tests/README.md").read_text(), re.MULTILINE
    )
    scripts = {name for name in tracked() if re.fullmatch(r"tests/(check|run-\w+)", name)}
    assert {script for script, _ in rows} == scripts - {"tests/run-all", "tests/run-jobs"}
    folders = {
        name.split("/")[1] for name in tracked() if re.fullmatch(r"tests/\w+/(test_\w+|conftest)\.py", name)
    }
    assert set(re.findall(r"`(\w+)`", " ".join(row for _, row in rows))) - {"more"} == folders - {"nodes"}


@each_page
def test_verbs_and_commands_that_a_page_names_exist(page: docs.Page) -> None:
    assert page.verbs() <= VERBS
    assert page.commands() <= set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def test_steps_that_a_page_says_are_those_of_the_job() -> None:
    """`150 of jobs/ddp.yaml` in prose, and a report of the default job: both are what the file says."""
    file = (CHECKOUT / "jobs/ddp.yaml").read_text()
    steps = re.search(r"^  steps: (\d+)$", file, re.MULTILINE)
    assert steps
    said = []
    for page in PAGES:
        text = (CHECKOUT / page.name).read_text()
        said += re.findall(r"(\d+) (?:steps )?of `jobs/ddp\.yaml`", text)
        said += re.findall(r"ddp +\d+ nodes x \d ranks? +step \d+/(\d+)", text)
    assert len(said) > 1
    assert set(said) == {steps[1]}


def test_a_page_that_asks_for_more_gpus_gets_what_their_ranks_need() -> None:
    """The file asks by the GPU; Slurm refuses --mem and --cpus-per-task beside that."""
    asked = re.compile(r"--gres=gpu:\d+(.*?) (jobs/\w+\.sbatch)")
    found = [each for page in PAGES for each in asked.findall((CHECKOUT / page.name).read_text())]
    assert found
    for others, name in found:
        assert re.findall(r"^#SBATCH --(cpus|mem)-per-gpu=", (CHECKOUT / name).read_text(), re.MULTILINE) == [
            "cpus",
            "mem",
        ]
        assert not re.search(r"--(mem|cpus-per-task)=", others)


def test_every_verb_is_told_of() -> None:
    assert set.union(*(page.verbs() for page in PAGES)) == VERBS


@pytest.mark.parametrize(("name", "on"), [("site", docs.ON_MACHINES), ("kind", docs.ON_KIND)])
def test_pages_about_a_cluster_are_run_on_the_tests_own_and_no_other(name: str, on: tuple[str, ...]) -> None:
    """The cluster of clusters/site.yaml or kind.yaml may be somebody's own: no test brings it up or down."""
    for page in PAGES:
        runs = "".join(block.text for block in page.runnable())
        changes = re.search(
            r"make (cluster-up|cluster-down|plan|replace|upgrade|rotate-secrets)\b.*CLUSTER=clusters/" + name,
            runs,
        )
        assert not changes or page.name in on, page.name


def test_a_page_about_machines_can_be_run_on_others() -> None:
    text = "```bash\nmake plan CLUSTER=clusters/site.yaml\nssh -F build/site/ssh/config gpu-1 true\n"
    text += "docker stop slipway-site-gpu-2\n```\n"
    (block,) = docs.about(docs.parse("x.md", text), Path("build/trial.yaml")).blocks
    assert block.text == (
        "make plan CLUSTER=build/trial.yaml\nssh -F build/trial/ssh/config gpu-1 true\n"
        "docker stop slipway-trial-gpu-2\n"
    )


BAD = {
    "a block without a language": "```\nls\n```",
    "a block of language 'sh'": "```sh\nls\n```",
    "a block that is not closed": "```bash\nls\n",
    "'not run' without a reason": "<!-- not run: -->\n```bash\nls\n```",
    "'not run' without a reason;": "<!-- not run -->\n```bash\nls\n```",
    "write <!-- not run: why -->": "<!-- Not-run: in other words -->\n```bash\nls\n```",
    "'not run' before a block of text": "<!-- not run: it is output -->\n```text\nls\n```",
    "'not run' without a block of bash": "<!-- not run: far away -->\n\n```bash\nls\n```",
    "'not run' without a block of bash in": "<!-- not run: at the end -->",
    "not bash": "```bash\nif true\n```",
    "here-document": "```bash\ncat <<END\n```",
}


@pytest.mark.parametrize(("says", "text"), BAD.items())
def test_a_page_that_breaks_a_rule_is_refused_with_its_line(says: str, text: str) -> None:
    (mistake,) = docs.parse("x.md", f"# Title\n\n{text}\n").mistakes
    assert re.match(r"x\.md:[345]: ", mistake)
    assert says in mistake


def test_what_is_read_from_a_page() -> None:
    page = docs.parse(
        "x.md",
        "# Two words, `three`\nmake peace, `make show`, [to](y.md#z), `[no](link)`\n\n"
        "1. in a list\n   ```bash\n   make render | cat\n   ```\n<!-- not run: ever -->\n~~~bash\nls\n~~~\n",
    )
    assert page.mistakes == []
    assert page.verbs() == {"show", "render"}
    assert page.links() == [(2, "y.md#z")]
    assert page.anchors() == {"two-words-three"}
    assert [block.line for block in page.runnable()] == [6]
    assert [block.not_run for block in page.blocks] == [None, "ever"]


def ran(tmp_path: Path, text: str, timeout_s: float = 20) -> docs.Failed | None:
    return docs.run(docs.parse("x.md", text), tmp_path, os.environ, timeout_s)


def test_blocks_run_in_order_in_one_shell_and_marked_ones_do_not(tmp_path: Path) -> None:
    text = (
        "```bash\na=1\n```\n<!-- not run: fails -->\n```bash\nfalse\n```\n```bash\necho $a > out; cat\n```\n"
    )
    assert ran(tmp_path, text) is None
    assert (tmp_path / "out").read_text() == "1\n"


@pytest.mark.parametrize(
    ("block", "why", "output"),
    [
        ("echo said; ls /nowhere", "exit status 2", "No such file"),
        ("false; echo 'not here'", "exit status 1", ""),
        ("exit 0", "left the shell", ""),
        ("echo begun; sleep 60", "not done after 1 s", "begun"),
    ],
)
def test_a_block_that_fails_is_named_with_what_it_printed(
    tmp_path: Path, block: str, why: str, output: str
) -> None:
    failed = ran(tmp_path, f"```bash\necho before\n```\n\n```bash\n{block}\n```\n", timeout_s=1)
    assert failed
    assert failed.where == "x.md:6"
    assert why in failed.why
    assert output in failed.output
    assert "before" not in failed.output
