"""Team: the machines of a run, each with its launcher, and the ranks that each of them starts."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.processes import last_words, meeting
from trainer.processes.last_words import LastWords
from trainer.processes.preparing import prepare_together
from trainer.run import LaunchSettings

if TYPE_CHECKING:
    from torch.distributed import TCPStore

WHERE = "launch.rendezvous"
HOLDER = "launch: node_rank 0"

PATIENCE = 5.0
"""Seconds to wait for machines that have nothing to do but to leave."""


@dataclass(frozen=True)
class Team:
    """What the launcher of one machine knows of all; the first machine's holds the store."""

    num_nodes: int
    node_rank: int
    first_rank: int
    local_world_size: int
    world_size: int
    address: str
    store: "TCPStore"

    @property
    def port(self) -> int:
        """Where the store listens."""
        return self.store.port

    def prepare(self, job: Callable[[], bool], timeout: float) -> bool:
        """Call `job`, as every machine does: whether anything is left to do.

        Raises InputError where machines do not agree, LostRank where one fails or does not answer.
        """
        if self.num_nodes == 1:
            return job()
        names = _names(self.num_nodes)
        try:
            with meeting.lost_store_told(HOLDER):
                return prepare_together(self.store, names, names[self.node_rank], job, timeout)
        finally:  # who holds the store stays until all know
            self._together("has prepared", PATIENCE if self.node_rank == 0 else 0)

    def tell_of_failure(self) -> None:
        """A rank of this machine has failed: nobody is to wait for it."""
        with suppress(RuntimeError):
            self.store.add("failed", 1)

    def has_failed(self) -> bool:
        """Whether a rank of another machine has, or the machine that holds the store is gone."""
        try:
            return self.num_nodes > 1 and self.store.add("failed", 0) > 0
        except RuntimeError:
            return True

    def all_words(self) -> list[LastWords]:
        """The last words of all machines' ranks; waits PATIENCE seconds for machines to end."""
        from torch.distributed import PrefixStore

        ended = self._together("ended", PATIENCE)
        words = list(last_words.read(PrefixStore("words", self.store)))
        if ended:  # who holds the store stays until all have read it
            self._together("read", PATIENCE if self.node_rank == 0 else 0)
        return words

    def _together(self, key: str, patience: float) -> bool:
        """Whether all machines come to this point; False too where the store is gone."""
        try:
            self.store.add(key, 1)
            return meeting.wait(lambda: self.store.add(key, 0) >= self.num_nodes, patience)
        except RuntimeError:
            return False


def assemble_team(launch: LaunchSettings, number: int) -> Team:
    """Meet the launchers of the other machines; this one brings `number` ranks.

    Raises EnvironmentFault where nobody answers at launch.rendezvous, or a machine does not come or
    is gone, InputError where the port is in use or launch.node_rank is taken.
    """
    if launch.num_nodes == 1:
        address = meeting.LOOPBACK
        store = meeting.host(address, 0, launch.timeout, "launch")
        return Team(1, 0, 0, number, number, address, store)
    address, port = launch.meeting_point
    open_or_visit = meeting.host if launch.node_rank == 0 else meeting.visit
    store = open_or_visit(address, port, launch.timeout, WHERE)
    with meeting.lost_store_told(HOLDER):
        numbers = _numbers(store, launch, number)
    first = sum(numbers[: launch.node_rank])
    return Team(launch.num_nodes, launch.node_rank, first, number, sum(numbers), address, store)


def _numbers(store: "TCPStore", launch: LaunchSettings, number: int) -> list[int]:
    """How many ranks each machine brings, once all have come."""
    from torch.distributed import PrefixStore

    if store.add(f"taken {launch.node_rank}", 1) > 1:
        found = f"{launch.node_rank} is taken by another machine"
        raise InputError(f"launch.node_rank: {found}; accepted: another number on each")
    names = _names(launch.num_nodes)
    own, machines = names[launch.node_rank], PrefixStore("machines", store)
    return [int(n) for n in meeting.arrive(machines, names, own, str(number), launch.timeout)]


def _names(num_nodes: int) -> list[str]:
    return [f"node_rank {node}" for node in range(num_nodes)]
