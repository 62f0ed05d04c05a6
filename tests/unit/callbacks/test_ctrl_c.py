"""Ctrl-C while a bar is on the terminal: once saves, twice leaves at once; the cursor is back."""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.screens import on_terminal
from trainer.callbacks.callback import Callback
from trainer.callbacks.progress import Progress
from trainer.launching.error_exit import exit_code_of
from trainer.terminal.console import plain_logs

pytestmark = pytest.mark.slow
STOPPING = "stopping after this step; a second Ctrl-C stops at once, without saving"


@dataclass
class Slow(Callback):
    """Ends the third step, in which the bar is drawn, once this many Ctrl-C have arrived."""

    progress: Progress
    number: int

    def on_step_end(self, step: int, total_steps: int) -> None:
        if step == 3:
            assert self.progress._bar is not None
            self.progress._bar.refresh()
            interruption = signal.getsignal(signal.SIGINT).__self__  # type: ignore[union-attr]
            began = time.monotonic()
            while interruption.interrupts < self.number and time.monotonic() < began + 300:
                time.sleep(0.01)


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


def fit() -> int:
    """A run of nine steps, as a command runs it."""
    from tests.unit.test_trainer import trainer

    run = trainer(Path("run"))
    shown = run.callbacks[0]
    assert isinstance(shown, Progress)
    run.add_callback(Slow(shown, int(sys.argv[1])))
    run.fit()
    return 0


if __name__ == "__main__":
    plain_logs()
    sys.exit(exit_code_of(fit))
