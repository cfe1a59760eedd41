"""A double of the Hugging Face Hub on loopback: repositories, their files, and commits to them."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

TOKEN = "hf_test"


@dataclass
class Hub:
    """Files by repository and path; `me/code@v2` has the files of another revision.

    Private and gated repositories give files only to those with the token.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    gated: set[str] = field(default_factory=set)
    endpoint: str = ""
    downloads: list[str] = field(default_factory=list)


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve a hub until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_of(hub))
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def _handler_of(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            is_api = parts[0] == "api"
            parts = parts[1:] if is_api else parts
            if parts[0] not in ("datasets", "models"):  # files of models have no such prefix
                parts = ["models", *parts]
            repo = "/".join(parts[1:3])
            has_token = TOKEN in self.headers.get("Authorization", "")
            is_refused = repo in hub.private and not has_token
            revision = parts[4] if len(parts) > 4 else "main"
            files = hub.files.get(repo if revision == "main" else f"{repo}@{revision}")
            if is_refused or repo not in hub.files:
                # As the Hub answers: it does not tell a private repository from an absent one.
                headers = {"X-Error-Code": "RepoNotFound"}
                self.answer(401, b'{"error":"Invalid username or password."}', headers)
            elif files is None:
                self.answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            elif is_api:
                self.answer_api(repo, files, parts[3:])
            elif repo in hub.gated and not has_token:
                # As the Hub answers: a gated repository lists its files and gives none.
                self.answer(403, b'{"error":"Access is restricted"}', {"X-Error-Code": "GatedRepo"})
            else:
                self.answer_file(repo, files, "/".join(parts[5:]))

        do_HEAD = do_GET

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = unquote(urlparse(self.path).path).strip("/").split("/")
            if TOKEN not in self.headers.get("Authorization", ""):
                self.answer(401, b'{"error":"Invalid username or password."}')
            elif parts == ["api", "repos", "create"]:
                asked = json.loads(body)
                name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
                hub.files.setdefault(name, {})
                if asked.get("private") or asked.get("visibility") == "private":
                    hub.private.add(name)
                self.answer(200, json.dumps({"url": f"{hub.endpoint}/{name}"}).encode())
            elif parts == ["api", "validate-yaml"]:  # of a card
                self.answer(200, b'{"errors": [], "warnings": []}')
            elif parts[4:5] == ["preupload"]:
                files = [
                    {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for file in json.loads(body)["files"]
                ]
                self.answer(200, json.dumps({"files": files}).encode())
            elif parts[4:5] == ["commit"]:
                self.commit("/".join(parts[2:4]), body)
            else:
                self.answer(404, b"{}")

        def commit(self, repo: str, body: bytes) -> None:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    hub.files[repo][line["value"]["path"]] = content
            about = {"commitUrl": f"{hub.endpoint}/{repo}/commit/1", "commitOid": "1" * 40}
            self.answer(200, json.dumps(about).encode())

        def answer_api(self, repo: str, files: dict[str, bytes], rest: list[str]) -> None:
            if not rest or rest[0] == "revision":
                about = {"id": repo, "sha": "0" * 40, "siblings": [], "tags": []}
                self.answer(200, json.dumps(about).encode())
                return
            folder = "/".join(rest[2:])
            entries = [
                {
                    "type": "file",
                    "path": path,
                    "size": len(content),
                    "oid": hashlib.sha1(content).hexdigest(),
                }
                for path, content in files.items()
                if path.rpartition("/")[0] == folder or "recursive=true" in self.path.lower()
            ]
            folders = {path.partition("/")[0] for path in files if "/" in path}
            entries += [
                {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
                for name in sorted(folders)
                if not folder
            ]
            self.answer(200, json.dumps(entries).encode())

        def answer_file(self, repo: str, files: dict[str, bytes], path: str) -> None:
            content = files.get(path)
            if content is None:
                self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
                return
            etag = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": "0" * 40}
            start, status = 0, 200
            if given := self.headers.get("Range"):
                first, last = given.removeprefix("bytes=").split("-")
                start, status = int(first), 206
                stop = int(last) + 1 if last else len(content)
                etag["Content-Range"] = (
                    f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
                )
                content = content[start:stop]
            if self.command == "GET":
                hub.downloads.append(f"{repo}/{path}")
            self.answer(status, content, etag)

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    return Handler
