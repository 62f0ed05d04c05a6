"""Meeting: the store through which processes find each other, and who is missing there."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from trainer.errors import EnvironmentFault, InputError, LostRank

if TYPE_CHECKING:
    from torch.distributed import Store, TCPStore

logger = logging.getLogger("trainer")

LOOPBACK = "127.0.0.1"
PAUSE = 0.05
"""Seconds between two looks. We look instead of waiting in the store, which hears no signal."""

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what it logs comes as an exception too


def host(address: str, port: int, timeout: float, where: str) -> "TCPStore":
    """Open the store; port 0 is any free one. Raises InputError where the port is taken.

    It is open on all of this machine's addresses. Where `address` is none of them, a warning says
    so: it may be one that is forwarded to us.
    """
    from torch.distributed import DistNetworkError, TCPStore

    if not _is_ours(address):
        text = "%s: %s is no address of this machine, where the others are to come"
        logger.warning(text, where, address)
    try:
        limit = timedelta(seconds=timeout)
        return TCPStore(LOOPBACK, port, is_master=True, wait_for_workers=False, timeout=limit)
    except DistNetworkError as error:
        if "EADDRINUSE" in str(error):
            found = f"port {port} of this machine is in use"
            raise InputError(f"{where}: {found}; accepted: a free port") from error
        raise EnvironmentFault(f"{where}: {_first_line(error)}") from error


def visit(address: str, port: int, timeout: float, where: str) -> "TCPStore":
    """Connect to a store that may not be open yet. Raises EnvironmentFault after `timeout` s."""
    from torch.distributed import DistNetworkError, TCPStore

    deadline = time.monotonic() + timeout
    reason = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            socket.create_connection((address, port), timeout=min(left, 5)).close()
            limit = timedelta(seconds=timeout)
            return TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=limit)
        except (OSError, DistNetworkError) as error:
            reason = _first_line(error)
            time.sleep(min(left, 0.2))
    raise EnvironmentFault(f"{where}: nobody at {address}:{port} within {timeout:g} s ({reason})")


def wait(done: Callable[[], bool], timeout: float) -> bool:
    """Look until `done`, or until `timeout` seconds are over; says which."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def arrive(store: "Store", names: list[str], own: str, text: str, timeout: float) -> list[str]:
    """Leave `text` under our own name, and wait for all `names`; returns what each has left.

    Raises EnvironmentFault that names who has not come.
    """
    store.set(own, text)
    store.add("arrived", 1)
    if not wait(lambda: store.add("arrived", 0) >= len(names), timeout):
        missing = [name for name in names if not store.check([name])]
        raise EnvironmentFault(
            f"launch: {', '.join(missing)} of {len(names)} did not come within {timeout:g} s; "
            "launch.timeout says how long to wait"
        )
    return [left.decode() for left in store.multi_get(names)]


@contextmanager
def lost_store_told(holder: str) -> Iterator[None]:
    """Within it, a store that is gone, or hangs, is a LostRank of one line."""
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        gone = "which holds the store, is gone, or another rank does not answer"
        raise LostRank(f"{holder}, {gone}") from error


def _is_ours(address: str) -> bool:
    """Whether a name or number leads to this machine, as far as it knows."""
    try:
        found = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return any(_can_be_bound(family, place) for family, _, _, _, place in found)


def _can_be_bound(family: socket.AddressFamily, place: Any) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as own:
        try:
            own.bind(place)
        except OSError:
            return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
