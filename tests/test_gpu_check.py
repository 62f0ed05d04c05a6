"""The GPU check continues after a part that fails or hangs, and prints a table of results."""

import re
import tomllib
from datetime import datetime
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from torch import Tensor

from benchmarks import gpu_check, gpu_parts
from benchmarks.gpu_check import Part, report, run
from trainer.models.blocks.dropout import Dropout

SCRIPT = """
import subprocess, sys, time
print('ROW ["what", "found | here"]', flush=True)
print("something else", flush=True)
if sys.argv[1] == "fails":
    raise SystemExit(1)
if sys.argv[1] == "hangs":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).wait()
if sys.argv[1] == "skips":
    raise SystemExit(5)
"""


def test_a_part_that_fails_or_hangs_is_a_row_of_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "HERE", tmp_path)
    (tmp_path / "gpu_parts.py").write_text(SCRIPT)
    names = ("works", "fails", "skips", "hangs")
    limits = {"hangs": 10.0}  # it must have printed its row before that
    outcomes = [run(Part(n, 2.0), cpu=True, seconds=limits.get(n, 300.0)) for n in names]
    assert [o.verdict for o in outcomes] == ["done", "exit 1", "skipped", "over 10 s"]
    assert all(o.rows == [("what", "found | here")] for o in outcomes)
    text = report(outcomes, datetime(2026, 1, 2, 3, 4), cpu=True)
    assert text.startswith("# CPU check, 2026-01-02 03:04\n")
    assert text.count("| | what | found \\| here |") == 4
    assert "## fails: exit 1\n\n```\nsomething else\n```" in text
    assert "## hangs: over 10 s" in text and "## skips" not in text


@pytest.mark.parametrize("broken", [False, True])
def test_masks_that_differ_are_found(
    broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def mask(self: Dropout, x: Tensor, keys: Tensor, usual: Any = Dropout.mask) -> Tensor:
        calls.append(1)
        return usual(self, x, keys) * (0 if broken and len(calls) == 3 else 1)

    monkeypatch.setattr(Dropout, "mask", mask)
    monkeypatch.setattr(gpu_parts, "WRONG", [])
    gpu_parts.masks(cpu=True)
    assert bool(gpu_parts.WRONG) == broken
    assert ("<- WRONG" in capsys.readouterr().out) == broken


IN_THE_IMAGE = {"torch", "numpy"}
BUILT_FROM_SOURCE = {"antlr4-python3-runtime"}


def needed(requirement: Requirement, found: set[str]) -> None:
    """Add the names of a package and its dependencies, except those that an image has."""
    name = canonicalize_name(requirement.name)
    if name in found | IN_THE_IMAGE:
        return
    found.add(name)
    for each in map(Requirement, requires(name) or []):
        extras = ["", *requirement.extras]
        if each.marker is None or any(each.marker.evaluate({"extra": e}) for e in extras):
            needed(each, found)


def test_the_wheels_that_are_carried_are_all_that_is_needed(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    for name in [*project["dependencies"], "hypothesis", "pytest", "transformers", "peft"]:
        needed(Requirement(name), found)
    script = (repository / "benchmarks/gpu_check.sh").read_text()
    listed = re.search(r"packages=\((.*?)\)", script, re.DOTALL)
    assert listed is not None
    assert set(map(canonicalize_name, listed[1].split())) == found - BUILT_FROM_SOURCE
