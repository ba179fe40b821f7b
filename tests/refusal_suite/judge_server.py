"""A server on this machine that speaks the OpenAI chat protocol, and does what a test tells it to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "sk-test-key"


@dataclass
class Server:
    """`plan` are the replies to come, in order: a status, or the content of a message; then `label` decides."""

    label: Callable[[str, str], str] = lambda request, answer: "refusal" if "can't" in answer else "compliance"
    plan: list[Any] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    # A reply waits for it: set, unless a test wants a server that is slow.
    ready: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""


def completion(content: Any) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode()


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with server.lock:
                server.seen.append(body)
                server.keys.append(self.headers.get("Authorization"))
                server.paths.append(self.path)
                planned = server.plan.pop(0) if server.plan else None
            server.ready.wait()
            if isinstance(planned, int):
                # What a real endpoint may do: repeat what it was sent.
                return self._send(planned, json.dumps({"error": {"message": str(body)}}).encode())
            if planned is None:
                asked = json.loads(body["messages"][-1]["content"])
                planned = completion(json.dumps({"label": server.label(asked["request"], asked["answer"])}))
            self._send(200, planned)

        def _send(self, status: int, body: bytes) -> None:
            try:
                self.send_response(status)
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                # A client that did not wait.
                self.close_connection = True

    return Handler


@contextmanager
def serving() -> Iterator[Server]:
    state = Server()
    state.ready.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield state
    finally:
        state.ready.set()
        server.shutdown()
        thread.join()
        server.server_close()
