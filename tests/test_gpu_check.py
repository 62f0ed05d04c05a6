"""The GPU check goes on after a part that fails or hangs, and tables what it has found."""

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from benchmarks import gpu_check, gpu_parts
from benchmarks.gpu_check import Part, report, run
from trainer.models.dropout import Dropout

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
    outcomes = [run(Part(name, 2.0), cpu=True, seconds=2.0) for name in names]
    assert [o.verdict for o in outcomes] == ["done", "exit 1", "skipped", "over 2 s"]
    assert all(o.rows == [("what", "found | here")] for o in outcomes)
    text = report(outcomes, datetime(2026, 1, 2, 3, 4), cpu=True)
    assert text.startswith("# CPU check, 2026-01-02 03:04\n")
    assert text.count("| | what | found \\| here |") == 4
    assert "## fails: exit 1\n\n```\nsomething else\n```" in text
    assert "## hangs: over 2 s" in text and "## skips" not in text


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
