"""An S3 server on this machine and a connection to it that can be cut."""

import contextlib
import os
import socket
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field

import s3fs
from moto.server import ThreadedMotoServer

BUCKET = "bucket"


@dataclass(kw_only=True)
class Wire:
    """A proxy of the server that can cut connections."""

    port: int  # of the proxy
    server_port: int
    cuts: int = 0  # connections still to cut
    cut_after: int = 0  # bytes to the server that a connection lets through before it is cut
    num_cut: int = 0  # connections cut so far
    _listener: socket.socket = field(repr=False)

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.server_port))
                is_cut = self.cuts > 0
                self.cuts -= is_cut
                self.num_cut += is_cut
                limit = self.cut_after if is_cut else None
                for way in ((client, server, limit), (server, client, None)):
                    threading.Thread(target=_pump, args=way, daemon=True).start()


def _pump(source: socket.socket, target: socket.socket, limit: int | None) -> None:
    """Forward bytes; close both connections after `limit` of them."""
    with contextlib.suppress(OSError):
        while content := source.recv(1 << 16):
            target.sendall(content if limit is None else content[:limit])
            if limit is not None and (limit := limit - len(content)) <= 0:
                break
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def s3_server() -> Iterator[Wire]:
    """Start a server with an empty bucket and point s3fs to it by the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    listener = socket.create_server(("127.0.0.1", 0))
    wire = Wire(
        port=listener.getsockname()[1],
        server_port=server.get_host_and_port()[1],
        _listener=listener,
    )
    threading.Thread(target=wire.serve, daemon=True).start()
    before = dict(os.environ)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        os.environ.pop(name, None)
        os.environ.pop(name.lower(), None)
    os.environ.update(s3_environment(wire))
    s3fs.S3FileSystem.clear_instance_cache()  # of another server
    try:
        _empty(server)
        s3fs.S3FileSystem().mkdir(BUCKET)
        yield wire
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        os.environ.clear()
        os.environ.update(before)
        listener.close()
        server.stop()


def _empty(server: ThreadedMotoServer) -> None:
    """Remove all buckets, which the servers of one process share."""
    host, port = server.get_host_and_port()
    request = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(request, timeout=30).close()


def s3_environment(wire: Wire) -> dict[str, str]:
    """Variables with the address and credentials of the server."""
    return {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{wire.port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
