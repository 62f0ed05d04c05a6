"""Forks the ranks of every case of `test_lost_ranks.py` from one process, and prints results."""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.distributed.stopping import build
from tests.ports import reserved_port
from tests.unit.test_exactness import tiny_model
from trainer.checkpoint import files
from trainer.metrics.classification import Accuracy

SIGNALS = {"killed": signal.SIGKILL, "stopped": signal.SIGSTOP}
TIMEOUT = 8.0
"""Seconds that a rank waits for another."""
PATIENCE = 180.0
"""Seconds after which a rank that should have ended counts as hanging."""
SETTINGS = {"save_steps": 2, "logging_steps": 1, "num_epochs": 2}


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    Accuracy().prepare()
    tiny_model()  # the children find everything imported
    together(folder / "whole", "whole", [train, train])
    for what, number in SIGNALS.items():
        for moment in ("forward", "backward", "fill"):
            for lost in (0, 1):
                name = f"{what} in {moment}, rank {lost}"
                run = folder / name
                roles = [train, train]
                roles[lost] = partial(lose, moment=moment, number=number)
                found[name] = together(run, name, roles)
                found[name]["checkpoints"] = sorted(p.name for p in run.glob("checkpoint-*"))
                kill_the_stopped()
                found[name]["resumed"] = together(run, name + " resumed", [train, train])
    found["a rank that cannot write"] = together(
        folder / "full", "full", [train_with_a_full_disk, train]
    )
    always = ("metrics.jsonl", "facts.json", "report.html")
    left = [path.name for path in (folder / "full").iterdir() if path.name not in always]
    found["a rank that cannot write"]["left"] = sorted(left)
    together(folder / "full", "full resumed", [train, train])
    slow = folder / "slow"
    found["a slow disk"] = together(slow, "slow", [train_on_a_slow_disk, train])
    print(json.dumps(found))


def train(run: Path) -> None:
    build(run, timeout=TIMEOUT, **SETTINGS).fit()


def lose(run: Path, moment: str, number: int) -> None:
    """Train as a rank that gets a signal at some point in step 4."""
    trainer = build(run, timeout=TIMEOUT, **SETTINGS)

    def hit() -> None:
        trainer.checkpoints.background.wait()  # the checkpoint of step 2
        os.kill(os.getpid(), number)

    trainer.stop(moment, 4, hit).fit()


def train_on_a_slow_disk(run: Path) -> None:
    """A checkpoint of rank 0 takes longer than the timeout between ranks; the next one waits for
    it."""

    def hook(moment: str, operation: str, *paths: Path) -> None:
        if (moment, operation) == ("before", "write") and paths[-1].name == "manifest.json":
            time.sleep(2.5 * TIMEOUT * ("checkpoint-4" in str(paths[-1])))

    files.hook = hook
    build(run, timeout=TIMEOUT, **SETTINGS).fit()


def train_with_a_full_disk(run: Path) -> None:
    """From step 4 on, a limit on file size allows only metrics.jsonl."""

    def fill_disk() -> None:
        trainer.checkpoints.background.wait()  # the checkpoint of step 2
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    trainer = build(run, timeout=TIMEOUT, **SETTINGS)
    trainer.stop("forward", 4, fill_disk).fit()


def together(run: Path, name: str, roles: list[Callable[[Path], None]]) -> dict[str, Any]:
    """Fork a process for each role; returns exit codes (negative: a signal) and outputs."""
    said = [run.with_name(f"{name} {rank}.txt") for rank in range(len(roles))]
    children = []
    with reserved_port() as port:
        for rank, role in enumerate(roles):
            child = os.fork()
            if child == 0:
                become(rank, len(roles), port, said[rank])
                play(role, run)
            children.append(child)
        codes = [code_of(child) for child in children]
    return {"codes": codes, "said": [path.read_text() for path in said]}


def become(rank: int, world_size: int, port: int, said: Path) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)


def play(role: Callable[[Path], None], run: Path) -> None:
    """As launch.py does: print one line, and exit with the error's code."""
    code = 0
    try:
        role(run)
    except Exception as error:
        print(error, file=sys.stderr, flush=True)
        code = getattr(error, "exit_code", 1)
    os._exit(code)


def code_of(child: int) -> int | str:
    """How a child ended. A stopped child is killed; a hanging one is reported as such."""
    for _ in range(int(PATIENCE / 0.05)):
        pid, status = os.waitpid(child, os.WNOHANG | os.WUNTRACED)
        if pid and not os.WIFSTOPPED(status):
            return os.waitstatus_to_exitcode(status)
        if pid:
            STOPPED.append(child)
            return "stopped"
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hung"


STOPPED: list[int] = []
"""Children that hang until the others have ended."""


def kill_the_stopped() -> None:
    while STOPPED:
        child = STOPPED.pop()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    finally:
        kill_the_stopped()
