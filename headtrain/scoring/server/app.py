"""The HTTP application: routes, limits, authorisation, and errors in one line of JSON."""

import asyncio
import contextlib
import functools
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from headtrain.scoring.server import requests
from headtrain.scoring.server.requests import Answers, Context
from headtrain.scoring.server.service import Service

logger = logging.getLogger(__name__)

CONTRACTS: dict[str, type[requests.Request]] = {
    "/score": requests.ScoreRequest,
    "/rerank": requests.RerankRequest,
    "/v1/rerank": requests.RerankRequest,
    "/get_reward": requests.GetRewardRequest,
    "/rm": requests.RmRequest,
    "/classify": requests.ClassifyRequest,
    "/v1/classify": requests.ClassifyRequest,
    "/v1/embeddings": requests.EmbeddingsRequest,
}

CLIENT_CLOSED = 499
"""Status of a request whose client hung up; it is counted, nobody reads it."""

MOST_EXPLAINED = 1 << 20
"""Bytes of a malformed body that are parsed again to say what is wrong."""

_SECURITY = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        " img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_PAGE = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

Result = TypeVar("Result")
Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, kw_only=True)
class Application:
    """What the handlers share."""

    service: Service
    context: Context
    token: str = ""
    """Bearer token that requests must carry; empty: none."""


def build_app(application: Application, on_failure: Callable[[], None]) -> Starlette:
    """Build the application; `on_failure` is called when the critic cannot be loaded."""
    service = application.service

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        service.start(on_failure)
        yield
        await service.close()

    def guarded(path: str, handler: Callable[..., Any], *arguments: Any) -> Any:
        return _guard(application, path, functools.partial(handler, application, *arguments))

    return Starlette(
        routes=[
            *(Route(path, guarded(path, _answer, kind), methods=["POST"])
              for path, kind in CONTRACTS.items()),
            Route("/metrics", guarded("/metrics", _metrics), methods=["GET"]),
            Route("/v1/models", guarded("/v1/models", _models), methods=["GET"]),
            Route("/health", _health),
            Route("/ready", functools.partial(_ready, application)),
            *(Route(path, functools.partial(_page, name)) for path, name in _PAGE.items()),
        ],
        lifespan=lifespan,
        exception_handlers={HTTPException: _http_error},
    )  # fmt: skip


def _guard(application: Application, path: str, handle: Handler) -> Any:
    """Check the token, turn errors into replies, and count the request."""

    async def guarded(request: Request) -> Response:
        started = time.monotonic()
        response = await _reply(application, request, handle)
        counters = application.service.counters
        counters.add("critic_requests_total", endpoint=path, status=str(response.status_code))
        counters.observe("critic_request_seconds", time.monotonic() - started, endpoint=path)
        return response

    return guarded


async def _reply(application: Application, request: Request, handle: Handler) -> Response:
    try:
        _check_token(application.token, request)
        return await handle(request)
    except HTTPException as error:
        return _error(error.status_code, error.detail, error.headers)
    except ClientDisconnect:
        return _error(CLIENT_CLOSED, "the client hung up")
    except ValueError as error:
        return _error(400, str(error))
    except Exception:  # the last stop: one request must not end the server
        logger.exception("%s failed", request.url.path)
        return _error(500, "a fault of the server; its log has the traceback")


def _check_token(token: str, request: Request) -> None:
    """Compare in constant time, whatever bytes the header holds."""
    given = request.headers.get("authorization", "").encode("latin-1")
    if token and not hmac.compare_digest(given, f"Bearer {token}".encode()):
        detail = "the header 'Authorization: Bearer ...' is missing or holds another token"
        raise HTTPException(401, detail, {"WWW-Authenticate": "Bearer"})


async def _answer(
    application: Application, kind: type[requests.Request], request: Request
) -> Response:
    """Read a request, score its samples while the client waits, and reply."""
    contract = _parse(await _read_body(application.service, request), kind)
    asked = contract.samples(application.context)
    answers = await _unless_gone(request, application.service.judge(asked))
    errors = _errors_of(answers)
    if errors and None not in errors:
        return _json({"error": errors[0], "errors": errors}, 422)
    reply = contract.reply(answers, application.context)
    if errors and isinstance(reply, dict):
        reply["errors"] = errors
    return _json(reply)


def _errors_of(answers: Answers) -> list[str | None]:
    """Say why samples were not scored, null for those that were; nothing if all were."""
    errors = [str(one) if isinstance(one, ValueError) else None for one in answers]
    return errors if any(error is not None for error in errors) else []


async def _read_body(service: Service, request: Request) -> bytes:
    """Read the body within the limits of size and time."""
    limits = service.limits
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, f"the content type is {kind!r}; send application/json")
    too_large = HTTPException(413, f"the request has more than {limits.max_body:,} bytes")
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length) > limits.max_body:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.max_body:
                    raise too_large
    except TimeoutError:
        raise HTTPException(
            408, f"the request did not arrive within {limits.body_seconds:g} s"
        ) from None
    return bytes(body)


def _parse(body: bytes, kind: type[requests.Request]) -> requests.Request:
    """Parse a body; an error names the place in it."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise HTTPException(400, f"the body is not what this endpoint takes: {error}") from None
    except msgspec.DecodeError as error:
        raise HTTPException(400, f"the body is not JSON: {_explain(body, error)}") from None
    except (RecursionError, UnicodeDecodeError) as error:
        raise HTTPException(400, f"the body is not JSON: {error}") from None


def _explain(body: bytes, error: msgspec.DecodeError) -> str:
    """Say what is wrong; msgspec calls a lone surrogate truncated data."""
    if len(body) > MOST_EXPLAINED:
        return str(error)
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as fault:
        surrogate = str(fault.object)[fault.start]
        return f"a text holds the lone surrogate {surrogate!r}, which no UTF-8 text can hold"
    except (ValueError, RecursionError):
        pass
    return str(error)


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Await work, and cancel it when the client hangs up.

    Raises:
        ClientDisconnect: it did.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _metrics(application: Application, _request: Request) -> Response:
    text = application.service.counters.to_text()
    return PlainTextResponse(text, media_type="text/plain; version=0.0.4")


async def _models(application: Application, _request: Request) -> Response:
    context = application.context
    model = {"id": context.model, "object": "model", "created": context.created}
    return _json({"object": "list", "data": [model | {"owned_by": "critic"}]})


async def _health(_request: Request) -> Response:
    return _json({"status": "ok"})


async def _ready(application: Application, _request: Request) -> Response:
    application.service.loaded()
    return _json({"status": "ready"})


async def _page(name: str, _request: Request) -> Response:
    text = files("headtrain.scoring.server").joinpath(name).read_bytes()
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(text, media_type=kind, headers=_SECURITY)


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, error.detail, error.headers)


def _error(status: int, message: str, headers: Any = None) -> Response:
    return _json({"error": message}, status, headers)


def _json(value: Any, status: int = 200, headers: Any = None) -> Response:
    return Response(
        msgspec.json.encode(value), status, dict(headers or {}), media_type="application/json"
    )
