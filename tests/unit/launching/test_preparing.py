"""Machines wait for each other's preparation without a limit, unless one fails."""

import threading
import time
from collections.abc import Callable

import pytest

from trainer.errors import EnvironmentFault, InputError, LostRank
from trainer.launching import rendezvous
from trainer.launching.preparing import prepare_together
from trainer.launching.sealed_store import SealedStore
from trainer.launching.team import assemble_team
from trainer.runs.run import LaunchSettings

NAMES = ["rank 0", "rank 2"]
Outcome = bool | Exception


def outcomes(jobs: dict[str, Callable[[], bool]], timeout: float) -> dict[str, Outcome]:
    """The result of each process; one that is not among NAMES prepares nothing."""
    host = rendezvous.open_store("127.0.0.1", 0, 5, "here")
    SealedStore(host).add("failed", 0)  # like the launcher of a machine that is ahead
    found: dict[str, Outcome] = {}

    def take_part(own: str, job: Callable[[], bool]) -> None:
        store = SealedStore(rendezvous.connect("127.0.0.1", host.port, 5, "here"))
        try:
            found[own] = prepare_together(store, NAMES, own, job, timeout)
        except (InputError, EnvironmentFault) as error:
            found[own] = error

    threads = [threading.Thread(target=take_part, args=pair) for pair in jobs.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def anything() -> bool:
    return True


def nothing() -> bool:
    return False


def long() -> bool:
    time.sleep(2)
    return True


def fails() -> bool:
    raise InputError("a.csv: no such file")


def test_whoever_prepares_may_take_longer_than_the_timeout() -> None:
    jobs = {"rank 0": anything, "rank 1": fails, "rank 2": long}
    assert outcomes(jobs, 0.5) == dict.fromkeys(jobs, True)
    jobs = {"rank 0": nothing, "rank 1": fails, "rank 2": nothing}
    assert outcomes(jobs, 5) == dict.fromkeys(jobs, False)


def test_one_that_cannot_prepare_is_no_cause_for_the_others() -> None:
    found = outcomes({"rank 0": anything, "rank 1": anything, "rank 2": fails}, 5)
    assert str(found.pop("rank 2")) == "a.csv: no such file"
    for error in found.values():
        assert isinstance(error, LostRank)
        assert str(error) == "launch: rank 2 could not prepare the data"


def test_one_that_is_gone_is_not_waited_for() -> None:
    found = outcomes({"rank 0": anything, "rank 1": anything}, 0.3)
    said = "launch: no heartbeat from rank 2 for 0.3 s while the data were prepared"
    assert [str(error) for error in found.values()] == [said, said]
    assert all(isinstance(error, LostRank) for error in found.values())


def test_a_run_that_only_some_see_finished_is_refused() -> None:
    found = outcomes({"rank 0": nothing, "rank 2": anything}, 5)
    for error in found.values():
        assert isinstance(error, InputError)
        assert "rank 0 found a finished run in it, but rank 2 found none" in str(error)


def test_a_machine_alone_prepares_and_waits_for_nobody() -> None:
    team = assemble_team(LaunchSettings(timeout=5), 2)
    assert team.prepare(long, 0.1) and not team.prepare(nothing, 0.1)
    with pytest.raises(InputError, match=r"a\.csv"):
        team.prepare(fails, 0.1)
