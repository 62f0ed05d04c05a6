"""Joining: makes a process one rank of a group, or names the ranks that are missing or differ."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from trainer.errors import InputError
from trainer.launching import rendezvous
from trainer.launching.identity import difference, identity
from trainer.launching.place import Place, check_device, count_devices, is_worker
from trainer.launching.preparing import prepare_together
from trainer.launching.rank_log import log_to_file
from trainer.launching.sealed_store import SealedStore
from trainer.launching.start_name import StartName
from trainer.runs.run import Run

logger = logging.getLogger("trainer")
Job = Callable[[Run], bool]
PATIENCE = 5.0
"""Seconds that the rank with the store waits before it exits, so that others can read the store."""


@contextmanager
def joined(place: Place, run: Run, prepare: Job) -> Iterator[None]:
    """Make this process one rank of a group whose collectives time out after launch.timeout.

    The group lasts as long as the process, which must end with `os._exit`.

    `prepare` is called before the group exists, on one rank of each machine, unless our launcher
    has already called it. Raises EnvironmentFault, which names the missing ranks, if not all ranks
    arrive. Raises InputError if a rank was started with another config or code, and LostRank if a
    rank disappears later.
    """
    if place.world_size == 1:
        yield
        return
    if place.rank > 0:
        log_to_file(run.output_dir, place.rank)
    check_device(place)
    holder = "the launcher" if _launcher_has_store() else "rank 0"
    with rendezvous.lost_store_reported(f"rank {place.rank}: {holder}"):
        store, answer = _find_store(place, run.launch.timeout)
        first_ranks = _meet(store, place, run, answer)
        if not is_worker():
            _prepare(store, place, first_ranks, lambda: prepare(run), run.launch.timeout)
        _warn_of_idle_ranks(place, run)
        warn_of_idle_devices(place)
        _open_group(store, place, run.launch.timeout)
    from trainer.devices.ranks import Ranks

    with Ranks().faults_reported():
        yield


def _launcher_has_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _find_store(place: Place, timeout: float) -> tuple[SealedStore, Callable[[], None]]:
    """The store of our launcher or of torchrun's agent; if neither exists, rank 0 opens one.

    Also returns a function that must be called repeatedly while waiting for the other ranks.
    """
    opens = place.rank == 0 and not _launcher_has_store()
    open_or_connect = rendezvous.open_store if opens else rendezvous.connect
    store = open_or_connect(place.address, place.port, timeout, "MASTER_ADDR:MASTER_PORT")
    own = SealedStore(store).within(f"tempering/{place.job}")
    if not _launcher_has_store() or is_worker():  # then every start has a new store
        return own, lambda: None
    start = StartName(own, place.rank, place.world_size, timeout)
    return own.within(start.name), start.answer if place.rank == 0 else lambda: None


def _meet(store: SealedStore, place: Place, run: Run, answer: Callable[[], None]) -> list[str]:
    """Wait for all ranks; returns the names of the first rank of each machine.

    Raises InputError if a rank has another config or code than rank 0.
    """
    own = json.dumps(identity(run))
    store.set(f"identity {place.rank}", own)
    arrival = json.dumps([hashlib.sha256(own.encode()).hexdigest(), place.local_rank])
    names = [f"rank {rank}" for rank in range(place.world_size)]
    timeout = run.launch.timeout
    texts = rendezvous.exchange(store, names, names[place.rank], arrival, timeout, answer)
    found = [json.loads(text) for text in texts]
    other = next((rank for rank, (digest, _) in enumerate(found) if digest != found[0][0]), None)
    if other is not None:
        identities = [json.loads(store.get(f"identity {rank}")) for rank in (0, other)]
        _let_all_read(store, place, "compared")
        accepted = "accepted: one command and one version on all ranks"
        raise InputError(f"launch: on rank {other} {difference(*identities)}; {accepted}")
    return [name for name, (_, local_rank) in zip(names, found, strict=True) if local_rank == 0]


def _prepare(
    store: SealedStore, place: Place, names: list[str], job: Callable[[], bool], timeout: float
) -> None:
    try:
        prepare_together(store, names, f"rank {place.rank}", job, timeout)
    finally:  # if it fails, rank 0 ends at once
        _let_all_read(store, place, "prepared")


def _let_all_read(store: SealedStore, place: Place, point: str) -> None:
    """Wait on rank 0, which may hold the store, until all ranks have reached this point."""
    patience = PATIENCE if place.rank == 0 else 0
    rendezvous.all_reach(store, point, place.world_size, patience)


def _warn_of_idle_ranks(place: Place, run: Run) -> None:
    size = run.trainer.global_batch_size
    if place.rank == 0 and run.job == "train" and size < place.world_size:
        idle = place.world_size - size
        text = "trainer.global_batch_size is %d: %d of %d ranks have nothing to do"
        logger.warning(text, size, idle, place.world_size)


def warn_of_idle_devices(place: Place) -> None:
    """Warn if another launcher has started fewer ranks than this machine has GPUs."""
    local, devices = os.environ.get("LOCAL_WORLD_SIZE", ""), count_devices()
    if place.local_rank == 0 and local.isdecimal() and int(local) < devices and not is_worker():
        text = "%s of the %d GPUs of this machine are used: a process was started for each of them"
        logger.warning(text, local, devices)


def _open_group(store: SealedStore, place: Place, timeout: float) -> None:
    import torch
    from torch.distributed import init_process_group

    init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else None,
        store=store.for_group("ranks"),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=timeout),
    )
