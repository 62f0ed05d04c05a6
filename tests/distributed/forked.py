"""Forks ranks from one process that has imported their modules, since imports take seconds.

`python -m tests.distributed.forked MODULE FOLDER 1 2 4` calls `main(FOLDER)` of a module of this
package on one rank, then on two, then on four. test_launcher.py and test_commands.py start ranks
with torchrun and our own launcher.
"""

import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from tests.ports import reserved_port

ROOT = Path(__file__).parents[2]


def run_ranks(module: str, folder: Path, world_sizes: Sequence[int], timeout: float) -> str:
    """Run the `main` of a module of this folder on each number of ranks; returns standard error."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, module, str(folder), *map(str, world_sizes)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def main(module: str, folder: str, *world_sizes: str) -> None:
    work = import_module(f"tests.distributed.{module}").main
    for size in map(int, world_sizes):
        with reserved_port() as port:
            ranks = [_start(rank, size, port, work, Path(folder)) for rank in range(size)]
            if not _all_end_well(ranks):
                sys.exit(1)


def _start(
    rank: int, world_size: int, port: int, work: Callable[[Path], None], folder: Path
) -> int:
    child = os.fork()
    if child:
        return child
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size}
    places |= {"LOCAL_WORLD_SIZE": world_size, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in places.items()})
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    code = 1
    try:
        work(folder)
        code = 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # gloo's threads may abort an orderly exit


def _all_end_well(ranks: list[int]) -> bool:
    """Wait for the ranks; the others are killed when one fails."""
    left = set(ranks)
    while left:
        child, status = os.wait()
        left.discard(child)
        if os.waitstatus_to_exitcode(status) != 0:
            for other in left:
                os.kill(other, signal.SIGKILL)
            return False
    return True


if __name__ == "__main__":
    main(*sys.argv[1:])
