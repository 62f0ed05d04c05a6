"""Twenty runs' processes killed at random instants: nothing is lost, and nobody can tell."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("mode", [[], ["--async-save"]], ids=["at once", "in the background"])
def test_twenty_kills(tmp_path: Path, repository: Path, mode: list[str]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    script = str(repository / "benchmarks" / "kills.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", "20", "--folder", str(tmp_path), *mode],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] == 20 and found["checkpoints verified after a kill"] > 0
    for what in ("unloadable checkpoints", "runs with other weights, moments or rows", "failures"):
        assert found[what] == 0
