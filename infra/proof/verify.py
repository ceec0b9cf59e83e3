"""Check every node of a running cluster: the testinfra suite of tests/nodes, counted into one line."""

import subprocess
import sys
from xml.etree import ElementTree

from infra.base.errors import Failure
from infra.base.paths import CHECKOUT, build
from infra.base.process import run as run_program
from infra.base.progress import Step
from infra.model.cluster import Cluster


def run(cluster: Cluster, step: Step) -> None:
    """Raises Failure with the first check that failed, and the log that holds all of them."""
    step.doing("services, versions, permissions, ports, time")
    logs = build(cluster.name) / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log, report = logs / "verify.log", logs / "verify.xml"
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        f"--cluster={cluster.file}",
    ]
    with log.open("w") as file:
        done = run_program(
            [sys.executable, *words, str(CHECKOUT / "tests" / "nodes")],
            cwd=CHECKOUT,
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    # pytest's own report, written a moment ago
    suite = ElementTree.parse(report).getroot().find("testsuite") if report.exists() else None  # noqa: S314
    if suite is None:
        raise Failure(f"the checks could not run\n  log: {log}")
    failed = [case.get("name") for case in suite.iter("testcase") if case.find("failure") is not None]
    broken = [case.get("name") for case in suite.iter("testcase") if case.find("error") is not None]
    if done.returncode or failed or broken:
        names = [name for name in failed + broken if name]
        raise Failure(f"{len(names)} of {suite.get('tests')} checks failed, first {names[:1]}\n  log: {log}")
    step.did(f"{suite.get('tests')} checks on {len(cluster.service_hosts) + len(cluster.nodes)} nodes")
