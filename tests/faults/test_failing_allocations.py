"""Allocations that fail: saving, resuming and evaluating end in one line, or go on."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.checkpoint.publish import published
from trainer.checkpoint.verify import verify

CODE = """
import resource, sys
import launch
import trainer.jobs.train, trainer.jobs.evaluate, trainer.trainer  # imported before the limit
import torch, datasets, trainer.checkpoint.tensors
room, arguments = int(sys.argv[1]), sys.argv[2:]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + room, used + room))
sys.exit(launch.main(arguments))
"""
ROOMS = [500, 150, 20]
"""Megabytes that are left when the job begins."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, repository: Path, minilm: Path) -> list[str]:
    """The arguments of a run that has two steps behind it."""
    folder = tmp_path_factory.mktemp("memory")
    rows = "text,label\n" + "".join(f"a {i},{'ab'[i % 2]}\n" for i in range(32))
    (folder / "rows.csv").write_text(rows)
    arguments = [f"model.path={minilm}", f"dataset.train={folder}/rows.csv", "callbacks=none"]
    arguments += [f"output_dir={folder}/run", "trainer.save_steps=1", "trainer.global_batch_size=8"]
    done = limited(repository, 4000, [*arguments, "trainer.max_steps=2"])
    assert done.returncode == 0, done.stderr
    return arguments


def limited(
    repository: Path, megabytes: int, arguments: list[str]
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
    return subprocess.run(
        [sys.executable, "-c", CODE, str(megabytes << 20), *arguments],
        cwd=repository,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs a limit on address space")
@pytest.mark.parametrize("job", ["resume and save", "evaluate"])
def test_a_falling_limit(job: str, run: list[str], repository: Path) -> None:
    codes = set()
    folder = Path(next(a for a in run if a.startswith("output_dir=")).partition("=")[2])
    for steps, room in enumerate(ROOMS, start=3):
        arguments = [*run, f"trainer.max_steps={steps}"]
        if job == "evaluate":
            arguments = [f"from={folder}", "job=evaluate", "callbacks=none"]
            arguments.append(f"output_dir={folder.parent}/evaluated")
        done = limited(repository, room, arguments)
        errors = [line for line in done.stderr.splitlines() if not line.startswith("resume:")]
        assert done.returncode in (0, 2, 3), (room, done.returncode, done.stderr[-2000:])
        if done.returncode:
            assert len(errors) == 1 and errors[0].startswith("error: "), (room, done.stderr[-2000:])
        codes.add(done.returncode)
        for checkpoint in published(folder).values():
            verify(checkpoint)
    assert 3 in codes, codes
