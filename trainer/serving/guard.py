"""Guard: checks the key, the limits and the time-outs of every request, and counts requests."""

import asyncio
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from trainer.errors import InputError
from trainer.runs.serve_settings import ServeSettings
from trainer.serving.connection import ABORT
from trainer.serving.faults import RequestFault
from trainer.serving.figures import Figures
from trainer.serving.scheduler import Channel
from trainer.serving.waiting import ClientLeft, Deadline

log = logging.getLogger("trainer")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Scope = MutableMapping[str, Any]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/health", "/ping")
"""The routes that need no key, so that load balancers can use them."""


class SlowClient(Exception):
    """The client has stopped reading its answer."""


class Guard:
    """An ASGI application that wraps and protects another ASGI application."""

    def __init__(
        self, app: App, settings: ServeSettings, key: str | None, figures: Figures
    ) -> None:
        self._app = app
        self._settings = settings
        self._key = None if key is None else key.encode()
        self._figures = figures
        self._incomplete_bytes = 0
        """The number of bytes received so far of bodies that are still incomplete."""
        self.in_progress = 0
        """The number of requests that are being answered."""
        figures.watch("requests_in_work", "Requests that are being answered.", self._count)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._settings)
        channels: list[Channel] = []
        scope.setdefault("state", {}).update(deadline=exchange.deadline, channels=channels)
        started = time.monotonic()
        try:
            await self._answer(scope, exchange)
            if exchange.client_left:
                raise ClientLeft
        except (ClientLeft, SlowClient) as error:
            cause = "client_left" if isinstance(error, ClientLeft) else "slow_client"
            self._figures.given_up.labels(cause).inc()
            exchange.abandon()
        except asyncio.CancelledError:
            self._figures.cut_off += 1
            raise
        finally:
            for channel in channels:
                channel.closed = True
        route = _route_of(scope)
        self._figures.requests.labels(route, str(exchange.status)).inc()
        self._figures.seconds.labels(route).observe(time.monotonic() - started)

    def _count(self) -> float:
        return self.in_progress

    async def _answer(self, scope: Scope, exchange: "_Exchange") -> None:
        """Answer a request, or refuse it. Raises ClientLeft and SlowClient."""
        try:
            self._check(scope)
            if scope["method"] == "POST":
                await self._answer_post(scope, exchange)
            else:
                await self._app(scope, exchange.receive, exchange.send)
        except (ClientLeft, SlowClient):
            raise
        except RequestFault as fault:
            await exchange.refuse(fault)
        except InputError as error:
            await exchange.refuse(RequestFault(400, str(error)))
        except Exception:
            log.exception("serve: %s %s failed", scope["method"], _route_of(scope))
            await exchange.refuse(RequestFault(500, "internal error; the server's log says why"))

    async def _answer_post(self, scope: Scope, exchange: "_Exchange") -> None:
        """Read and answer a POST request, which counts as in progress once its body is complete."""
        try:
            async for size in exchange.read():
                self._incomplete_bytes += size
                if (
                    self._incomplete_bytes
                    > self._settings.max_requests * self._settings.max_body_bytes
                ):
                    raise RequestFault(503, "too many incomplete requests; try again later")
        finally:
            self._incomplete_bytes -= exchange.size
        self._refuse_if_full()
        self.in_progress += 1
        try:
            await self._app(scope, exchange.receive, exchange.send)
        finally:
            self.in_progress -= 1

    def _refuse_if_full(self) -> None:
        if self.in_progress >= self._settings.max_requests:
            most = self._settings.max_requests
            raise RequestFault(429, f"{most} requests are in progress; try again later")

    def _check(self, scope: Mapping[str, Any]) -> None:
        """Raise RequestFault if a request must be refused before its body is read."""
        headers = {name.lower(): value for name, value in scope["headers"]}
        if self._key is not None and scope["path"] not in OPEN:
            scheme, _, sent_key = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(sent_key.strip(), self._key):
                raise RequestFault(401, "wrong or no key; accepted: Authorization: Bearer KEY")
        if scope["method"] != "POST":
            return
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":  # browsers allow any web page to send other types
            shown = kind.decode("latin-1") or "none"
            raise RequestFault(415, f"content-type: found {shown}; accepted: application/json")
        if coding := headers.get(b"content-encoding", b"").strip().lower().decode("latin-1"):
            raise RequestFault(415, f"content-encoding: found {coding:.40}; accepted: none")
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._settings.max_body_bytes:
            raise _too_large(self._settings)
        self._refuse_if_full()


class _Exchange:
    """Receives the body of a request and sends the answer, within limits on size and time."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, settings: ServeSettings) -> None:
        self.status = 0
        self.deadline = Deadline.after(settings.request_timeout)
        self.client_left = False
        """Whether the client closed the connection before the end of the answer."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._settings = settings
        self._body = bytearray()
        self._body_is_read = scope["method"] != "POST"
        self._body_is_passed_on = self._body_is_read
        self._answer_has_begun = self._answer_has_ended = False

    @property
    def size(self) -> int:
        """The number of bytes of the body that have arrived."""
        return len(self._body)

    async def read(self) -> AsyncIterator[int]:
        """Read the body; yields the size of each part. Raises RequestFault and ClientLeft.

        The time limit applies to the whole body, so that no client can keep sending forever.
        """
        limit = self._settings.client_timeout
        end = time.monotonic() + limit
        while not self._body_is_read:
            try:
                message = await asyncio.wait_for(self._receive(), end - time.monotonic())
            except TimeoutError:
                raise RequestFault(408, f"the body was not complete within {limit:g} s") from None
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part = message.get("body", b"")
            self._body += part
            self._body_is_read = not message.get("more_body", False)
            yield len(part)
            if self.size > self._settings.max_body_bytes:
                raise _too_large(self._settings)

    async def receive(self) -> Message:
        """Return the body in the first call; later calls wait for the end of the connection."""
        if not self._body_is_passed_on:
            self._body_is_passed_on = True
            return {"type": "http.request", "body": bytes(self._body), "more_body": False}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.client_left = not self._answer_has_ended
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer. Raises SlowClient if the client does not read."""
        if message["type"] == "http.response.start":
            self._answer_has_begun, self.status = True, message["status"]
        self._answer_has_ended = message["type"] == "http.response.body" and not message.get(
            "more_body"
        )
        try:
            await asyncio.wait_for(self._send(message), self._settings.client_timeout)
        except TimeoutError:
            raise SlowClient from None

    async def refuse(self, fault: RequestFault) -> None:
        """Answer with an error, unless an answer has begun."""
        if self._answer_has_begun:
            return
        is_openai = self._scope["path"].startswith("/v1/")
        headers = dict(fault.headers or {})
        if not self._body_is_read:  # the rest of the body will not be read
            headers["Connection"] = "close"
        if fault.status_code == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body = fault.openai if is_openai else fault.embedding
        response = JSONResponse(body, fault.status_code, headers)
        await response({"type": "http"}, self._receive, self.send)

    def abandon(self) -> None:
        """Close the connection, even if the client has not read everything that was sent."""
        self.status = 499
        abort = self._scope["state"].get(ABORT)
        if abort is not None:
            abort()


def _too_large(settings: ServeSettings) -> RequestFault:
    most = f"{settings.max_body_bytes:,} bytes"
    return RequestFault(413, f"body: larger than {most}; accepted: up to serve.max_body_bytes")


def _route_of(scope: Mapping[str, Any]) -> str:
    """The path of the route, for the metrics; the request's URL path could be any text."""
    route = scope.get("route")
    return str(getattr(route, "path", "unknown"))
