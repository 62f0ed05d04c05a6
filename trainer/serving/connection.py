"""Connection: uvicorn's HTTP/1.1 protocol with a time limit for the head of a request."""

import asyncio
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

ABORT = "abort"
"""The key in a request's `state` for the function that closes its connection."""


def connection_of(seconds: float) -> type[H11Protocol]:
    """Make a protocol that waits at most `seconds` for a request's first line and headers."""

    class Connection(H11Protocol):
        """A connection that is closed if a client does not send the head of a request in time."""

        app_state: dict[str, object]  # declared so that types can be checked without uvicorn
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            opened = cast(asyncio.Transport, transport)
            super().connection_made(opened)
            self.app_state = {**self.app_state, ABORT: opened.abort}
            self._timer = self.loop.call_later(seconds, opened.abort)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_timer()
            elif self._timer is None:  # this may be the beginning of another head
                self._timer = self.loop.call_later(seconds, self.transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_timer()
            super().connection_lost(exc)

        def _stop_timer(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    return Connection
