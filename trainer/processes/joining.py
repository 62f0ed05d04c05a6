"""Joining: a process becomes one rank of a group, or says which ranks are missing or differ."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from trainer.errors import InputError
from trainer.processes import meeting
from trainer.processes.identity import difference, identity
from trainer.processes.place import Place, check_device, count_devices, is_worker
from trainer.processes.preparing import prepare_together
from trainer.processes.rank_log import log_to_file
from trainer.processes.sealed_store import SealedStore
from trainer.run import Run

logger = logging.getLogger("trainer")
Job = Callable[[Run], bool]


@contextmanager
def joined(place: Place, run: Run, prepare: Job) -> Iterator[None]:
    """From here on this process is one rank of a group whose collectives end after launch.timeout.

    The group lasts as long as the process, which must leave by `os._exit`.

    `prepare` is called before the group exists, on one rank of each machine, unless our launcher
    has done so. Raises EnvironmentFault naming the ranks that do not come, InputError where ranks
    were started with another config or code, LostRank where one leaves later.
    """
    if place.world_size == 1:
        yield
        return
    if place.rank > 0:
        log_to_file(run.output_dir, place.rank)
    check_device(place)
    store = _find_store(place, run.launch.timeout)
    holder = "the launcher" if _has_host() else "rank 0"
    with meeting.lost_store_told(f"rank {place.rank}: {holder}"):
        first_ranks = _meet(store, place, run)
        if not is_worker():
            own, timeout = f"rank {place.rank}", run.launch.timeout
            prepare_together(store, first_ranks, own, lambda: prepare(run), timeout)
        _warn_of_idle_ranks(place, run)
        warn_of_idle_devices(place)
        _open_group(store, place, run.launch.timeout)
    from trainer.ranks import Ranks

    with Ranks().faults_told():
        yield


def _has_host() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _find_store(place: Place, timeout: float) -> SealedStore:
    """The store of our launcher or of torchrun's agent; without either, rank 0 opens one."""
    open_or_visit = meeting.host if place.rank == 0 and not _has_host() else meeting.visit
    store = open_or_visit(place.address, place.port, timeout, "MASTER_ADDR:MASTER_PORT")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return SealedStore(store).within(f"tempering/{place.job}/{attempt}")


def _meet(store: SealedStore, place: Place, run: Run) -> list[str]:
    """Wait for all ranks, refuse those unlike rank 0; returns the first one of each machine."""
    own = json.dumps(identity(run))
    store.set(f"identity {place.rank}", own)
    told = json.dumps([hashlib.sha256(own.encode()).hexdigest(), place.local_rank])
    names = [f"rank {rank}" for rank in range(place.world_size)]
    left = meeting.arrive(store, names, names[place.rank], told, run.launch.timeout)
    found = [json.loads(text) for text in left]
    for rank, (digest, _) in enumerate(found):
        if digest != found[0][0]:
            first, other = (json.loads(store.get(f"identity {r}")) for r in (0, rank))
            accepted = "accepted: one command and one version on all ranks"
            raise InputError(f"launch: on rank {rank} {difference(first, other)}; {accepted}")
    return [name for name, (_, local_rank) in zip(names, found, strict=True) if local_rank == 0]


def _warn_of_idle_ranks(place: Place, run: Run) -> None:
    size = run.trainer.global_batch_size
    if place.rank == 0 and run.job == "train" and size < place.world_size:
        idle = place.world_size - size
        text = "trainer.global_batch_size is %d: %d of %d ranks have nothing to do"
        logger.warning(text, size, idle, place.world_size)


def warn_of_idle_devices(place: Place) -> None:
    """Say so where this machine has more GPUs than other launchers have started ranks for."""
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
