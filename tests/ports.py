"""Ports of this machine for programs that tests start."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def reserved_port() -> Iterator[int]:
    """Context manager: a port that nobody listens on, and that no other program gets by chance.

    Linux gives a port to which a socket is bound to nobody who asks for any free port, and still
    lets a program listen on it that names it and sets SO_REUSEADDR, as torch's stores do. A port
    that was only free a moment ago may belong to a test in another process by then.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port
