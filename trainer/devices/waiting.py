"""Waiting: ranks wait for each other through the store, however long the work takes."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from trainer.errors import LostRank

if TYPE_CHECKING:
    from torch.distributed import Store

HEARTBEATS = 10
"""The number of heartbeats that a rank sends per timeout; if none arrives, the rank is lost."""
SHORTEST, LONGEST = 0.001, 0.01
"""The shortest and longest pause between two queries of the store, in seconds; pauses grow."""
FOR_EACH_RANK = 0.0001
"""Seconds added to the longest pause for each rank, since one process answers all queries."""


class Waiting:
    """Exchanges texts between ranks when all of them have finished some work.

    All ranks make the same calls. With a collective operation, a run would fail if rank 0 writes
    for longer than launch.timeout. This class waits as long as the missing ranks send heartbeats,
    which they do within `at_work`. Two threads of a rank use two channels, each with its own order
    of calls.
    """

    def __init__(
        self, store: "Store", rank: int, world_size: int, timeout: float, channel: str = "main"
    ) -> None:
        from torch.distributed import PrefixStore

        self.store = PrefixStore(f"waiting/{channel}", store)
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout
        """Seconds without a heartbeat after which a rank counts as lost."""
        self._answered = 0.0
        """The time at which the store last answered."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Context manager in which this rank sends heartbeats."""
        with sending_heartbeats(self.store, self._heartbeats(self.rank), self.timeout / HEARTBEATS):
            yield

    def gather(self, text: str) -> list[bytes]:
        """Every rank's text, in rank order, on every rank.

        Raises LostRank for a rank that has not arrived and sends no heartbeat for `timeout`
        seconds, and if the process with the store does not answer for that long.
        """
        answer: Future[list[bytes]] = Future()
        self._answered = time.monotonic()
        # a query never returns if the process with the store is suspended
        query = threading.Thread(
            target=_answer_into, args=(answer, self._exchange, text), daemon=True
        )
        query.start()
        while query.is_alive():
            query.join(self.timeout / HEARTBEATS)
            if query.is_alive() and time.monotonic() - self._answered > self.timeout:
                raise self._lost(f"the store did not answer for {self.timeout:g} s")
        return answer.result()

    def _exchange(self, text: str) -> list[bytes]:
        # the store counts exchanges, since other Waiting objects of this process may have made some
        number = self.store.add(f"meetings of {self.rank}", 1)
        self.store.set(f"{number} of {self.rank}", text)
        self.store.add(f"arrived at {number}", 1)
        self._wait_for_all(number)
        found = [self.store.get(f"{number} of {rank}") for rank in range(self.world_size)]
        self._forget(number - 1)
        if self.rank == 0:  # the store may end with this process, so wait for the others to read it
            self._has_reached(f"read at {number}", self.world_size - 1)
        else:
            self._let_rank_0_go_on(number)
        return found

    def _let_rank_0_go_on(self, number: int) -> None:
        """Signal to rank 0 that this rank needs nothing more from the store in this exchange.

        Rank 0 may then end, and the store with it, even before the store has answered this call.
        """
        with suppress(RuntimeError):  # the next wait reports a store that is gone
            self.store.add(f"read at {number}", 1)

    def _wait_for_all(self, number: int) -> None:
        heartbeats: dict[int, int] = {}
        while not self._has_reached(f"arrived at {number}", self.world_size):
            absent = self._absent(number)
            if not absent:  # a rank was killed after its text was stored, and before it was counted
                return
            heartbeats = self._check_heartbeats(absent, heartbeats)

    def _absent(self, number: int) -> list[int]:
        """The ranks that have not stored their text for an exchange."""
        return [r for r in range(self.world_size) if not self.store.check([f"{number} of {r}"])]

    def _has_reached(self, key: str, count: int) -> bool:
        """Wait until a counter reaches `count`; return False after `timeout` seconds."""
        deadline, pause = time.monotonic() + self.timeout, SHORTEST
        while self.store.add(key, 0) < count:
            self._answered = time.monotonic()
            if self._answered > deadline:
                return False
            time.sleep(pause)
            pause = min(1.2 * pause, LONGEST + FOR_EACH_RANK * self.world_size)
        return True

    def _check_heartbeats(self, absent: list[int], before: dict[int, int]) -> dict[int, int]:
        """The counts of heartbeats of absent ranks. Raises LostRank if one has not grown since
        `before`.

        At the first check `before` is empty, so that a count from earlier work suffices. It may
        therefore take two timeouts to notice a lost rank.
        """
        heartbeats = {rank: self.store.add(self._heartbeats(rank), 0) for rank in absent}
        if lost := [rank for rank in absent if heartbeats[rank] == before.get(rank, 0)]:
            names = ", ".join(f"rank {rank}" for rank in lost)
            raise self._lost(f"no heartbeat from {names} for {self.timeout:g} s")
        return heartbeats

    def _lost(self, reason: str) -> LostRank:
        return LostRank(f"rank {self.rank}: another rank has left or does not answer ({reason})")

    def _forget(self, number: int) -> None:
        """Remove this rank's text of an exchange that all ranks have completed."""
        if number > 0:
            self.store.delete_key(f"{number} of {self.rank}")
            if self.rank == 0:
                self.store.delete_key(f"arrived at {number}")
                self.store.delete_key(f"read at {number}")

    @staticmethod
    def _heartbeats(rank: int) -> str:
        return f"signs of {rank}"


class Counters(Protocol):
    """The methods of a store that heartbeats need."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter and return its new value."""


@contextmanager
def sending_heartbeats(store: Counters, key: str, pause: float) -> Iterator[None]:
    """Context manager: a thread adds 1 to `key` every `pause` seconds."""
    stopped = threading.Event()

    def send() -> None:
        with suppress(RuntimeError):  # the store is gone, which the next wait reports
            store.add(key, 1)
            while not stopped.wait(pause):
                store.add(key, 1)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(1.0)  # a store that hangs must not block this process; the next wait reports it


def _answer_into(
    answer: "Future[list[bytes]]", ask: Callable[[str], list[bytes]], text: str
) -> None:
    try:
        answer.set_result(ask(text))
    except BaseException as error:
        answer.set_exception(error)
