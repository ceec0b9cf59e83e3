"""The documentation as data (README.md and docs/*.md), and a runner for the commands in it.

A block of language `bash` is run by tests/lab/test_docs.py, by tests/machines/test_docs.py for the pages
ON_MACHINES, by tests/kind/test_docs.py for those ON_KIND; all blocks of a page in one shell, at the top of the
checkout. One that must not be run says why in the line before it:

    <!-- not run: asks for a terminal -->

What commands print stands in blocks of language `text`, and is not compared.
"""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from textwrap import dedent

from infra.base.paths import CHECKOUT
from infra.base.process import output

# Pages whose commands are about the machines of clusters/site.yaml.
ON_MACHINES = ("docs/provision-this-host.md", "docs/grow-shrink-upgrade.md")
# Pages whose commands are about clusters/kind.yaml.
ON_KIND = ("docs/kubernetes.md",)
LANGUAGES = ("bash", "text", "yaml", "json", "python")
FENCE = re.compile(r"\s*(`{3,}|~{3,})\s*(.*?)\s*$")
MARK = re.compile(r"<!--\s*not[ -]?run\b(.*)-->", re.IGNORECASE)
REASON = re.compile(r"<!-- not run: (.*\S) -->$")
CODE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
VERB = re.compile(r"(?<![\w./-])make ([a-z][a-z-]*)")
COMMAND = re.compile(r"python -m infra ([a-z][a-z-]*)")


@dataclass(frozen=True)
class Block:
    """A fenced block of code; `line` is that of its first line of text."""

    line: int
    language: str
    text: str
    not_run: str | None = None


@dataclass
class Page:
    """A page by its name from the top of the checkout: its blocks, its prose, the rules that it breaks."""

    name: str
    blocks: list[Block] = field(default_factory=list)
    prose: list[tuple[int, str]] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def wrong(self, line: int, what: str) -> None:
        self.mistakes.append(f"{self.name}:{line}: {what}")

    def runnable(self) -> list[Block]:
        return [block for block in self.blocks if block.language == "bash" and block.not_run is None]

    def code(self) -> Iterator[str]:
        """Every command that a reader may type, and every name: blocks of bash, and code inside of lines."""
        yield from (block.text for block in self.blocks if block.language == "bash")
        yield from (code for _, line in self.prose for code in CODE.findall(line))

    def verbs(self) -> set[str]:
        return {verb for code in self.code() for verb in VERB.findall(code)}

    def commands(self) -> set[str]:
        return {command for code in self.code() for command in COMMAND.findall(code)}

    def links(self) -> list[tuple[int, str]]:
        """Line and target of every link, pictures too."""
        return [(line, to) for line, text in self.prose for to in LINK.findall(CODE.sub("", text))]

    def anchors(self) -> set[str]:
        """What a link to a heading of this page ends with, as GitHub makes it."""
        heads = [text.lstrip("#").strip() for _, text in self.prose if re.match(r"#+ ", text)]
        return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def pages(root: Path) -> list[Page]:
    """README.md, that of tests/, and every page of docs/."""
    files = [root / "README.md", root / "tests/README.md", *sorted((root / "docs").glob("*.md"))]
    return [parse(str(file.relative_to(root)), file.read_text()) for file in files]


def parse(name: str, text: str) -> Page:
    """A page from its Markdown; each rule that it breaks is a line of `mistakes`, `file:line: what`."""
    page = Page(name)
    mark: tuple[int, str | None] | None = None  # of the block that comes next
    lines = enumerate(text.splitlines(), 1)
    for number, line in lines:
        fence = FENCE.match(line)
        if fence:
            block = _block(page, number, fence, lines)
            if mark and block.language == "bash":
                block = Block(block.line, block.language, block.text, mark[1])
            elif mark:
                page.wrong(
                    mark[0], f"'not run' before a block of {block.language or 'no language'}, never run"
                )
            page.blocks.append(block)
            mark = None
        elif MARK.match(line.strip()):
            reason = REASON.match(line.strip())
            if not reason:
                page.wrong(number, "'not run' without a reason; write <!-- not run: why -->")
            mark = (number, reason[1] if reason else "")
        else:
            if mark:
                page.wrong(mark[0], "'not run' without a block of bash in the next line")
                mark = None
            page.prose.append((number, line))
    if mark:
        page.wrong(mark[0], "'not run' without a block of bash in the next line")
    return page


def about(page: Page, file: Path, name: str = "site") -> Page:
    """`page` with the commands that name clusters/<name>.yaml about another cluster, of file `file`."""
    names = (
        (f"clusters/{name}.yaml", str(file)),
        (f"build/{name}/", f"build/{file.stem}/"),
        (f"slipway-{name}-", f"slipway-{file.stem}-"),
    )
    blocks = []
    for block in page.blocks:
        text = block.text
        for old, new in names:
            text = text.replace(old, new)
        blocks.append(replace(block, text=text))
    return replace(page, blocks=blocks)


def _block(page: Page, start: int, fence: re.Match[str], lines: Iterator[tuple[int, str]]) -> Block:
    """The block that `fence` opens, up to the fence that closes it."""
    ticks, language = fence.groups()
    if not language:
        page.wrong(start, "a block without a language; write bash for what is run, text for what is printed")
    elif language not in LANGUAGES:
        page.wrong(start, f"a block of language '{language}'; known are {', '.join(LANGUAGES)}")
    inside = []
    for _, line in lines:
        if re.fullmatch(rf"\s*{ticks[0]}{{{len(ticks)},}}\s*", line):
            break
        inside.append(line)
    else:
        page.wrong(start, f"a block that is not closed; end it with {ticks}")
    block = Block(start + 1, language, dedent("\n".join(inside)) + "\n")
    if language == "bash":
        parsed = subprocess.run(["bash", "-n"], input=block.text, capture_output=True, text=True)
        if parsed.stderr:
            page.wrong(block.line, f"not bash: {parsed.stderr.splitlines()[0].removeprefix('bash: ')}")
    return block


@dataclass(frozen=True)
class Failed:
    """The block that ended a page's shell; `why` says how, `output` is what it printed."""

    where: str
    why: str
    output: str

    def __str__(self) -> str:
        return f"{self.where}: {self.why}\n{self.output}"


def run(page: Page, root: Path, env: Mapping[str, str], timeout_s: float = 600) -> Failed | None:
    """Run a page's blocks in one shell in folder `root`; None when all of them succeeded."""
    end = f"{page.name}: the end"
    parts = [f"printf '\\n\\036%s\\n' '{page.name}:{block.line}'\n{block.text}" for block in page.runnable()]
    with tempfile.TemporaryDirectory() as folder:
        script, log = Path(folder) / "page", Path(folder) / "log"
        script.write_text("".join([*parts, f"printf '\\n\\036%s\\n' '{end}'\n"]))
        with log.open("wb") as file:
            shell = subprocess.Popen(
                ["bash", "-e", script],
                cwd=root,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that what a block leaves running can be ended with it
            )
            try:
                why = f"exit status {shell.wait(timeout_s)}"
            except subprocess.TimeoutExpired:
                why = f"not done after {timeout_s:.0f} s"
                os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
        where, _, output = log.read_text(errors="replace").rpartition("\n\x1e")[2].partition("\n")
    if where == end and shell.returncode == 0:
        return None
    return Failed(where, why if shell.returncode else "left the shell, so that the rest did not run", output)


def prove(page: Page, env: Mapping[str, str], timeout_s: float = 600) -> None:
    """Fail unless every block of the page works in this checkout, and leaves no file behind that git would see."""

    def untracked() -> set[str]:
        return set(output(["git", "-C", CHECKOUT, "ls-files", "--others", "--exclude-standard"]).splitlines())

    before = untracked()
    failed = run(page, CHECKOUT, env, timeout_s)
    assert failed is None, str(failed)
    assert untracked() <= before, "files that the page should remove, or write to runs/ or build/"
