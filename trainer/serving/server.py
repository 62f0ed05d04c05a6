"""The server: runs uvicorn on a bound socket; after a signal it finishes the open requests."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from trainer.errors import EnvironmentFault, Interrupted
from trainer.plurals import plural
from trainer.runs.serve_settings import ServeSettings
from trainer.serving.connection import connection_of
from trainer.serving.figures import Figures
from trainer.training.interruption import EXIT_CODES, Handler


def listening_socket(settings: ServeSettings) -> socket.socket:
    """Bind a socket to the address in the settings; the socket does not listen yet.

    Raises EnvironmentFault if the address cannot be bound.
    """
    where = f"serve.host={settings.host} serve.port={settings.port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM
        )[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except OSError as error:
        accepted = "accepted: an address of this machine and a free port (0: any)"
        raise EnvironmentFault(f"{where}: {error.strerror or error}; {accepted}") from None
    return found


def url_of(bound: socket.socket) -> str:
    """The address of a bound socket as a URL."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """Uvicorn with this package's handling of signals; a second SIGINT ends the server at once."""

    def __init__(self, app: FastAPI, settings: ServeSettings, started: Callable[[], None]) -> None:
        """`started` is called when the server has begun to accept connections."""
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            log_level="critical",  # the guard logs failures
            lifespan="off",
            http=connection_of(settings.client_timeout),
            server_header=False,
            timeout_keep_alive=int(max(5, settings.client_timeout)),
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout)),
            backlog=2048,
        )
        super().__init__(config)
        self.signal: signal.Signals | None = None
        self._started_hook = started

    def run_until_signal(self, bound: socket.socket, figures: Figures) -> Interrupted:
        """Answer requests until a signal arrives, and then finish the accepted requests.

        Returns the exception that the caller must raise; it has the exit code for the signal.
        """
        self.run([bound])
        cause, cut_off = self.signal or signal.SIGTERM, figures.cut_off
        ended = f"{plural(cut_off, 'request')} cut off" if cut_off else "every request was answered"
        return Interrupted(f"stopped by {cause.name}: {ended}", EXIT_CODES[cause])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections."""
        await super().startup(sockets)
        if self.started:
            self._started_hook()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Context manager in which signals stop the server."""
        before: dict[signal.Signals, Handler] = {}
        try:
            for number in EXIT_CODES:
                before[number] = signal.signal(number, self._stop)
        except ValueError:  # not in the main thread, as in tests
            pass
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.signal is not None:
            self.force_exit = True
        self.signal = self.signal or signal.Signals(number)
        self.should_exit = True
