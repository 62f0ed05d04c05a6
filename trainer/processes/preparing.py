"""Preparing: one process of each machine prepares, for as long as it takes, and all wait for it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from trainer.errors import InputError, LostRank
from trainer.processes import meeting
from trainer.waiting import SIGNS, signs_of_life

if TYPE_CHECKING:
    from trainer.processes.sealed_store import SealedStore


def prepare_together(
    store: "SealedStore", names: Sequence[str], own: str, job: Callable[[], bool], timeout: float
) -> bool:
    """Call `job` where `own` is one of `names`, and wait for all of them without a limit.

    Returns what `job` says on all of them: whether anything is left to do. Raises InputError where
    they do not agree, LostRank where one fails, or gives no sign of life for `timeout` seconds.
    """
    store = store.within("preparing")  # launchers have keys of the same names
    if own in names:
        try:
            with signs_of_life(store, f"signs of {own}", timeout / SIGNS):
                left = job()
        except BaseException:
            store.set("failed", own)
            raise
        store.set(f"left {own}", str(left))
        store.add("prepared", 1)
    _wait(store, names, timeout)
    found = [answer == b"True" for answer in store.multi_get([f"left {name}" for name in names])]
    if len(set(found)) > 1:
        done, other = names[found.index(False)], names[found.index(True)]
        said = f"holds a finished run as {done} sees it, and none as {other} does"
        raise InputError(f"output_dir: {said}; accepted: a folder that all machines share")
    return found[0]


def _wait(store: "SealedStore", names: Sequence[str], timeout: float) -> None:
    def ended() -> bool:
        return store.add("prepared", 0) >= len(names) or store.check(["failed"])

    signs = [0] * len(names)
    while not meeting.wait(ended, timeout):
        before, signs = signs, [store.add(f"signs of {name}", 0) for name in names]
        same = [name for name, i, j in zip(names, before, signs, strict=True) if i == j]
        if lost := [name for name in same if not store.check([f"left {name}"])]:
            silent = f"nothing was heard of {', '.join(lost)} for {timeout:g} s"
            raise LostRank(f"launch: {silent} while the data were prepared")
    if store.check(["failed"]):
        raise LostRank(f"launch: {store.get('failed').decode()} could not prepare the data")
