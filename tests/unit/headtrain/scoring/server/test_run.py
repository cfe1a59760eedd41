"""A server that cannot listen or cannot load its critic says so and ends."""

import os
import signal
import socket
import threading

import pytest

from featurize.errors import CriticError
from featurize.io.interrupts import raises_when_terminated
from headtrain.scoring.critic import Critic
from headtrain.scoring.server.run import Server, is_loopback


def refuse() -> Critic:
    raise ValueError("no such head")


def test_a_critic_that_cannot_be_loaded_ends_the_server() -> None:
    server = Server(refuse, model="m", host="127.0.0.1", port=0)
    assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(ValueError, match="no such head"):
        server.run()
    assert server.listener.fileno() == -1


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CriticError, match=rf"127.0.0.1, port {port}.*--port"):
            Server(refuse, model="m", host="127.0.0.1", port=port)


def test_sigterm_ends_a_server_that_is_still_loading() -> None:
    loading, never = threading.Event(), threading.Event()

    def load() -> Critic:
        loading.set()
        never.wait()
        raise AssertionError

    def end() -> None:
        assert loading.wait(60)
        os.kill(os.getpid(), signal.SIGTERM)

    server = Server(load, model="m", host="127.0.0.1", port=0)
    threading.Thread(target=end).start()
    with raises_when_terminated():
        server.run()
    assert server.service.describe()["requests"] == 0


@pytest.mark.parametrize(
    ("host", "is_here"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.b", False)],
)
def test_only_loopback_addresses_are_this_machine(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here
