"""The process in which torch sees pretended GPUs, and how to run tests in it.

**Every test below `tests/cuda` runs in one child process where torch sees eight CUDA devices**, on
any Linux machine with a C++ compiler. `tests/cuda/conftest.py` starts it and shows each test's
outcome as its own, so write and call them as usual:

    python -m pytest tests/cuda -k sequence_lengths

    from tests.cuda.device import CUDA, Device          # works in the child process alone

    def test_a_step_waits_once() -> None:
        with Device(capability=(9, 0)) as device:       # torch.cuda.* and fake tensors on `cuda`
            model = device.place(model_on_cpu)          # or model.to("cuda")
            with device.traced() as trace:
                model(**batch.to(CUDA).inputs()).logits.sum().backward()
        assert trace.waits == {}                        # places that wait for the device
        assert trace.num_launches < 100                 # kernels, by name in trace.launches
        assert trace.copies == {}                       # places that copy host memory to the device

Tensors on `cuda` are fake: they have device, dtype and shape, and go through CUDA's own dispatch
and autocast, but hold no numbers. Tensors on the CPU are real. Reading a number of the device
(`.item()`, `nonzero`, `x[mask]`, `.cpu()`) is counted as a wait and gives true, 1.0, a plausible
shape, or zeros, so that a whole training with its checkpoints can run.

No configuration is needed. The guard is compiled once, in seconds, and kept in pytest's cache.
Without a compiler the tests are skipped; if CUDA_TESTS_REQUIRED is set, as in `.ci/run`, they fail.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("device_guard.cpp")
INSIDE = "TEMPERING_PRETENDED_CUDA"
"""The environment variable of the child process; its value is the file that reports go to."""
TIMEOUT = 600


class Unavailable(Exception):
    """The reason why this machine cannot run the process."""


def run_tests(node_ids: Sequence[str], root: Path, cache: Path) -> tuple[list[str], str]:
    """The child's reports of these tests, one JSON line each, and its output.

    Raises Unavailable if torch cannot be made to see a device.
    """
    guard = built_guard(cache)
    with tempfile.TemporaryDirectory() as folder:
        reports, chosen = Path(folder, "reports"), Path(folder, "tests")
        chosen.write_text("\n".join(node_ids), encoding="utf-8")
        reports.touch()
        printed = _run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", f"@{chosen}"],
            {"LD_PRELOAD": str(guard), INSIDE: str(reports)},
            root,
        )
        return reports.read_text(encoding="utf-8").splitlines(), printed


def built_guard(cache: Path) -> Path:
    """The library of `device_guard.cpp`, compiled for this torch unless `cache` has it."""
    if not sys.platform.startswith("linux"):
        raise Unavailable("needs Linux, whose loader takes LD_PRELOAD")
    if torch.version.cuda or torch.version.hip:
        raise Unavailable("needs a torch built without CUDA: the guard takes CUDA's place")
    compiler = next(
        (path for name in ("g++", "c++", "clang++") if (path := shutil.which(name))), ""
    )
    if not compiler:
        raise Unavailable("needs a C++ compiler: g++, c++ or clang++")
    digest = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:12]
    library = cache / f"device_guard_{digest}.so"
    if not library.exists():
        _compile(compiler, library)
    return library


def environment(variables: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `variables`, for a child that loads the guard."""
    libraries = f"{Path(torch.__file__).parent}/lib"
    return {**os.environ, **variables, "LD_LIBRARY_PATH": libraries, "OMP_NUM_THREADS": "1"}


def _compile(compiler: str, library: Path) -> None:
    installed = Path(torch.__file__).parent
    partial = library.with_suffix(f".{os.getpid()}")
    command = [compiler, "-O0", "-shared", "-fPIC", "-std=c++20", str(SOURCE), "-o", str(partial)]
    command += [f"-I{installed}/include", f"-I{installed}/include/torch/csrc/api/include"]
    command += [f"-L{installed}/lib", "-lc10", "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{SOURCE.name} does not compile:\n{done.stderr[-3000:]}"
    partial.replace(library)  # atomically, since other processes may read it


def _run(command: list[str], variables: dict[str, str], root: Path) -> str:
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env=environment(variables),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as late:
        return f"{(late.output or b'')[-3000:]!r}\nno end after {TIMEOUT} s"
    return f"{done.stdout[-3000:]}\nexit code {done.returncode}"
