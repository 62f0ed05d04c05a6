"""Failing allocations: saving, resuming and evaluating give a one-line error, or continue."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.checkpoint.publish import published
from trainer.checkpoint.verify import verify

CODE = """
import atexit, json, os, resource, sys, traceback
import launch
import trainer.jobs.train, trainer.jobs.evaluate, trainer.trainer  # imported before the limit
import torch, datasets, trainer.checkpoint.tensors

def run(room, arguments, errors):
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
    code = 1
    try:
        code = launch.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code)

for line in sys.stdin:
    child = os.fork()
    if not child:
        run(*json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Imports once, and runs each job in a fork under its own limit."""
ENOUGH, ROOMS = 4000, [500, 150, 20]
"""Megabytes left when a job begins; the model alone takes 90."""


class Limited:
    """A process that runs jobs, and the arguments of a run after two steps."""

    def __init__(self, folder: Path, repository: Path, model: Path) -> None:
        self.folder = folder
        rows = "text,label\n" + "".join(f"a {i},{'ab'[i % 2]}\n" for i in range(32))
        (folder / "rows.csv").write_text(rows)
        self.train = [f"model.path={model}", f"dataset.train={folder}/rows.csv", "callbacks=none"]
        self.train += [f"output_dir={folder}/run", "trainer.save_steps=1"]
        self.train += ["trainer.global_batch_size=8", "trainer.save_total_limit=2"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE],
            cwd=repository,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, megabytes: int, arguments: list[str]) -> tuple[int, str]:
        """The exit code, and what was printed on standard error."""
        errors = self.folder / "errors"
        request: Any = [megabytes << 20, arguments, str(errors)]
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = int(self.process.stdout.readline())
        return code, errors.read_text()


@pytest.fixture(scope="module")
def limited(
    tmp_path_factory: pytest.TempPathFactory, repository: Path, minilm: Path
) -> Iterator[Limited]:
    found = Limited(tmp_path_factory.mktemp("memory"), repository, minilm)
    code, errors = found.run(ENOUGH, [*found.train, "trainer.max_steps=2"])
    assert code == 0, errors
    yield found
    found.process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs a limit on address space")
@pytest.mark.parametrize("job", ["resume and save", "evaluate"])
def test_a_falling_limit(job: str, limited: Limited) -> None:
    codes = []
    run = limited.folder / "run"
    for steps, room in enumerate([ENOUGH, *ROOMS], start=3):
        arguments = [*limited.train, f"trainer.max_steps={steps}"]
        if job == "evaluate":
            arguments = [f"from={run}", "job=evaluate", "callbacks=none"]
            arguments.append(f"output_dir={limited.folder}/evaluated")
        code, printed = limited.run(room, arguments)
        assert code in (0, 3), (room, code, printed[-2000:])
        if code:
            lines = [line for line in printed.splitlines() if not line.startswith("resume:")]
            assert len(lines) == 1 and lines[0].startswith("error: "), (room, printed[-2000:])
        codes.append(code)
        for checkpoint in published(run).values():
            verify(checkpoint)
    assert codes[0] == 0 and codes[-1] == 3, codes
