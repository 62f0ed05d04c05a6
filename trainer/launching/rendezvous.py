"""Rendezvous: opens and connects to the store through which processes find each other."""

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

    from trainer.launching.sealed_store import SealedStore

logger = logging.getLogger("trainer")

LOOPBACK = "127.0.0.1"
PAUSE = 0.05
"""Seconds between two polls of the store.

The store's own waiting functions are not used, since they block Python's signal handlers.
"""
OPENING = 60.0
"""Seconds that a store's own process may take to connect to it, even if launch.timeout, which is
for the other processes, is shorter: on a busy machine this can take a second."""

# no log, since the errors that torch's C++ code logs are also raised as exceptions
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")


def open_store(address: str, port: int, timeout: float, where: str) -> "TCPStore":
    """Open the store at an address of this machine; port 0 means any free port.

    The store listens only on that address. If the address does not belong to this machine, for
    example because another machine forwards it, the store listens on all addresses, with a warning.
    `where` is the setting that error messages name. Raises InputError if the port is in use.
    """
    from torch.distributed import DistNetworkError, TCPStore

    try:
        listening = _listen(address, port, where)
        own, port = listening.getsockname()[:2]
        store = TCPStore(
            LOOPBACK if own in ("0.0.0.0", "::") else own,
            port,
            is_master=True,
            wait_for_workers=False,
            timeout=timedelta(seconds=max(timeout, OPENING)),
            master_listen_fd=listening.detach(),  # the store closes the socket
        )
        store.set_timeout(timedelta(seconds=timeout))
        return store
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            found = f"port {port} of this machine is in use"
            raise InputError(f"{where}: {found}; accepted: a free port") from error
        raise EnvironmentFault(f"{where}: {error.strerror or error}") from error
    except DistNetworkError as error:
        raise EnvironmentFault(f"{where}: {_first_line(error)}") from error


def _listen(address: str, port: int, where: str) -> socket.socket:
    """A socket that listens on an address, or on all addresses if this machine does not have it."""
    for family, _, _, _, resolved in _resolved(address, port):
        is_loopback = ipaddress.ip_address(resolved[0]).is_loopback
        if is_loopback and not _is_loopback_name(address):
            continue  # other machines resolve this host name to another address
        listening = _bound(family, resolved)
        if listening is not None:
            return listening
    text = "%s: %s is not an address of this machine; it listens on all addresses instead"
    logger.warning(text, where, address)
    all_ipv6, all_ipv4 = (socket.AF_INET6, ("::", port)), (socket.AF_INET, ("0.0.0.0", port))
    family, any_address = all_ipv6 if socket.has_dualstack_ipv6() else all_ipv4
    listening = _bound(family, any_address)
    if listening is None:
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    return listening


def _resolved(address: str, port: int) -> list[Any]:
    try:
        return socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except OSError:
        return []


def _is_loopback_name(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address.lower() == "localhost"


def _bound(family: socket.AddressFamily, address: Any) -> socket.socket | None:
    """A socket that listens on the address; None if this machine does not have the address.

    It may not even have the family: a hosts file can name ::1 where IPv6 is switched off.
    """
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        if error.errno != errno.EAFNOSUPPORT:  # e.g. too many open files
            raise
        return None
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listening.bind(address)
        listening.listen(128)
        return listening
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise
        return None


def connect(address: str, port: int, timeout: float, where: str) -> "TCPStore":
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
    """Poll until `done` returns true, for at most `timeout` seconds; returns whether it did."""
    deadline = time.monotonic() + timeout
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(PAUSE)
    return True


def exchange(
    store: "SealedStore",
    names: list[str],
    own: str,
    text: str,
    timeout: float,
    meanwhile: Callable[[], None] = lambda: None,
) -> list[str]:
    """Store `text` under our own name, and wait for all `names`; returns the text of each.

    `meanwhile` is called repeatedly during the wait. Raises EnvironmentFault, which names the
    missing processes, after `timeout` seconds.
    """
    store.set(own, text)
    store.add("arrived", 1)

    def all_here() -> bool:
        meanwhile()
        return store.add("arrived", 0) >= len(names)

    if not wait(all_here, timeout):
        missing = [name for name in names if not store.check([name])]
        raise EnvironmentFault(
            f"launch: {', '.join(missing)} of {len(names)} did not arrive within {timeout:g} s; "
            "launch.timeout says how long to wait"
        )
    return [value.decode() for value in store.multi_get(names)]


def all_reach(store: "SealedStore", key: str, number: int, patience: float) -> bool:
    """Announce that this process has reached the point `key`, and wait until `number` have.

    Returns whether they do within `patience` seconds; False if the store is gone. The process that
    holds the store ends only after the others have reached the point at which they need it no more.
    """
    try:
        store.add(key, 1)
        return wait(lambda: store.add(key, 0) >= number, patience)
    except RuntimeError:
        return False


@contextmanager
def lost_store_reported(holder: str) -> Iterator[None]:
    """Context manager: raise a one-line LostRank if the store is gone or does not answer."""
    from torch.distributed import DistError

    try:
        yield
    except DistError as error:
        gone = "which holds the store, is gone, or another rank does not answer"
        raise LostRank(f"{holder}, {gone}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
