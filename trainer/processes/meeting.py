"""Meeting: the store through which processes find each other, and who is missing there."""

import errno
import ipaddress
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
    from torch.distributed import TCPStore

    from trainer.processes.sealed_store import SealedStore

logger = logging.getLogger("trainer")

LOOPBACK = "127.0.0.1"
PAUSE = 0.05
"""Seconds between two looks. We look instead of waiting in the store, which hears no signal."""

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # what it logs comes as an exception too


def host(address: str, port: int, timeout: float, where: str) -> "TCPStore":
    """Open the store at an address of this machine; port 0 is any free one.

    It listens there alone. Where `address` is none of this machine's, it may be one that is
    forwarded to us: then it listens on all addresses, and a warning says so. Raises InputError
    where the port is taken.
    """
    from torch.distributed import DistNetworkError, TCPStore

    try:
        listening = _listen(address, port, where)
        own, port = listening.getsockname()[:2]
        limit = timedelta(seconds=timeout)
        return TCPStore(
            LOOPBACK if own in ("0.0.0.0", "::") else own,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=limit,
            master_listen_fd=listening.detach(),  # the store closes it
        )
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            found = f"port {port} of this machine is in use"
            raise InputError(f"{where}: {found}; accepted: a free port") from error
        raise EnvironmentFault(f"{where}: {error.strerror or error}") from error
    except DistNetworkError as error:
        raise EnvironmentFault(f"{where}: {_first_line(error)}") from error


def _listen(address: str, port: int, where: str) -> socket.socket:
    """A socket that listens at an address, or where it is not ours, at all of them."""
    for family, _, _, _, place in _places(address, port):
        named_loopback = ipaddress.ip_address(place[0]).is_loopback and not _says_loopback(address)
        if named_loopback:  # what others know by this name is another address of this machine
            continue
        listening = _bound(family, place)
        if listening is not None:
            return listening
    text = "%s: %s is no address of this machine; it listens on all addresses instead"
    logger.warning(text, where, address)
    family, place = (
        (socket.AF_INET6, ("::", port))
        if socket.has_dualstack_ipv6()
        else (
            socket.AF_INET,
            ("0.0.0.0", port),
        )
    )
    listening = _bound(family, place)
    if listening is None:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return listening


def _places(address: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except OSError:
        return []


def _says_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def _bound(family: socket.AddressFamily, place: Any) -> socket.socket | None:
    """A listening socket; None where the place is no address of this machine."""
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(place[0] != "::"))
        listening.bind(place)
        listening.listen(128)
        return listening
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise
        return None


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


def arrive(
    store: "SealedStore", names: list[str], own: str, text: str, timeout: float
) -> list[str]:
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


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
