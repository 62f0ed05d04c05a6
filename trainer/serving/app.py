"""The application: the routes of a served model, behind the guard that checks requests."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from trainer.errors import nearest
from trainer.runs.serve_settings import ServeSettings
from trainer.serving.faults import RequestFault
from trainer.serving.figures import FORMAT, Figures
from trainer.serving.guard import Guard
from trainer.serving.openai_routes import check_model
from trainer.serving.scheduler import Scheduler

NAME = re.compile(r"(?!(str|int|float|bool)$)[a-z_0-9]+")
"""Matches the names of fields, but not the names of types (list[str], NamedTool) in pydantic's
paths."""


@dataclass(frozen=True)
class Service:
    """A served model: the routes for its task, and the thread that runs it."""

    name: str
    """The name of the model."""
    router: APIRouter
    scheduler: Scheduler
    figures: Figures
    info: Mapping[str, Any]
    """The body of the answer of /info."""


def application(service: Service, settings: ServeSettings, key: str | None) -> FastAPI:
    """Make the application. `key` is the API key that clients must send; None: no key."""
    # the documentation pages would load scripts from the network
    app = FastAPI(title="tempering", docs_url=None, redoc_url=None)
    app.add_exception_handler(RequestValidationError, _wrong_body)
    app.add_exception_handler(HTTPException, _wrong_request)
    app.include_router(service.router)
    app.include_router(_description_routes(service))
    figures, scheduler = service.figures, service.scheduler
    figures.watch("works_waiting", "Parts of requests in the queue.", lambda: scheduler.waiting)
    sentence = "Texts that the model is working on."
    figures.watch("texts_running", sentence, lambda: scheduler.worker.running)
    app.add_middleware(Guard, settings=settings, key=key, figures=figures)  # type: ignore[arg-type]
    return app


def _description_routes(service: Service) -> APIRouter:
    """The routes for the model's description, the server's health and the metrics."""
    router, started = APIRouter(), int(time.time())
    model = {"id": service.name, "object": "model", "created": started, "owned_by": "tempering"}

    async def health() -> Response:
        alive = service.scheduler.alive
        return PlainTextResponse(
            "ok" if alive else "the model's thread has ended", 200 if alive else 503
        )

    for path in ("/health", "/ping"):
        router.add_api_route(path, health, methods=["GET"])
        router.add_api_route(path, health, methods=["HEAD"], include_in_schema=False)

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.figures.text(), media_type=FORMAT)

    @router.get("/info")
    async def info() -> Response:
        return JSONResponse(dict(service.info))

    @router.get("/v1/models")
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": [model]})

    @router.get("/v1/models/{name:path}")
    async def one_model(name: str) -> Response:
        check_model(name, service.name)
        return JSONResponse(model)

    return router


def _wrong_body(request: Request, error: Exception) -> Response:
    """The answer to a request with an invalid body."""
    assert isinstance(error, RequestValidationError)
    return _answer(_first_fault(error.errors(), request), request)


def _first_fault(errors: Sequence[Mapping[str, Any]], request: Request) -> RequestFault:
    """Turn the first of pydantic's errors into a fault with a one-line message."""
    first = errors[0]
    where, kind = _place(first), first["type"]
    if kind == "extra_forbidden":
        return _unknown_field(first["loc"], request)
    if kind == "json_invalid":
        reason = first.get("ctx", {}).get("error", "cut off")
        return RequestFault(400, f"body: not JSON ({reason})")
    if kind == "missing":
        return RequestFault(400, f"{where}: missing", where)
    accepted = [
        str(each["msg"]).removeprefix("Input should be ")
        for each in errors
        if _place(each) == where
    ]
    found = repr(first.get("input"))
    message = f"{where:.80}: found {found:.60}; accepted: {' or '.join(dict.fromkeys(accepted))}"
    return RequestFault(400, message, where)


def _unknown_field(place: Sequence[object], request: Request) -> RequestFault:
    """The fault for a field that the API does not have.

    The field's name may be any text.
    """
    parent, name = _place({"loc": place[:-1]}), str(place[-1])
    where = name if parent == "body" else f"{parent}.{name}"
    shown = where if NAME.fullmatch(name) else repr(where)
    hint = nearest(name, _known_fields(request))
    message = f"{shown:.80}: unknown; accepted: the fields of the API{hint}"
    return RequestFault(400, message, where)


def _place(error: Mapping[str, Any]) -> str:
    """The dotted path of an error, without the types of a union."""
    parts = [part for part in error["loc"] if part != "body"]
    kept = [str(part) for part in parts if isinstance(part, int) or NAME.fullmatch(str(part))]
    return ".".join(kept) or "body"


def _known_fields(request: Request) -> list[str]:
    """The names of the fields in the body that the request's route expects."""
    field = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(field, "field_info", None), "annotation", None)
    return list(getattr(model, "model_fields", {}))


def _wrong_request(request: Request, error: Exception) -> Response:
    """The answer to a request that has no route, or that its route refused."""
    assert isinstance(error, HTTPException)
    if isinstance(error, RequestFault):
        return _answer(error, request)
    line = str(error.detail)
    if error.status_code == 404:
        line = f"{request.method} {request.url.path:.80}: no such route for this model"
    if error.status_code == 405:
        line = f"{request.method} {request.url.path:.80}: not a method of this route"
    fault = RequestFault(error.status_code, line)
    fault.headers = error.headers  # these list the methods of the route
    return _answer(fault, request)


def _answer(fault: RequestFault, request: Request) -> Response:
    is_openai = request.url.path.startswith("/v1/")
    body = fault.openai if is_openai else fault.embedding
    return JSONResponse(body, fault.status_code, dict(fault.headers or {}))
