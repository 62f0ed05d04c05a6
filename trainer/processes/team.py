"""Team: the machines of a run, each with its launcher, and the ranks that each of them starts."""

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.errors import InputError
from trainer.processes import last_words, meeting
from trainer.processes.last_words import LastWords
from trainer.run import LaunchSettings

if TYPE_CHECKING:
    from torch.distributed import TCPStore

WHERE = "launch.rendezvous"


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

    def all_words(self, patience: float) -> list[LastWords]:
        """The last words of all machines' ranks; waits `patience` seconds for machines to end."""
        from torch.distributed import PrefixStore

        ended = self._together("ended", patience)
        words = list(last_words.read(PrefixStore("words", self.store)))
        if ended:  # who holds the store stays until all have read it
            self._together("read", patience if self.node_rank == 0 else 0)
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

    Raises EnvironmentFault where nobody answers at launch.rendezvous, or a machine does not come,
    InputError where the port is in use or launch.node_rank is taken.
    """
    from torch.distributed import PrefixStore

    if launch.num_nodes == 1:
        address = "127.0.0.1"
        store = meeting.host(address, 0, launch.timeout, "launch")
        return Team(1, 0, 0, number, number, address, store)
    address, port = launch.meeting_point
    open_or_visit = meeting.host if launch.node_rank == 0 else meeting.visit
    store = open_or_visit(address, port, launch.timeout, WHERE)
    if store.add(f"taken {launch.node_rank}", 1) > 1:
        found = f"{launch.node_rank} is taken by another machine"
        raise InputError(f"launch.node_rank: {found}; accepted: another number on each")
    names = [f"node_rank {node}" for node in range(launch.num_nodes)]
    told = str(number)
    own = names[launch.node_rank]
    left = meeting.arrive(PrefixStore("machines", store), names, own, told, launch.timeout)
    numbers = [int(text) for text in left]
    first = sum(numbers[: launch.node_rank])
    return Team(launch.num_nodes, launch.node_rank, first, number, sum(numbers), address, store)
