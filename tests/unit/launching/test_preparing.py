"""Machines wait for each other's preparation without a limit, unless one fails."""

import threading
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from torch.distributed import DistNetworkError

from trainer.errors import EnvironmentFault, InputError, LostRank
from trainer.launching import joining, rendezvous
from trainer.launching.place import Place
from trainer.launching.preparing import prepare_together
from trainer.launching.sealed_store import SealedStore
from trainer.launching.team import assemble_team
from trainer.runs.run import LaunchSettings

NAMES = ["rank 0", "rank 2"]
Outcome = bool | Exception


def outcomes(jobs: dict[str, Callable[[], bool]], timeout: float) -> dict[str, Outcome]:
    """The result of each process; one that is not among NAMES prepares nothing."""
    host = rendezvous.open_store("127.0.0.1", 0, 60, "here")
    SealedStore(host).add("failed", 0)  # like the launcher of a machine that is ahead
    found: dict[str, Outcome] = {}

    def take_part(own: str, job: Callable[[], bool]) -> None:
        store = SealedStore(rendezvous.connect("127.0.0.1", host.port, 60, "here"))
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
    time.sleep(5)
    return True


def slow() -> bool:
    time.sleep(1)
    return True


def fails() -> bool:
    raise InputError("a.csv: no such file")


def test_whoever_prepares_may_take_longer_than_the_timeout() -> None:
    jobs = {"rank 0": anything, "rank 1": fails, "rank 2": long}
    assert outcomes(jobs, 2) == dict.fromkeys(jobs, True)
    jobs = {"rank 0": nothing, "rank 1": fails, "rank 2": nothing}
    assert outcomes(jobs, 60) == dict.fromkeys(jobs, False)


def test_one_that_cannot_prepare_is_no_cause_for_the_others() -> None:
    found = outcomes({"rank 0": anything, "rank 1": anything, "rank 2": fails}, 60)
    assert str(found.pop("rank 2")) == "a.csv: no such file"
    for error in found.values():
        assert isinstance(error, LostRank)
        assert str(error) == "launch: rank 2 could not prepare the data"


def test_one_that_is_gone_is_not_waited_for() -> None:
    found = outcomes({"rank 0": anything, "rank 1": anything}, 2)
    said = "launch: no heartbeat from rank 2 for 2 s while the data were prepared"
    assert [str(error) for error in found.values()] == [said, said]
    assert all(isinstance(error, LostRank) for error in found.values())


def test_a_run_that_only_some_see_finished_is_refused() -> None:
    found = outcomes({"rank 0": nothing, "rank 2": anything}, 60)
    for error in found.values():
        assert isinstance(error, InputError)
        assert "rank 0 found a finished run in it, but rank 2 found none" in str(error)


def test_a_machine_alone_prepares_and_waits_for_nobody() -> None:
    team = assemble_team(LaunchSettings(timeout=60), 2)
    assert team.prepare(slow, 0.1) and not team.prepare(nothing, 0.1)
    with pytest.raises(InputError, match=r"a\.csv"):
        team.prepare(fails, 0.1)


def test_one_that_fails_after_the_store_is_gone_says_why() -> None:
    def gone(*_: object) -> None:
        raise DistNetworkError("Connection reset by peer")

    store = SealedStore(SimpleNamespace(add=gone, set=gone), "")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"a\.csv: no such file"):
        prepare_together(store, NAMES, "rank 2", fails, 5)


def test_the_rank_with_the_store_ends_after_the_others_have_read_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host = rendezvous.open_store("127.0.0.1", 0, 60, "here")
    read, have_read = SealedStore.multi_get, []

    def take_long(store: SealedStore, keys: Sequence[str]) -> list[bytes]:
        found = read(store, keys)
        if threading.current_thread().name == "1":
            time.sleep(0.5)
            have_read.append(1)
        return found

    def take_part(rank: int, job: Callable[[], bool]) -> None:
        place = Place(rank, 2, 0, "127.0.0.1", host.port)
        with pytest.raises(InputError, match="rank 0 found a finished run in it"):
            joining._prepare(SealedStore(host, ""), place, ["rank 0", "rank 1"], job, 60)
        have_read.append(rank)

    monkeypatch.setattr(SealedStore, "multi_get", take_long)
    monkeypatch.setattr(joining, "PATIENCE", 60.0)
    threads = [
        threading.Thread(target=take_part, args=(rank, job), name=str(rank))
        for rank, job in enumerate([nothing, anything])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert have_read[0] == 1 and sorted(have_read) == [0, 1, 1]
