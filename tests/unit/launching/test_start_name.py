"""Ranks of one start agree on a name in a store that holds messages of earlier starts."""

import threading
from datetime import timedelta

import pytest
from torch.distributed import TCPStore

from trainer.errors import EnvironmentFault
from trainer.launching import rendezvous
from trainer.launching.sealed_store import SealedStore
from trainer.launching.start_name import StartName


@pytest.fixture
def store() -> SealedStore:
    raw = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(0, 60))
    return SealedStore(raw, "secret")


def join_all(store: SealedStore, world_size: int) -> list[str]:
    """The names that the ranks of a start found, which all meet under them."""
    names = [""] * world_size

    def join(rank: int) -> None:
        start = StartName(store, rank, world_size, 60)
        answer = start.answer if rank == 0 else lambda: None
        everybody = [f"rank {each}" for each in range(world_size)]
        own = store.within(start.name)
        rendezvous.exchange(own, everybody, everybody[rank], "here", 60, answer)
        names[rank] = start.name

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


def test_every_start_has_one_name_of_its_own(store: SealedStore) -> None:
    """For any number of ranks, even after a rank that ended before its request was answered."""
    seen = set()
    for world_size in (3, 2, 4, 1):
        store.set("request of rank 1", f"of a rank that is gone, before {world_size}")
        store.add("requests", 1)
        (name,) = set(join_all(store, world_size))
        seen.add(name)
    assert len(seen) == 4 and "" not in seen


def test_a_rank_0_that_does_not_arrive_is_named(store: SealedStore) -> None:
    with pytest.raises(EnvironmentFault, match="rank 0 of 2 did not arrive within 0.1 s"):
        StartName(store, 1, 2, 0.1)
