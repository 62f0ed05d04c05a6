"""Runs llama.cpp, through llama-cpp-python, in a separate process, because it may abort."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from trainer.checkpoint import files
from trainer.errors import EnvironmentFault, InputError
from trainer.export.card import installed

QUANTIZER = "llama-quantize"
"""llama.cpp's program that quantizes files."""
PROCESS = Path(__file__).with_name("llama_cpp_process.py")
"""The script is run by its path, since importing it would need llama-cpp-python."""


@dataclass(frozen=True)
class Reading:
    """The results of llama.cpp for a file."""

    continuations: list[list[int]]
    """The token ids of each prompt's greedy continuation."""
    tokenized: list[list[int]]
    """The token ids of each text."""


def is_installed() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


def program() -> str:
    """The name and version of llama-cpp-python."""
    return f"llama-cpp-python {installed('llama-cpp-python')}"


def require_quantizer(dtype: str) -> None:
    """Raise InputError if llama.cpp's quantizer is missing."""
    if not is_installed() and shutil.which(QUANTIZER) is None:
        found = f"{dtype} needs llama.cpp's quantizer, which is not installed"
        accepted = "accepted: pip install llama-cpp-python, llama-quantize on the PATH, or q8_0"
        raise InputError(f"dtype: {found}; {accepted}")


def quantize(source: Path, target: Path, dtype: str) -> None:
    """Write the file `source` to `target`, with its matrices in llama.cpp's type `dtype`."""
    with files.operation("write", target):
        if is_installed():
            _request({"quantize": [str(source), str(target), dtype.upper()]})
            return
        command = [QUANTIZER, str(source), str(target), dtype.upper()]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
        if done.returncode:
            raise EnvironmentFault(f"{QUANTIZER}: {_last_line(done.stderr)}")


def read(file: Path, prompts: Sequence[Sequence[int]], texts: Sequence[str], count: int) -> Reading:
    """Generate `count` greedy tokens after each prompt, and tokenize each text."""
    arguments = {"file": str(file), "prompts": [list(p) for p in prompts]}
    answer = _request({**arguments, "texts": list(texts), "count": count})
    return Reading(answer["continuations"], answer["tokenized"])


def _request(request: dict[str, object]) -> dict[str, list[list[int]]]:
    """Send a request to `PROCESS`, and return its answer. Raises EnvironmentFault if it fails."""
    done = subprocess.run(
        [sys.executable, "-P", str(PROCESS)],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        errors="replace",  # llama.cpp cuts texts of the file within a character
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    if done.returncode:
        raise EnvironmentFault(f"{program()}: {_last_line(done.stderr) or done.returncode}")
    answer: dict[str, list[list[int]]] = json.loads(done.stdout.splitlines()[-1])
    return answer


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
