"""A process of our own that is waited for, told what we are told, and does not outlive us."""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence

from trainer.processes.lifeline import PARENT


def run_child(
    command: Sequence[str], variables: Mapping[str, str] | None = None
) -> tuple[int, bool]:
    """Run `command`, handing SIGTERM, SIGUSR1 and SIGINT on to it.

    `variables` are added to its environment. Returns its exit code (128 + n where signal n killed
    it), and whether we were told to stop.
    """
    told: list[int] = []
    environment = {**os.environ, **(variables or {}), PARENT: str(os.getpid())}
    # in a group of its own, where the terminal's Ctrl-C does not reach it a second time
    with subprocess.Popen(command, env=environment, process_group=0) as process:

        def hand_on(number: int, _: object) -> None:
            told.append(number)
            process.send_signal(number)

        watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {number: signal.signal(number, hand_on) for number in watched}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), bool(told)
