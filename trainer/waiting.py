"""Waiting: ranks that wait for each other's work, however long it takes, through the store."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from trainer.errors import LostRank

if TYPE_CHECKING:
    from torch.distributed import Store

SIGNS = 10
"""Signs of life within the time after which a rank that gives none is taken for lost."""
SHORTEST, LONGEST = 0.001, 0.01
"""Seconds between two looks at the store; each pause is longer than the one before it."""
FOR_EACH_RANK = 0.0001
"""Seconds more for each rank, since one process answers all of them."""


class Waiting:
    """Ranks that exchange texts once all have done some work. Every rank makes the same calls.

    A collective would end a run whose rank 0 writes for longer than launch.timeout. Here a wait
    lasts as long as the ranks that it waits for give signs of life, which they do within `at_work`.
    The ranks meet by `channel`: two threads of a rank use two, each in an order of its own.
    """

    def __init__(
        self, store: "Store", rank: int, world_size: int, timeout: float, channel: str = "main"
    ) -> None:
        from torch.distributed import PrefixStore

        self.store = PrefixStore(f"waiting/{channel}", store)
        self.rank = rank
        self.world_size = world_size
        self.timeout = timeout
        """Seconds without a sign of life after which a rank is lost."""
        self._answered = 0.0
        """When the store has last answered."""

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within it this rank gives signs of life."""
        with signs_of_life(self.store, self._signs(self.rank), self.timeout / SIGNS):
            yield

    def gather(self, text: str) -> list[bytes]:
        """Every rank's text, in rank order, on every rank.

        Raises LostRank where a rank has not come and gives no sign of life for `timeout` seconds,
        or the process that holds the store does not answer for so long.
        """
        answer: Future[list[bytes]] = Future()
        self._answered = time.monotonic()
        # a question to a process that was stopped in its tracks never ends
        asking = threading.Thread(target=_run_into, args=(answer, self._meet, text), daemon=True)
        asking.start()
        while asking.is_alive():
            asking.join(self.timeout / SIGNS)
            if asking.is_alive() and time.monotonic() - self._answered > self.timeout:
                raise self._lost(f"the store did not answer for {self.timeout:g} s")
        return answer.result()

    def _meet(self, text: str) -> list[bytes]:
        # the store counts the meetings: other objects of this process may have held some
        number = self.store.add(f"meetings of {self.rank}", 1)
        self.store.set(f"{number} of {self.rank}", text)
        self.store.add(f"arrived at {number}", 1)
        self._wait_for_all(number)
        found = [self.store.get(f"{number} of {rank}") for rank in range(self.world_size)]
        if self.rank == 0:  # the store may end with this process: the others are to have read
            self._looked_until(f"read at {number}", self.world_size - 1)
        else:
            self.store.add(f"read at {number}", 1)
        self._forget(number - 1)
        return found

    def _wait_for_all(self, number: int) -> None:
        signs: dict[int, int] = {}
        while not self._looked_until(f"arrived at {number}", self.world_size):
            signs = self._check_signs(number, signs)

    def _looked_until(self, key: str, count: int) -> bool:
        """Look until a counter has come to `count`, or for `timeout` seconds; says which."""
        deadline, pause = time.monotonic() + self.timeout, SHORTEST
        while self.store.add(key, 0) < count:
            self._answered = time.monotonic()
            if self._answered > deadline:
                return False
            time.sleep(pause)
            pause = min(1.2 * pause, LONGEST + FOR_EACH_RANK * self.world_size)
        return True

    def _check_signs(self, number: int, before: dict[int, int]) -> dict[int, int]:
        """The signs of the ranks that have not come; refuses those that gave none since `before`.

        At the end of a first wait any sign counts as one: it may be from earlier work, so that a
        rank that is lost may be waited for twice as long.
        """
        absent = [r for r in range(self.world_size) if not self.store.check([f"{number} of {r}"])]
        signs = {rank: self.store.add(self._signs(rank), 0) for rank in absent}
        if lost := [rank for rank in absent if signs[rank] == before.get(rank, 0)]:
            names = ", ".join(f"rank {rank}" for rank in lost)
            raise self._lost(f"nothing was heard of {names} for {self.timeout:g} s")
        return signs

    def _lost(self, reason: str) -> LostRank:
        return LostRank(f"rank {self.rank}: another rank has left or does not answer ({reason})")

    def _forget(self, number: int) -> None:
        """Remove this rank's text of a meeting that all have left: they came to the next one."""
        if number > 0:
            self.store.delete_key(f"{number} of {self.rank}")
            if self.rank == 0:
                self.store.delete_key(f"arrived at {number}")
                self.store.delete_key(f"read at {number}")

    @staticmethod
    def _signs(rank: int) -> str:
        return f"signs of {rank}"


class Counters(Protocol):
    """A store, as far as signs of life need it."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter; returns what it is then."""


@contextmanager
def signs_of_life(store: Counters, key: str, pause: float) -> Iterator[None]:
    """Within it, a thread adds 1 to `key` every `pause` seconds."""
    over = threading.Event()

    def say() -> None:
        with suppress(RuntimeError):  # the store is gone, which the wait that follows tells
            store.add(key, 1)
            while not over.wait(pause):
                store.add(key, 1)

    thread = threading.Thread(target=say, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)  # a store that hangs does not hold us up; the next wait tells


def _run_into(answer: "Future[list[bytes]]", ask: Callable[[str], list[bytes]], text: str) -> None:
    try:
        answer.set_result(ask(text))
    except BaseException as error:
        answer.set_exception(error)
