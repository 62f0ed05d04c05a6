"""Child: runs a child process, forwards signals to it and waits until it exits."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from trainer.launching.parent_process import PARENT

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
INTERVAL = 0.5
"""The number of seconds between checks of whether the child has exited or must be stopped."""


def run_child(
    command: Sequence[str],
    variables: Mapping[str, str] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[int, bool]:
    """Run `command`, and forward SIGTERM, SIGUSR1 and SIGINT to it.

    `variables` are added to the child's environment. Once `should_stop` returns true, the child
    receives SIGTERM. Returns the child's exit code (128 + n if signal n killed it), and whether
    this process received one of the three signals.
    """
    environment = {**os.environ, **(variables or {}), PARENT: str(os.getpid())}
    # in its own process group, so that the terminal does not send Ctrl-C to the child as well
    with (
        _forwarding() as signals,
        subprocess.Popen(command, env=environment, process_group=0) as process,
    ):
        signals.forward_to(process)
        code = _end_of(process, should_stop)
    return (code if code >= 0 else 128 - code), bool(signals.received)


def _end_of(process: subprocess.Popen[bytes], should_stop: Callable[[], bool] | None) -> int:
    while should_stop is not None:
        try:
            return process.wait(INTERVAL)
        except subprocess.TimeoutExpired:
            if should_stop():
                process.terminate()
                break
    return process.wait()


class _Signals:
    """The signals that this process has received, which a child receives too once it exists."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self._early: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def receive(self, number: int, _: object) -> None:
        """The signal handler."""
        self.received.append(number)
        if self._process is None:
            self._early.append(number)
        else:
            self._process.send_signal(number)

    def forward_to(self, process: subprocess.Popen[bytes]) -> None:
        """Send the signals that came before, and from now on each one at once."""
        self._process = process
        for number in self._early:
            process.send_signal(number)


@contextmanager
def _forwarding() -> Iterator[_Signals]:
    """A context that collects signals, also those that arrive while the child is being started.

    Only the main thread can set signal handlers, so in another thread nothing is forwarded.
    """
    signals = _Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals.receive) for number in FORWARDED}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
