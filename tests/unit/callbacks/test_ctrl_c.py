"""Ctrl-C while a bar is on the terminal: once saves, twice leaves at once; the cursor is back."""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.screens import on_terminal
from trainer.callbacks.callback import Callback
from trainer.callbacks.progress import Progress
from trainer.launching.error_exit import exit_code_of
from trainer.terminal.console import plain_logs
from trainer.training.interruption import STOPPING

pytestmark = pytest.mark.slow


@dataclass
class Slow(Callback):
    """The third step lasts until `number` Ctrl-C have arrived, which are typed when it is shown."""

    progress: Progress
    number: int

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == 3:
            assert self.progress._bar is not None
            self.progress._bar.refresh()
            record: Any = signal.getsignal(signal.SIGINT)
            while record.__self__.interrupts < self.number:
                time.sleep(0.05)


def test_one_saves_and_says_so_above_the_bar(tmp_path: Path) -> None:
    screen = on_terminal([__file__, "1"], cwd=tmp_path, until={"3/9": 1})
    end = "stopped by SIGINT: saved run/checkpoint-3; the same command continues from it"
    assert STOPPING in screen.lines and screen.lines[-1] == end
    assert screen.code == 130 and not screen.cursor_hidden
    assert "3/9" not in screen.text  # the bar is gone
    assert (tmp_path / "run/checkpoint-3/manifest.json").is_file()


def test_two_leave_at_once_with_a_cursor(tmp_path: Path) -> None:
    screen = on_terminal([__file__, "2"], cwd=tmp_path, until={"3/9": 1, STOPPING: 1})
    assert screen.code == 130 and not screen.cursor_hidden and "saved" not in screen.text
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert "3/9" not in screen.text


def fit(number: int) -> int:
    """A run of nine steps, as a command runs it."""
    from tests.unit.test_trainer import trainer

    run = trainer(Path("run"))
    shown = run.callbacks[0]
    assert isinstance(shown, Progress)
    run.add_callback(Slow(shown, number))
    run.fit()
    return 0


if __name__ == "__main__":
    plain_logs()
    sys.exit(exit_code_of(lambda: fit(int(sys.argv[1]))))
