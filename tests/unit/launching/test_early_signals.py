"""Ctrl-C before a run has anything to save: one line, no traceback, and exit code 130."""

import os
import signal
import subprocess
import sys
import threading
import time

import launch
from tests.screens import on_terminal
from trainer.launching import early_signals
from trainer.launching.early_signals import leave_unsaved
from trainer.terminal import activity
from trainer.training.interruption import Interruption


def test_while_the_program_is_imported():
    """Ctrl-C is typed, and echoed, in the second line, which the terminal gives after the first."""
    screen = on_terminal([__file__, "importing"], until={"\n.": 1})
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


def test_a_signal_that_a_run_has_handled_does_not_end_the_process_later(repository):
    """However long it takes to end, nothing says that the run was not saved."""
    command, environment = [sys.executable, __file__, "saving"], {**os.environ}
    environment["PYTHONPATH"] = str(repository)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "SIGTERM\n", "")


def wait(*_):
    time.sleep(600)


if __name__ == "__main__":
    leave_unsaved()
    if "importing" in sys.argv:
        print("importing\n.", end="", flush=True)
        wait()
    if "saving" in sys.argv:
        seen, usual = threading.Event(), early_signals._ends_process
        early_signals._ends_process = lambda number: (usual(number), seen.set())[0]
        early_signals.PATIENCE = 600
        with Interruption() as interruption:
            os.kill(os.getpid(), signal.SIGTERM)
            assert seen.wait(60)  # the thread decides before its patience ends, and not only then
        sys.exit(print(interruption.signal.name))
    launch.compose_run = wait
    sys.exit(launch.main([]))
