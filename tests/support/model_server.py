"""A model server on this machine that speaks OpenAI's chat completions, streamed or whole.

The reply to a prompt follows from the prompt alone, so a test knows it: `reply_to`.
"""

import hashlib
import json
import threading
import time
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

REPLY_BYTES = 5_000
_PIECES = 10


def reply_to(prompt: str, size: int = REPLY_BYTES) -> str:
    """Return the model's reply to a prompt: `size` characters that no other prompt gets."""
    word = hashlib.sha256(prompt.encode()).hexdigest()
    return f"{prompt}: {word * (size // len(word) + 1)}"[:size]


class ModelServer:
    """A context manager. `requests` has the times (since the epoch) of the requests by prompt."""

    def __init__(self, *, size: int = REPLY_BYTES, pause: float = 0.0) -> None:
        self.requests: dict[str, list[float]] = defaultdict(list)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(size, pause))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        """The base URL that OpenAI's clients take."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def count(self) -> int:
        """The number of requests so far."""
        return sum(map(len, list(self.requests.values())))

    def _handler(self, size: int, pause: float) -> type[BaseHTTPRequestHandler]:
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers["Content-Length"]))
                if not data:
                    # The client was killed before it had sent all.
                    self.close_connection = True
                    return
                body = json.loads(data)
                prompt = body["messages"][-1]["content"]
                requests[prompt].append(time.time())
                reply = reply_to(prompt, size)
                try:
                    if body.get("stream"):
                        self._stream(reply)
                    else:
                        self._answer({"choices": [{"message": _message(reply)}]})
                except OSError:
                    # The client was killed.
                    self.close_connection = True

            def _answer(self, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def _stream(self, reply: str) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                step = -(-len(reply) // _PIECES)
                for start in range(0, len(reply), step):
                    delta = {"choices": [{"delta": {"content": reply[start : start + step]}}]}
                    self.wfile.write(f"data: {json.dumps(delta)}\n\n".encode())
                    self.wfile.flush()
                    time.sleep(pause / _PIECES)
                self.wfile.write(b"data: [DONE]\n\n")
                self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler


def _message(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}
