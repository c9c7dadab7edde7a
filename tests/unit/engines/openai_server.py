"""A real HTTP server with OpenAI's chat API, which answers as each test tells it to."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers every POST with `answer`, which finds what was asked in its handler's `asked`; keeps it too."""

    def __init__(self) -> None:
        self.answer: Answer = streams(*completion('{"n": 1}'))
        self.models: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.client_left = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                listed = [{"id": name, "object": "model", "created": 0, "owned_by": "test"} for name in server.models]
                says({"object": "list", "data": listed})(self)

            def do_POST(self) -> None:
                self.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.bodies.append(self.asked)
                server.keys.append(self.headers["Authorization"])
                with contextlib.suppress(ConnectionError):  # its client may leave
                    server.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """Keeps the test's output clean."""

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"

    @contextlib.contextmanager
    def serving(self) -> "Iterator[Server]":
        thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.client_left.set()
            self.http.shutdown()
            thread.join()
            self.http.server_close()

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """Sends a comment every 20 ms until its client is gone: no single read ever times out."""
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        try:
            while not self.client_left.wait(0.02):
                handler.wfile.write(b": still here\n\n")
                handler.wfile.flush()
        except OSError:
            self.client_left.set()


def says(body: Any, status: int = 200, content_type: str = "application/json") -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", content_type)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


def streams(*events: Any) -> Answer:
    """Server-Sent Events, their bytes in two pieces that part a line."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        lines = [": ping", *(f"data: {json.dumps(event, ensure_ascii=False)}" for event in events), "data: [DONE]"]
        data = "".join(f"{line}\n\n" for line in lines).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream; charset=utf-8")
        handler.end_headers()
        for piece in (data[:-30], data[-30:]):
            handler.wfile.write(piece)
            handler.wfile.flush()

    return answer


def chunk(choices: list[Any], **fields: Any) -> dict[str, Any]:
    return {
        "id": "1",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "served-model",
        "choices": choices,
    } | fields


def piece(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return chunk([{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def completion(content: str | None, finish_reason: str = "stop", **message: Any) -> list[dict[str, Any]]:
    """The events of an answer that comes in pieces of three characters."""
    text = content or ""
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    return [
        piece(role="assistant", content=""),
        *(piece(**{name: told}) for name, told in message.items()),
        *(piece(content=text[at : at + 3]) for at in range(0, len(text), 3)),
        piece(finish_reason),
        chunk([], usage=usage),
    ]


def error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "test", "code": None}}
