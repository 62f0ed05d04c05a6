"""Activity: a line that is redrawn on a terminal, lines in the log of a long job, else nothing."""

import io
import os
import subprocess
import sys
import time

import pytest

from tests.screens import ROOT, on_terminal
from trainer.terminal import activity

WRITTEN = []
"""What activities have written in this process."""


def work(title):
    """Two activities with a warning between them, and a result."""
    activity.SHOW_TIME_AFTER, activity.PRINT_AFTER = 1e6, 0.02
    activity._Line._write = noted(activity._Line._write)
    activity._Log._print = noted(activity._Log._print)
    activity.begin(title)
    activity.doing("reading the data")
    until_written("data")
    print("a warning", file=sys.stderr)
    activity.doing("reading the data", "1,000 of 2,000 rows")
    if isinstance(activity._display, activity._Line):
        until_written("rows")
    activity.doing("loading a-model-with-a-long-name/and-a-long-folder-of-its-own")
    until_written("a-model")
    activity.PRINT_AFTER = 60
    activity.doing("an instant")
    timer = getattr(activity._display, "timer", None)
    if title == "fail":
        raise SystemExit("failed")
    activity.done()
    if timer is not None:
        timer.join()  # at once, unless it is still going to print
    print("the result")


def noted(write):
    """The function that writes a text, which is noted afterwards."""

    def call(display, text):
        write(display, text)
        WRITTEN.append(text)

    return call


def until_written(words):
    """Wait for the thread that draws the line or prints the activity."""
    while activity.is_shown() and words not in "".join(WRITTEN):
        time.sleep(0.01)


@pytest.mark.parametrize("columns", [80, 40])
def test_the_line_makes_room_for_what_is_printed_and_is_gone_at_the_end(columns):
    screen = on_terminal([__file__, "train"], columns, until={"a-model": 0})
    assert screen.lines == ["a warning", "the result"] and screen.code == 0
    start = "train: reading the data" if columns == 80 else "train: readin..."
    assert f"{start}, 1,000 of 2,000 rows" in screen.raw
    warning, line = screen.snapshots["a-model"]
    assert warning == "a warning" and len(line) < columns
    assert line.endswith("...") == (columns == 40) and "train: loading a-model" in line
    assert not screen.cursor_hidden and "\x1b[?25l" not in screen.raw


def test_the_line_is_gone_after_an_error():
    assert on_terminal([__file__, "fail"]).lines == ["a warning", "failed"]


class InterruptedOnce(io.StringIO):
    """A terminal on which Ctrl-C is typed as soon as it shows a text."""

    shown = ""

    def write(self, text):
        super().write(text)
        if text != activity.ERASE and not self.shown:
            self.shown = text
            raise KeyboardInterrupt
        return len(text)


def test_the_line_is_gone_after_ctrl_c_while_it_is_drawn(monkeypatch):
    terminal = InterruptedOnce()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(activity, "can_redraw", lambda stream: stream is terminal)
    monkeypatch.setattr(activity, "REDRAW_SECONDS", 600)
    with pytest.raises(KeyboardInterrupt), activity.of_command():
        pass
    activity.done()
    assert "reading the config" in terminal.shown
    assert terminal.getvalue() == terminal.shown + activity.ERASE


@pytest.mark.parametrize("variables", [{"TERM": "dumb"}, {"CI": "true"}])
def test_nothing_is_redrawn_where_lines_stay(variables):
    screen = on_terminal([__file__, "train"], environment=variables)
    assert screen.lines == [
        "train: reading the data",
        "a warning",
        "train: loading a-model-with-a-long-name/and-a-long-folder-of-its-own",
        "the result",
    ]
    assert "\x1b" not in screen.raw and screen.raw.count("\r") == screen.raw.count("\r\n")


def test_a_command_that_prints_data_prints_nothing_else_without_a_terminal():
    done = subprocess.run(
        [sys.executable, __file__, "predict"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (done.stdout, done.stderr) == ("the result\n", "a warning\n")


def test_only_the_first_rank_prints():
    screen = on_terminal([__file__, "train"], environment={"RANK": "1"})
    assert screen.lines == ["a warning", "the result"] and "train" not in screen.raw


def test_data_in_a_pipe_is_untouched_while_the_line_is_on_the_terminal(tmp_path):
    with open(tmp_path / "data", "wb") as file:
        screen = on_terminal([__file__, "predict"], stdout=file.fileno())
    assert (tmp_path / "data").read_text() == "the result\n"
    assert screen.lines == ["a warning"] and "predict: reading the data" in screen.raw


if __name__ == "__main__":
    work(sys.argv[1])
