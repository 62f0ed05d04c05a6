"""Signals and the time limit: recorded once, handlers restored; a second SIGINT exits."""

import os
import signal
import sys

import pytest

from trainer.training.interruption import Interruption


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 143)]
)
def test_a_signal_is_remembered_and_the_handler_given_back(number: int, code: int) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.code == 0
        os.kill(os.getpid(), number)
        assert interruption.code == code
        error = interruption.error(code, "runs/a/checkpoint-7")
    assert signal.getsignal(number) is before
    assert error.exit_code == code
    name = signal.Signals(number).name
    words = f"stopped by {name}: saved runs/a/checkpoint-7; the same command continues from it"
    assert str(error) == words


def test_the_first_signal_decides() -> None:
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.code == 143
    assert "SIGTERM: not saved" in str(interruption.error(143, None))


def test_a_second_interrupt_leaves_at_once() -> None:
    child = os.fork()
    if child == 0:
        with Interruption():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            sys.stdin.read()  # pragma: no cover
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130


def test_the_time_limit() -> None:
    with Interruption(time_limit=1e-9) as interruption:
        assert interruption.code == 143
        assert "the time limit" in str(interruption.error(143, None))
    with Interruption(time_limit=60.0) as interruption:
        assert interruption.code == 0
