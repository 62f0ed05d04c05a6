"""Team: the machines of a run, each with a launcher that starts its ranks."""

import logging
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from trainer.errors import EnvironmentFault, InputError
from trainer.launching import failure_report, rendezvous
from trainer.launching.failure_report import FailureReport
from trainer.launching.preparing import prepare_together
from trainer.launching.sealed_store import SECRET, SealedStore, new_secret
from trainer.runs.run import LaunchSettings

if TYPE_CHECKING:
    from torch.distributed import TCPStore

logger = logging.getLogger("trainer")

WHERE = "launch.rendezvous"
HOLDER = "launch: node_rank 0"

PATIENCE = 10.0
"""Seconds to wait for the other machines at the end of a run.

After a failure on this machine, another one takes GRACE + LAST_GRACE seconds to end its ranks.
"""


@dataclass(frozen=True)
class Team:
    """One machine's view of all machines, which exchange messages in a store on machine 0."""

    num_nodes: int
    node_rank: int
    first_rank: int
    local_world_size: int
    world_size: int
    address: str
    store: SealedStore
    secret: str = field(repr=False)
    """The run's secret, which is passed to its ranks."""

    @property
    def port(self) -> int:
        """The port that the store listens on."""
        return cast("TCPStore", self.store.raw).port

    def prepare(self, job: Callable[[], bool], timeout: float) -> bool:
        """Call `job`, as the other machines do; returns whether anything is left to do.

        Raises InputError if the results differ between machines, and LostRank if a machine fails
        or does not answer.
        """
        if self.num_nodes == 1:
            return job()
        names = _names(self.num_nodes)
        try:
            with rendezvous.lost_store_reported(HOLDER):
                return prepare_together(self.store, names, names[self.node_rank], job, timeout)
        finally:  # the machine with the store waits until all machines have read it
            self._all_reach("has prepared", PATIENCE if self.node_rank == 0 else 0)

    def report_failure(self) -> None:
        """Tell the other machines that a rank of this one has failed, so that they do not wait."""
        with suppress(RuntimeError):
            self.store.add("failed", 1)

    def has_failed(self) -> bool:
        """Whether a rank of another machine has failed, or the machine with the store is gone."""
        try:
            return self.num_nodes > 1 and self.store.add("failed", 0) > 0
        except RuntimeError:
            return True

    def failure_reports(self) -> list[FailureReport]:
        """The failure reports of all ranks; waits up to PATIENCE seconds for other machines."""
        ended = self._all_reach("ended", PATIENCE)
        reports = list(failure_report.read(self.store.within("failures"), self.world_size))
        # the machine with the store waits until all machines that have ended have read it
        self._all_reach("read", PATIENCE if ended and self.node_rank == 0 else 0)
        return reports

    def _all_reach(self, key: str, patience: float) -> bool:
        """Announce that this machine has reached the point `key`, and wait for the other machines.

        Returns whether all reach it within `patience` seconds.
        """
        return rendezvous.all_reach(self.store, key, self.num_nodes, patience)


def assemble_team(launch: LaunchSettings, number: int) -> Team:
    """Connect to the launchers of the other machines; this machine starts `number` ranks.

    Raises EnvironmentFault if nothing answers at launch.rendezvous, or if a machine does not arrive
    or is gone. Raises InputError if the port is in use or launch.node_rank is taken.
    """
    if launch.num_nodes == 1:
        address, secret = rendezvous.LOOPBACK, new_secret()
        store = SealedStore(rendezvous.open_store(address, 0, launch.timeout, "launch"), secret)
        return Team(1, 0, 0, number, number, address, store, secret)
    address, port = launch.meeting_point
    secret = os.environ.get(SECRET, "")
    if not secret:
        text = "%s: any process that reaches %s:%d can join the run, unless all machines set %s"
        logger.warning(text, WHERE, address, port, SECRET)
    open_or_connect = rendezvous.open_store if launch.node_rank == 0 else rendezvous.connect
    store = SealedStore(open_or_connect(address, port, launch.timeout, WHERE), secret)
    with rendezvous.lost_store_reported(HOLDER):
        ranks_per_machine = _ranks_per_machine(store, launch, number)
    first = sum(ranks_per_machine[: launch.node_rank])
    nodes, rank, total = launch.num_nodes, launch.node_rank, sum(ranks_per_machine)
    return Team(nodes, rank, first, number, total, address, store, secret)


def _ranks_per_machine(store: SealedStore, launch: LaunchSettings, number: int) -> list[int]:
    """Wait for all machines; returns each one's number of ranks. `number` is this machine's."""
    if store.add(f"taken {launch.node_rank}", 1) > 1:
        found = f"{launch.node_rank} is taken by another machine"
        raise InputError(f"launch.node_rank: {found}; accepted: another number on each")
    names = _names(launch.num_nodes)
    own, machines = names[launch.node_rank], store.within("machines")
    numbers = rendezvous.exchange(machines, names, own, str(number), launch.timeout)
    for name, text in zip(names, numbers, strict=True):
        if not re.fullmatch("[1-9][0-9]{0,4}", text):
            raise EnvironmentFault(f"{WHERE}: {name} has {text!r:.40} ranks; accepted: a number")
    return [int(each) for each in numbers]


def _names(num_nodes: int) -> list[str]:
    return [f"node_rank {node}" for node in range(num_nodes)]
