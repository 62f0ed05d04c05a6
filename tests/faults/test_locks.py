"""Real processes compete for the same folder; a dead one's lock does not block others."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.checkpoint import files, lock
from trainer.checkpoint.lock import RunLock
from trainer.errors import EnvironmentFault


def start(work: Callable[[], int]) -> int:
    """Run work in a child whose exit code it returns."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return child


def code_of(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def ended(children: list[int]) -> int:
    """The exit code of the first of these children to end, which is taken from the list.

    This process may have other children, which earlier tests have started.
    """
    while True:
        for child in children:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                children.remove(child)
                return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def hold(folder: Path) -> int:
    """A child that holds the lock until it is killed."""

    def work() -> int:
        with RunLock(folder):
            (folder / "held").touch()
            time.sleep(3600)
        return 0

    child = start(work)
    until((folder / "held").exists)
    (folder / "held").unlink()
    return child


def test_the_second_is_told_who_holds_it_and_takes_over_from_the_dead(folder, tree):
    for death in (signal.SIGKILL, signal.SIGTERM):
        child = hold(folder)
        before = tree(folder)
        told = rf"in use by pid {child} on {socket.gethostname()} since 2\d\d\d-\d\d-\d\d \d\d:"
        with pytest.raises(EnvironmentFault, match=told), RunLock(folder):
            pass
        assert tree(folder) == before
        os.kill(child, death)
        os.waitpid(child, 0)
        assert (folder / ".lock").exists()  # left by the dead process
        with RunLock(folder):
            assert str(os.getpid()) in (folder / ".lock").read_text()


def test_a_stopped_holder_still_holds(folder):
    child = hold(folder)
    os.kill(child, signal.SIGSTOP)
    with pytest.raises(EnvironmentFault, match=f"pid {child} "), RunLock(folder):
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def test_an_orderly_end_leaves_no_trace(folder, tree):
    (folder / "results.json").write_text("{}")
    before = tree(folder)
    with RunLock(folder):
        assert tree(folder) != before
    assert tree(folder) == before
    with pytest.raises(KeyError), RunLock(folder):
        raise KeyError
    assert tree(folder) == before


def test_twice_in_one_process(folder):
    with (
        RunLock(folder),
        pytest.raises(EnvironmentFault, match=f"pid {os.getpid()} "),
        RunLock(folder),
    ):
        pass


def test_the_holder_leaves_just_as_the_next_one_opens_the_file(folder):
    """The next process has then locked a deleted file, which would exclude nobody."""
    first = RunLock(folder)
    first.__enter__()
    opened: list[str] = []

    def hook(moment: str, operation: str, *_: Path) -> None:
        if (moment, operation) == ("after", "lock") and not opened:
            opened.append(operation)
            first.__exit__()

    files.hook = hook
    with RunLock(folder):
        assert opened
        with pytest.raises(EnvironmentFault, match=f"pid {os.getpid()} "), RunLock(folder):
            pass
    assert list(folder.iterdir()) == []


def test_races(folder):
    """Of six competing processes, two never hold the lock at a time, and each gets it."""
    inside = folder / "inside"

    def work() -> int:
        entered = 0
        while entered < 20:
            try:
                with RunLock(folder / "run"):
                    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if one is inside
                    inside.unlink()
                    entered += 1
            except EnvironmentFault:
                time.sleep(0.001)
        return 0

    children = [start(work) for _ in range(6)]
    assert [code_of(child) for child in children] == [0] * 6


def test_of_many_at_once_one_gets_in_and_the_others_name_it(folder, monkeypatch):
    """20 starts by four processes: one holds the lock and exits with 0, the others with 3."""
    monkeypatch.setattr(lock, "ATTEMPTS", 1200)  # until the holder has written its name
    for number in range(20):
        run = folder / f"run-{number}"
        done = folder / f"done-{number}"

        def work(run: Path = run, done: Path = done) -> int:
            try:
                with RunLock(run):
                    until(done.exists)
                    return 0
            except EnvironmentFault as fault:
                return fault.exit_code if "in use by pid" in str(fault) else 98

        children = [start(work) for _ in range(4)]
        losers = [ended(children) for _ in range(3)]
        done.touch()
        assert losers == [3, 3, 3]
        assert [code_of(winner) for winner in children] == [0]


def test_a_folder_that_cannot_be_made(folder):
    (folder / "file").write_text("")
    with pytest.raises(EnvironmentFault, match="cannot make folder"), RunLock(folder / "file"):
        pass
