"""Runs the tests of this folder in the process of `pretended.py`, and shows their outcomes here."""

import json
import os
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.cuda import pretended

HERE = Path(__file__).parent
REPORTS = os.environ.get(pretended.INSIDE)
"""The file that reports go to, in the child process."""
Reports = dict[str, list[pytest.TestReport]]
OUTCOMES = pytest.StashKey[Reports]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """In the parent: return the child process's report of a test, instead of running it here."""
    if REPORTS or HERE not in item.path.parents:
        return None
    stash = item.session.stash
    if OUTCOMES not in stash:
        stash[OUTCOMES] = _outcomes([i for i in item.session.items if HERE in i.path.parents])
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for report in stash[OUTCOMES][item.nodeid]:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the child: send a report to the parent."""
    if REPORTS:
        line = {"node": report.nodeid, **report._to_json()}
        with open(REPORTS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=str) + "\n")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Exit the child at once, since torch's threads may wait for a device that does not exist."""
    if REPORTS:
        sys.stdout.flush()
        os._exit(0)


def _outcomes(items: list[pytest.Item]) -> Reports:
    """The reports of all these tests, by node id."""
    try:
        lines, printed = pretended.run_tests(
            [item.nodeid for item in items], items[0].config.rootpath, _cache(items[0].config)
        )
    except pretended.Unavailable as reason:
        outcome = "failed" if os.environ.get("CUDA_TESTS_REQUIRED") else "skipped"
        return {item.nodeid: [_report(item, outcome, str(reason))] for item in items}
    found: Reports = defaultdict(list)
    for line in lines:
        values = json.loads(line)
        found[values.pop("node")].append(pytest.TestReport._from_json(values))
    for item in items:
        if not any(report.when == "teardown" for report in found[item.nodeid]):
            found[item.nodeid] = [_report(item, "failed", f"did not end; printed:\n{printed}")]
    return found


def _cache(config: pytest.Config) -> Path:
    cache = getattr(config, "cache", None)
    if cache is not None:
        return cache.mkdir("cuda_guard")
    folder = Path(tempfile.gettempdir(), f"tempering_cuda_guard_{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _report(item: pytest.Item, outcome: Any, reason: str) -> pytest.TestReport:
    place: Any = (str(item.path), item.location[1] or 0, reason)
    return pytest.TestReport(
        item.nodeid,
        item.location,
        dict.fromkeys(item.keywords, 1),
        outcome,
        place if outcome == "skipped" else reason,
        "setup" if outcome == "skipped" else "call",
    )
