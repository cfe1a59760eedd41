"""A critic's HTTP application in this process, without a socket."""

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2

from headtrain.scoring.critic import Critic
from headtrain.scoring.server.app import Application, build_app
from headtrain.scoring.server.requests import Context
from headtrain.scoring.server.run import Server
from headtrain.scoring.server.service import Limits, Service
from headtrain.scoring.texts import TextRules
from headtrain.scoring.verdict import Scale
from tests.support.processes import wait_until

PATIENCE = 60.0
"""Seconds after which a test that waits has failed."""


class Gate:
    """Holds the batcher until `num_samples` wait, or until it is opened."""

    def __init__(self, num_samples: int = 1 << 30) -> None:
        self.num_samples = num_samples
        self.opened = threading.Event()
        self.service: Service | None = None

    async def __call__(self) -> None:
        assert self.service is not None
        while not self.opened.is_set() and self.service.batcher.num_waiting < self.num_samples:
            await asyncio.sleep(0.001)


@dataclass(frozen=True, kw_only=True)
class RunningApp:
    """An application that has started, and a client of it."""

    app: Any
    service: Service
    client: httpx2.AsyncClient

    async def post(self, path: str, body: Any, **options: Any) -> httpx2.Response:
        return await self.client.post(path, json=body, **options)


@contextlib.asynccontextmanager
async def running_app(
    load: Callable[[], Critic],
    *,
    gate: Gate | None = None,
    scale: Scale = "logit",
    limits: Limits | None = None,
    rules: TextRules | None = None,
    token: str = "",
    waits: bool = True,
) -> AsyncIterator[RunningApp]:
    """Start an application, wait until it is ready, and end it."""
    service = Service(load, scale=scale, limits=limits or Limits(window=0))
    if gate is not None:
        gate.service, service.batcher.gather = service, gate
    context = Context(model="tiny", created=1, scale=scale, rules=rules or TextRules())
    app = build_app(Application(service=service, context=context, token=token), lambda: None)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=app), base_url="http://critic", timeout=PATIENCE
        ) as client,
    ):
        if waits:
            await asyncio.to_thread(wait_until, lambda: service.is_ready)
        try:
            yield RunningApp(app=app, service=service, client=client)
        finally:
            if gate is not None:
                gate.opened.set()


@contextlib.contextmanager
def running(server: Server) -> Iterator[None]:
    """Run a server in a thread; it is ready in the block."""
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.service.is_ready)
    try:
        yield
    finally:
        server.stop()
        thread.join()


class HangingUp:
    """A client that sends a request and goes away when told to, before there is an answer."""

    def __init__(self, app: Any, path: str, body: Any) -> None:
        self._app = app
        self._scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("critic", 80),
            "client": ("test", 1),
            "root_path": "",
        }
        self._body: bytes | None = json.dumps(body).encode()
        self.goes = asyncio.Event()
        self.sent: list[Any] = []

    async def run(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self.goes.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        self.sent.append(message)


def talk(critic: Critic, say: Callable[[RunningApp], Awaitable[Any]], **options: Any) -> Any:
    """Start the application, talk to it, and return what came of it."""

    async def run() -> Any:
        async with running_app(lambda: critic, **options) as app:
            return await say(app)

    return asyncio.run(run())


def ask(critic: Critic, path: str, body: Any, *, status: int = 200, **options: Any) -> Any:
    """Ask once; return the reply's body."""

    async def say(app: RunningApp) -> Any:
        response = await app.post(path, body)
        assert response.status_code == status, response.text
        return response.json()

    return talk(critic, say, **options)


def logits(critic: Critic, prompt: str, outputs: list[str]) -> list[float]:
    return [2.0 * value + 0.5 for value in critic.score(prompt, outputs)]  # make_project's
