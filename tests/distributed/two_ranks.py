"""Run commands on two ranks each, forked from a process that has imported everything.

    python two_ranks.py CASES.json     {name: [argument, ...]}

Ranks find each other as under torchrun. Prints {name: [exit code of rank 0, of rank 1]}.
"""

import json
import os
import sys
import traceback
from pathlib import Path

import accelerate  # noqa: F401 (imported before the fork: half of a rank's time)
import datasets  # noqa: F401
import torch.distributed

import launch
import trainer.trainer  # noqa: F401
from tests.ports import reserved_port


def main() -> None:
    cases: dict[str, list[str]] = json.loads(Path(sys.argv[1]).read_text())
    print(json.dumps({name: run(arguments) for name, arguments in cases.items()}))


def run(arguments: list[str]) -> list[int]:
    """The exit codes of two ranks of a command."""
    with reserved_port() as port:
        ranks = [fork(rank, port, arguments) for rank in range(2)]
        return [os.waitstatus_to_exitcode(os.waitpid(rank, 0)[1]) for rank in ranks]


def fork(rank: int, port: int, arguments: list[str]) -> int:
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{port}"}
    os.dup2(2, 1)  # only the result is printed
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = ["launch.py", *arguments]
    code = 1
    try:
        launch.command_line()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    assert torch.distributed.is_available()
    main()
