"""Team: the machines of a run, each with its launcher, and the ranks that each of them starts."""

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from trainer.errors import EnvironmentFault, InputError
from trainer.processes import last_words, meeting
from trainer.processes.last_words import LastWords
from trainer.processes.preparing import prepare_together
from trainer.processes.sealed_store import SECRET, SealedStore, new_secret
from trainer.run import LaunchSettings

if TYPE_CHECKING:
    from torch.distributed import TCPStore

logger = logging.getLogger("trainer")

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
    store: SealedStore
    secret: str = field(repr=False)
    """Of this run, for its ranks."""

    @property
    def port(self) -> int:
        """Where the store listens."""
        return cast("TCPStore", self.store.raw).port

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
        ended = self._together("ended", PATIENCE)
        words = list(last_words.read(self.store.within("words"), self.world_size))
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
        address, secret = meeting.LOOPBACK, new_secret()
        store = SealedStore(meeting.host(address, 0, launch.timeout, "launch"), secret)
        return Team(1, 0, 0, number, number, address, store, secret)
    address, port = launch.meeting_point
    secret = os.environ.get(SECRET, "")
    if not secret:
        text = "%s: whoever reaches %s:%d can take part; export %s, equal on all machines, if not"
        logger.warning(text, WHERE, address, port, SECRET)
    open_or_visit = meeting.host if launch.node_rank == 0 else meeting.visit
    store = SealedStore(open_or_visit(address, port, launch.timeout, WHERE), secret)
    with meeting.lost_store_told(HOLDER):
        numbers = _numbers(store, launch, number)
    first = sum(numbers[: launch.node_rank])
    nodes, rank, total = launch.num_nodes, launch.node_rank, sum(numbers)
    return Team(nodes, rank, first, number, total, address, store, secret)


def _numbers(store: SealedStore, launch: LaunchSettings, number: int) -> list[int]:
    """How many ranks each machine brings, once all have come."""
    if store.add(f"taken {launch.node_rank}", 1) > 1:
        found = f"{launch.node_rank} is taken by another machine"
        raise InputError(f"launch.node_rank: {found}; accepted: another number on each")
    names = _names(launch.num_nodes)
    own, machines = names[launch.node_rank], store.within("machines")
    numbers = meeting.arrive(machines, names, own, str(number), launch.timeout)
    for name, told in zip(names, numbers, strict=True):
        if not re.fullmatch("[1-9][0-9]{0,4}", told):
            raise EnvironmentFault(f"{WHERE}: {name} brings {told!r:.40} ranks; accepted: a number")
    return [int(each) for each in numbers]


def _names(num_nodes: int) -> list[str]:
    return [f"node_rank {node}" for node in range(num_nodes)]
