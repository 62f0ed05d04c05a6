"""Ctrl-C before a run has anything to save: one line, no traceback, and exit code 130."""

import sys
import time

import launch
from tests.screens import on_terminal
from trainer.launching.early_signals import leave_unsaved
from trainer.terminal import activity


def test_while_the_program_is_imported():
    screen = on_terminal([__file__, "importing"], until={"importing": 1})
    assert screen.code == 130
    assert screen.lines == ["importing", "stopped by SIGINT: not saved"]


def test_while_the_config_is_read():
    screen = on_terminal([__file__, "reading"], until={"tempering: reading the config": 1})
    assert (screen.code, screen.lines) == (130, ["interrupted"])


def test_as_the_program_begins(monkeypatch, capsys, alone):
    """When the first text is shown, the interrupt may come before the config is read."""

    def interrupted(text, progress=""):
        raise KeyboardInterrupt

    monkeypatch.setattr(activity, "doing", interrupted)
    assert launch.main([]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def wait(*_):
    time.sleep(600)


if __name__ == "__main__":
    leave_unsaved()
    if "importing" in sys.argv:
        print("importing", flush=True)
        wait()
    launch.compose_run = wait
    sys.exit(launch.main([]))
