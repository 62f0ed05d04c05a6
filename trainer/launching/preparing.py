"""Preparing: one process per machine prepares the data, while the others wait without a limit."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from trainer.devices.waiting import HEARTBEATS, sending_heartbeats
from trainer.errors import InputError, LostRank
from trainer.launching import rendezvous

if TYPE_CHECKING:
    from trainer.launching.sealed_store import SealedStore


def prepare_together(
    store: "SealedStore", names: Sequence[str], own: str, job: Callable[[], bool], timeout: float
) -> bool:
    """Call `job` if `own` is one of `names`; wait until the processes with these names are done.

    The wait has no time limit.

    Returns the result of `job`: whether anything is left to do. Raises InputError if the results
    differ, and LostRank if a process fails or sends no heartbeat for `timeout` seconds.
    """
    store = store.within("preparing")  # other code uses keys with the same names
    if own in names:
        try:
            with sending_heartbeats(store, f"signs of {own}", timeout / HEARTBEATS):
                left = job()
        except BaseException:
            with suppress(RuntimeError):  # whoever holds the store may have failed, too, and ended
                store.set("failed", own)
            raise
        store.set(f"left {own}", str(left))
        store.add("prepared", 1)
    _wait(store, names, timeout)
    found = [answer == b"True" for answer in store.multi_get([f"left {name}" for name in names])]
    if len(set(found)) > 1:
        done, other = names[found.index(False)], names[found.index(True)]
        differs = f"{done} found a finished run in it, but {other} found none"
        raise InputError(f"output_dir: {differs}; accepted: a folder that all machines share")
    return found[0]


def _wait(store: "SealedStore", names: Sequence[str], timeout: float) -> None:
    def ended() -> bool:
        return store.add("prepared", 0) >= len(names) or store.check(["failed"])

    signs = [0] * len(names)
    while not rendezvous.wait(ended, timeout):
        before, signs = signs, [store.add(f"signs of {name}", 0) for name in names]
        same = [name for name, i, j in zip(names, before, signs, strict=True) if i == j]
        if lost := [name for name in same if not store.check([f"left {name}"])]:
            silent = f"no heartbeat from {', '.join(lost)} for {timeout:g} s"
            raise LostRank(f"launch: {silent} while the data were prepared")
    if store.check(["failed"]):
        raise LostRank(f"launch: {store.get('failed').decode()} could not prepare the data")
