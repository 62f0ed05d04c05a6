"""All tests marked `gpu`, in a process that sees the GPU, which is hidden from this one."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_all_that_needs_a_gpu_passes_on_one(
    environment_with_gpus: dict[str, str], repository: Path
) -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("needs a GPU")
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu"]
    done = subprocess.run(
        command, cwd=repository, env=environment_with_gpus, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]
