"""Runs the application on a socket until SIGTERM or Ctrl-C, and drains it."""

import ipaddress
import socket
import time
from collections.abc import Callable

import uvicorn

from featurize.errors import CriticError
from featurize.io.interrupts import Terminated
from headtrain.scoring.critic import Critic
from headtrain.scoring.server.app import Application, build_app
from headtrain.scoring.server.requests import Context
from headtrain.scoring.server.service import Limits, Service
from headtrain.scoring.texts import TextRules
from headtrain.scoring.verdict import Scale

DRAIN_SECONDS = 180
"""Time for the requests that are open at SIGTERM; OpenRLHF's clients wait as long."""


class Server:
    """A server that listens, and loads its critic when it runs."""

    def __init__(
        self,
        load: Callable[[], Critic],
        *,
        model: str,
        host: str,
        port: int,
        scale: Scale = "logit",
        limits: Limits | None = None,
        rules: TextRules | None = None,
        token: str = "",
    ) -> None:
        """Listen on an address; `port` 0 takes a free one.

        Raises:
            CriticError: the address is taken, or not of this machine.
        """
        self.service = Service(load, scale=scale, limits=limits)
        context = Context(
            model=model, created=int(time.time()), scale=scale, rules=rules or TextRules()
        )
        application = Application(service=self.service, context=context, token=token)
        config = uvicorn.Config(
            build_app(application, self.stop),
            log_level="warning",
            access_log=False,
            ws="none",
            lifespan="on",
            server_header=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
        self._uvicorn = uvicorn.Server(config)
        self.listener = _listen(host, port)

    @property
    def url(self) -> str:
        """Where it listens."""
        host, port = self.listener.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def stop(self) -> None:
        """End `run` from another thread, as SIGTERM does."""
        self._uvicorn.should_exit = True

    def run(self) -> None:
        """Serve until SIGTERM or Ctrl-C; requests that are open are answered first.

        Raises:
            ValueError: the critic cannot be loaded.
        """
        try:
            self._uvicorn.run(sockets=[self.listener])
        except (Terminated, KeyboardInterrupt):
            pass  # uvicorn repeats the signal after it has drained
        finally:
            self.listener.close()
        if self.service.failure is not None:
            raise self.service.failure


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror or error
        raise CriticError(
            f"cannot listen on {host}, port {port}: {reason}; give another --port or --host"
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
