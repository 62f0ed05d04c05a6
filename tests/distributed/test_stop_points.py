"""Runs stopped up to three times, anywhere, on 1, 2 and 4 processes, give the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.distributed.stop_points import EARLY, STOPS
from tests.distributed.stopping import folder_in_memory


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_resumed_has_the_bits_of_never_stopped(
    world_size: int, tmp_path: Path, repository: Path
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world_size}"]
    script = str(Path(__file__).with_name("stop_points.py"))
    environment = {**os.environ, "PYTHONPATH": str(repository), "OMP_NUM_THREADS": "1"}
    with folder_in_memory() as folder:
        done = subprocess.run(
            [sys.executable, *launcher, script, str(tmp_path / "found.json"), str(folder)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text())
    assert 6 <= found.pop("early stopping half way, steps") < 30, "it was to stop half way"
    assert found.pop("average and best, steps") == 15
    assert len(found) == len(STOPS) + len(EARLY)
    assert {case: files for case, files in found.items() if files} == {}
