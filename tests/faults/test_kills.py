"""Runs killed at random times lose nothing, and their results show no trace of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kills"),
    [([], 20), (["--async-save"], 20), (["--async-save", "--store"], 5)],
    ids=["at once", "in the background", "in a store"],
)
def test_kills(tmp_path: Path, repository: Path, mode: list[str], kills: int) -> None:
    if "--store" in mode:
        pytest.importorskip("moto")
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    script = str(repository / "benchmarks" / "kills.py")
    done = subprocess.run(
        [sys.executable, script, "--kills", f"{kills}", "--folder", str(tmp_path), *mode],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["kills"] == kills and found["checkpoints verified after a kill"] > 0
    for what in ("unloadable checkpoints", "runs with other weights, moments or rows", "failures"):
        assert found[what] == 0
