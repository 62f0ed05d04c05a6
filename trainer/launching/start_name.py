"""StartName: a name on which the ranks of one start of a run agree, to separate their messages.

torchrun's agents use one store for all restarts of a run, so it still holds messages of earlier
ranks. torchrun's restart count does not identify a start, since each agent has its own count: it
is smaller for an agent that has just rejoined, or whose ranks restarted only because other ranks
failed.
"""

import secrets

from trainer.errors import EnvironmentFault
from trainer.launching import rendezvous
from trainer.launching.sealed_store import SealedStore


class StartName:
    """A random name that rank 0 chooses and sends to every rank that requests it.

    Rank 0 also answers requests that ranks of earlier starts left in the store; these answers have
    no effect. The rank 0 of an earlier start cannot answer: torchrun ends all ranks of a start, on
    all machines, before it begins the next start.
    """

    def __init__(self, store: SealedStore, rank: int, world_size: int, timeout: float) -> None:
        """Choose the name on rank 0; on other ranks, request it from rank 0.

        Raises EnvironmentFault if rank 0 does not answer within `timeout` seconds.
        """
        self._store, self._world_size = store, world_size
        self._num_seen_requests = 0
        self._answered: set[str] = set()
        self.name = secrets.token_hex(8) if rank == 0 else self._request(rank, timeout)

    def _request(self, rank: int, timeout: float) -> str:
        request_id = secrets.token_hex(8)
        self._store.set(f"request of rank {rank}", request_id)
        self._store.add("requests", 1)
        answer = f"answer to {request_id}"
        if not rendezvous.wait(lambda: self._store.check([answer]), timeout):
            raise EnvironmentFault(
                f"launch: rank 0 of {self._world_size} did not arrive within {timeout:g} s; "
                "launch.timeout says how long to wait"
            )
        return self._store.get(answer).decode()

    def answer(self) -> None:
        """Answer new requests; rank 0 calls this repeatedly until all ranks have arrived."""
        num_requests = self._store.add("requests", 0)
        if num_requests == self._num_seen_requests:
            return
        self._num_seen_requests = num_requests
        keys = [f"request of rank {rank}" for rank in range(1, self._world_size)]
        for key in keys:
            if self._store.check([key]):
                request_id = self._store.get(key).decode()
                if request_id not in self._answered:
                    self._store.set(f"answer to {request_id}", self.name)
                    self._answered.add(request_id)
