"""Joining: a process becomes one rank of a group, or says which ranks are missing or differ."""

import hashlib
import json
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from trainer.errors import InputError, LostRank
from trainer.processes import meeting
from trainer.processes.identity import difference, identity
from trainer.processes.place import Place, check_device, count_devices, is_worker
from trainer.processes.rank_log import log_to_file
from trainer.run import Run

if TYPE_CHECKING:
    from torch.distributed import Store

logger = logging.getLogger("trainer")
Job = Callable[[Run], Any]


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
    with _lost_store_told(place):
        machines = _meet(store, place, run)
        if not is_worker():
            _prepare(store, place, run, prepare, machines)
        _warn_of_idle_ranks(place, run)
        warn_of_idle_devices(place)
        _open_group(store, place, run.launch.timeout)
    from trainer.ranks import Ranks

    with Ranks().faults_told():
        yield


@contextmanager
def _lost_store_told(place: Place) -> Iterator[None]:
    """Within it, a store that is gone is a LostRank of one line."""
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        holder = "the launcher" if _has_host() else "rank 0"
        gone = f"{holder}, which holds the store, is gone, or another rank does not answer"
        raise LostRank(f"rank {place.rank}: {gone}") from error


def _has_host() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _find_store(place: Place, timeout: float) -> "Store":
    """The store of our launcher or of torchrun's agent; without either, rank 0 opens one."""
    from torch.distributed import PrefixStore

    open_or_visit = meeting.host if place.rank == 0 and not _has_host() else meeting.visit
    store = open_or_visit(place.address, place.port, timeout, "MASTER_ADDR:MASTER_PORT")
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"tempering/{place.job}/{attempt}", store)


def _meet(store: "Store", place: Place, run: Run) -> int:
    """Wait for all ranks, and refuse those that are not like rank 0; returns how many machines."""
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
    return sum(local_rank == 0 for _, local_rank in found)


def _prepare(store: "Store", place: Place, run: Run, prepare: Job, machines: int) -> None:
    """Let the first rank of each machine prepare, for as long as that takes, and wait for them."""
    if place.local_rank == 0:
        try:
            prepare(run)
        except BaseException:
            store.add("failed", 1)
            raise
        store.add("prepared", 1)
    meeting.wait(lambda: store.add("failed", 0) + store.add("prepared", 0) >= machines, math.inf)
    if store.add("failed", 0):
        raise LostRank("the first rank of a machine could not prepare the data")


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


def _open_group(store: "Store", place: Place, timeout: float) -> None:
    import torch
    from torch.distributed import PrefixStore, init_process_group

    init_process_group(
        "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else None,
        store=PrefixStore("group", store),
        rank=place.rank,
        world_size=place.world_size,
        timeout=timedelta(seconds=timeout),
    )
