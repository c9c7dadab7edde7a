"""A server with OpenAI's chat API that answers by script, and badly when it is told to."""

import json
import random
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fleet.engines.base import Generation
from fleet.engines.config import EngineConfig
from fleet.engines.scripted import ScriptedEngine
from fleet.models import Message

MODEL = "scripted"
LATE_S = 4.0  # longer than the fleet waits for an answer
SHARE = 0.5  # of the requests, while it misbehaves
NONSENSE = ("no JSON", '{"unknown": true}', '{"summary": "cut', "\x00\ufffd\u202e", "[" * 2000)
MODES = ("fails", "hangs", "answers nonsense", "answers late")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that are killed in the middle of a request are what this is for."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Engine:
    """Answers each question the same way. `mode` is "well" or one of `MODES`."""

    def __init__(self, seed: int):
        self.mode = "well"
        self.misbehaved = 0
        self._random, self._scripted = random.Random(seed), ScriptedEngine(EngineConfig(name="scripted"))
        self._over = threading.Event()
        self._modes: dict[str, Callable[[BaseHTTPRequestHandler, str], None]] = {
            "fails": lambda handler, _: _refuse(handler, self._random.choice([500, 502, 503, 429])),
            "hangs": lambda *_: self._sleep(60.0),
            "answers nonsense": lambda handler, _: _say(handler, self._random.choice(NONSENSE)),
            "answers late": self._say_late,
        }
        self._http = Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._over.set()
        self._http.shutdown()
        self._http.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                listed = [{"id": MODEL, "object": "model", "created": 0, "owned_by": "chaos"}]
                _send(self, 200, "application/json", json.dumps({"object": "list", "data": listed}))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    engine._answer(self, body)
                except OSError:
                    self.close_connection = True  # its client was killed

            def log_message(self, format: str, *args: Any) -> None:
                """A line per request would hide the run's own."""

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        text = self._text(body)
        mode = self._modes.get(self.mode)
        if mode is None or self._random.random() > SHARE:
            _say(handler, text)
        else:
            self.misbehaved += 1
            mode(handler, text)

    def _sleep(self, seconds: float) -> None:
        self._over.wait(seconds)

    def _say_late(self, handler: BaseHTTPRequestHandler, text: str) -> None:
        self._sleep(LATE_S)
        _say(handler, text)

    def _text(self, body: dict[str, Any]) -> str:
        messages = tuple(Message(role=one["role"], content=one["content"]) for one in body["messages"])
        schema = body["response_format"]["json_schema"]["schema"]
        return self._scripted.generate(Generation(messages, schema, body["max_tokens"])).text


def _say(handler: BaseHTTPRequestHandler, text: str) -> None:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    event = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
    _send(handler, 200, "text/event-stream", f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n")


def _refuse(handler: BaseHTTPRequestHandler, status: int) -> None:
    error = {"error": {"message": "misbehaves on purpose", "type": "chaos", "code": status}}
    _send(handler, status, "application/json", json.dumps(error))


def _send(handler: BaseHTTPRequestHandler, status: int, content_type: str, text: str) -> None:
    data = text.encode(errors="surrogatepass")
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(data)))
    if status == 429:
        handler.send_header("Retry-After", "1")
    handler.end_headers()
    handler.wfile.write(data)
