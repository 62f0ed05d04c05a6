"""Ranks that wait through the store: for slow ones, but not for lost ones, which are named."""

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from torch.distributed import DistNetworkError, HashStore, PrefixStore, TCPStore

from trainer.devices.waiting import Waiting
from trainer.errors import LostRank
from trainer.launching import rendezvous

Role = Callable[[Waiting], list[bytes]]


def outcomes(
    roles: dict[int, Role], world_size: int, timeout: float, store: TCPStore | None = None
) -> dict[int, list[bytes] | str]:
    """The result of each rank, a thread with its own connection."""
    host = store or rendezvous.open_store("127.0.0.1", 0, 60, "here")
    found: dict[int, list[bytes] | str] = {}

    def take_part(rank: int, role: Role) -> None:
        visitor = rendezvous.connect("127.0.0.1", host.port, 60, "here")
        try:
            found[rank] = role(Waiting(visitor, rank, world_size, timeout))
        except LostRank as error:
            found[rank] = str(error)

    threads = [threading.Thread(target=take_part, args=pair) for pair in roles.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def meets(times: int = 1) -> Role:
    """A rank that sends its name and the number of the exchange."""

    def role(waiting: Waiting) -> list[bytes]:
        for number in range(times):
            found = waiting.gather(f"{waiting.rank}: {number}")
            assert found == [f"{r}: {number}".encode() for r in range(waiting.world_size)]
        return found

    return role


def test_a_rank_at_work_is_waited_for_longer_than_the_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It works until the two others have waited for the timeout twice."""
    check, checked = Waiting._check_heartbeats, []

    def noted(waiting: Waiting, *arguments: Any) -> dict[int, int]:
        found = check(waiting, *arguments)
        checked.append(waiting.rank)
        return found

    def works(waiting: Waiting) -> list[bytes]:
        with waiting.at_work():
            assert rendezvous.wait(lambda: min(map(checked.count, (1, 2))) > 1, 60)
        return meets()(waiting)

    monkeypatch.setattr(Waiting, "_check_heartbeats", noted)
    everybody = [b"0: 0", b"1: 0", b"2: 0"]
    roles = {0: works, 1: meets(), 2: meets()}
    assert outcomes(roles, 3, timeout=2) == dict.fromkeys(roles, everybody)


@pytest.mark.parametrize("last", ["silent", "gone"])
def test_a_rank_that_gives_no_sign_is_lost(last: str) -> None:
    left: list[int] = []

    def loses(waiting: Waiting) -> list[bytes]:
        try:
            return meets()(waiting)
        finally:
            left.append(waiting.rank)

    def arrives_late(waiting: Waiting) -> list[bytes]:
        assert rendezvous.wait(lambda: len(left) == 2, 60)
        return meets()(waiting)

    roles: dict[int, Role] = {0: loses, 1: loses}
    found = outcomes(roles | ({2: arrives_late} if last == "silent" else {}), 3, timeout=2)
    for rank in (0, 1):
        assert found[rank] == (
            f"rank {rank}: another rank has left or does not answer "
            "(no heartbeat from rank 2 for 2 s)"
        )


def test_a_rank_that_is_killed_before_it_is_counted_is_not_waited_for_forever() -> None:
    def killed(waiting: Waiting) -> list[bytes]:
        number = waiting.store.add("meetings of 1", 1)
        waiting.store.set(f"{number} of 1", "1: 0")
        return []

    def goes_on(waiting: Waiting) -> list[bytes]:
        assert rendezvous.wait(lambda: waiting.store.check(["1 of 1"]), 20)  # it is killed then
        found = waiting.gather("0: 0")
        with pytest.raises(LostRank, match="no heartbeat from rank 1 for 1 s"):
            waiting.gather("0: 1")
        return found

    assert outcomes({0: goes_on, 1: killed}, 2, timeout=1)[0] == [b"0: 0", b"1: 0"]


def test_a_store_that_hangs_ends_the_wait() -> None:
    waiting = Waiting(HashStore(), 1, 2, timeout=0.3)
    # as if the process that holds the store was stopped
    waiting.store = SimpleNamespace(add=lambda *_: time.sleep(60))  # type: ignore[assignment]
    with pytest.raises(LostRank, match="the store did not answer for 0.3 s"):
        waiting.gather("here")


def test_signs_of_earlier_work_do_not_count_for_ever() -> None:
    def worked_before(waiting: Waiting) -> list[bytes]:
        with waiting.at_work():
            return meets()(waiting)

    def goes_on(waiting: Waiting) -> list[bytes]:
        meets()(waiting)
        return meets()(waiting)

    found = outcomes({0: goes_on, 1: worked_before}, 2, timeout=1)
    assert str(found[0]).endswith("(no heartbeat from rank 1 for 1 s)")


def test_many_meetings_of_many_objects_leave_no_text_behind() -> None:
    store = rendezvous.open_store("127.0.0.1", 0, 60, "here")
    for _ in range(2):  # the second objects continue the count of the first ones
        found = outcomes({0: meets(50), 1: meets(50)}, 2, 60, store)
        assert found == {0: [b"0: 49", b"1: 49"], 1: [b"0: 49", b"1: 49"]}
    # counters of exchanges and arrivals, and the texts of only the last exchange
    assert store.num_keys() < 10


def test_two_threads_of_a_rank_meet_by_channels_of_their_own() -> None:
    host = rendezvous.open_store("127.0.0.1", 0, 60, "here")
    found: dict[tuple[int, str], list[bytes]] = {}

    def take_part(rank: int, channel: str, waits: float) -> None:
        visitor = rendezvous.connect("127.0.0.1", host.port, 60, "here")
        time.sleep(waits)
        text = f"{rank} {channel}"
        found[rank, channel] = Waiting(visitor, rank, 2, 60, channel).gather(text)

    cases = [(0, "main", 0.0), (0, "saving", 0.2), (1, "main", 0.3), (1, "saving", 0.0)]
    threads = [threading.Thread(target=take_part, args=case) for case in cases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank, channel, _ in cases:
        assert found[rank, channel] == [f"{r} {channel}".encode() for r in (0, 1)]


class StoreOfRank0:
    """A store that ends with rank 0, as soon as the other rank has read an exchange."""

    def __init__(self, store: PrefixStore, exchange: int, answers: bool) -> None:
        self.store, self.last_call, self.answers = store, f"read at {exchange}", answers
        self.is_gone = False

    def __getattr__(self, method: str) -> Callable[..., object]:
        def call(key: str, *arguments: object) -> object:
            if self.is_gone:
                raise DistNetworkError("Connection reset by peer")
            answer = getattr(self.store, method)(key, *arguments)
            self.is_gone = key == self.last_call
            if self.is_gone and not self.answers:
                raise DistNetworkError("Connection reset by peer")
            return answer

        return call


@pytest.mark.parametrize("answers", [True, False])
def test_rank_0_may_end_with_the_store_when_all_have_read_an_exchange(answers: bool) -> None:
    def outlives_the_store(waiting: Waiting) -> list[bytes]:
        store = StoreOfRank0(waiting.store, exchange=2, answers=answers)
        waiting.store = store  # type: ignore[assignment]
        found = meets(2)(waiting)
        assert store.is_gone
        return found

    everybody = [b"0: 1", b"1: 1"]
    assert outcomes({0: meets(2), 1: outlives_the_store}, 2, 60) == {0: everybody, 1: everybody}
