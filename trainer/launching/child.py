"""A process of our own that is waited for, and told what we are told."""

import signal
import subprocess
from collections.abc import Sequence


def run_child(command: Sequence[str]) -> tuple[int, bool]:
    """Run `command`, handing SIGTERM and SIGUSR1 on to it.

    Returns its exit code (128 + n where signal n killed it), and whether we were told to stop.
    """
    told: list[int] = []
    with subprocess.Popen(command) as process:

        def hand_on(number: int, _: object) -> None:
            told.append(number)
            if number != signal.SIGINT:  # the terminal sends that one to both of us
                process.send_signal(number)

        watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        before = {number: signal.signal(number, hand_on) for number in watched}
        try:
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    return (code if code >= 0 else 128 - code), bool(told)
